"""Runs the tests that failed beside others once more, alone, and names them.

`make test` runs two tests at a time on machines that others use as well. What fails there and
passes alone measured the machine's load; what fails twice has failed. More than a few at once are
no accident and are not tried again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

LAST_FAILED = Path(__file__).parents[1] / ".pytest_cache/v/cache/lastfailed"
MOST = 8
#: How pytest ends when tests ran and some failed; interrupted or broken runs stay as they are.
TESTS_FAILED = 1


def main(status: int) -> int:
    """The exit status of the whole, given that of the first run."""
    failed = sorted(json.loads(LAST_FAILED.read_text())) if LAST_FAILED.exists() else []
    if status != TESTS_FAILED or not 0 < len(failed) <= MOST:
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
