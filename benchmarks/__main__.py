"""`python -m benchmarks [install | CASE ...]`: the load generator beside its peers.

Without a case all are run. Results go to benchmarks/results.json as they come; a case that is run
again replaces its own.
"""

from __future__ import annotations

import argparse
import os
import sys

from benchmarks.cases import CASES
from benchmarks.results import Results
from benchmarks.tools import PEERS, install


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("cases", nargs="*", help=f"install, or some of: {', '.join(CASES)}")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each comparison (3)")
    given = parser.parse_args()
    if given.cases == ["install"]:
        install()
        for peer in PEERS.values():
            print(f"{peer.name:16} {peer.version() or 'missing'}")
        return 0
    unknown = [case for case in given.cases if case not in CASES]
    if unknown:
        parser.error(f"no case {', '.join(unknown)}; known: {', '.join(CASES)}")
    if len(os.sched_getaffinity(0)) < 2:
        parser.error("the client and its source need a core each; this machine gives one")
    failed = False
    for case in given.cases or CASES:
        print(f"\n{case}: {CASES[case].__doc__}", flush=True)
        results = Results()
        CASES[case](results, given.rounds)
        results.write()
        failed = failed or any(figure.met is False for figure in results.figures)
    if failed:
        print("\nSome targets are not met; see above.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
