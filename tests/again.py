"""Runs the tests that failed beside others once more, alone, and names them.

`make test` runs several tests at a time on machines that others use as well. What fails there and
passes alone measured the machine's load; what fails twice has failed. Failures in more than a few
files are no accident and are not tried again; in one file they may have one cause, such as a server
that did not start for all of its tests.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

LAST_FAILED = Path(__file__).parents[1] / ".pytest_cache/v/cache/lastfailed"
MOST_FILES = 8
#: How pytest ends when tests ran and some failed; interrupted or broken runs stay as they are.
TESTS_FAILED = 1


def main(status: int) -> int:
    """The exit status of the whole, given that of the first run."""
    failed = sorted(json.loads(LAST_FAILED.read_text())) if LAST_FAILED.exists() else []
    files = {name.partition("::")[0] for name in failed}
    if status != TESTS_FAILED or not 0 < len(files) <= MOST_FILES:
        return status
    print(
        f"{len(failed)} failed beside others and run once more, alone:",
        *failed,
        sep="\n  ",
        flush=True,
    )
    again = [sys.executable, "-m", "pytest", "-p", "no:xdist", "--last-failed"]
    return subprocess.run([*again, "--last-failed-no-failures", "none"]).returncode


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
