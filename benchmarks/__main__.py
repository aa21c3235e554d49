"""`python -m benchmarks [install | CASE ...]`: the load generator beside its peers.

`python -m benchmarks faults` tries what breaks the kit instead (benchmarks.faults.campaign),
`python -m benchmarks fuzz` feeds its parsers what nobody wrote (benchmarks.fuzz.campaign),
`python -m benchmarks big` packs and asks a study that does not fit into memory (benchmarks.big),
`python -m benchmarks dask` runs trials on eight "machines" (benchmarks.hosts).

Without a case all are run. Results go to benchmarks/results.json as they come, and from there into
the table of benchmarks/README.md; a case that is run again replaces its own, all cases all of them.
"""

from __future__ import annotations

import argparse
import os
import sys

from benchmarks import big, hosts, readme
from benchmarks.cases import CASES
from benchmarks.faults import campaign as faults
from benchmarks.fuzz import campaign as fuzz
from benchmarks.install import install
from benchmarks.results import PATH, Result, Results, summary
from benchmarks.tools import PEERS


def main() -> int:
    if sys.argv[1:2] == ["faults"]:
        return faults.main(sys.argv[2:])
    if sys.argv[1:2] == ["fuzz"]:
        return fuzz.main(sys.argv[2:])
    if sys.argv[1:2] == ["big"]:
        return big.main(sys.argv[2:])
    if sys.argv[1:2] == ["dask"]:
        return hosts.main(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("cases", nargs="*", help=f"install, or some of: {', '.join(CASES)}")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each comparison (3)")
    parser.add_argument("--strict", action="store_true", help="end with 1 if a target is missed")
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
    figures: list[Result] = []
    if not given.cases:
        PATH.unlink(missing_ok=True)  # all are taken anew: none of an older program's is to stay
    for case in given.cases or CASES:
        print(f"\n{case}: {CASES[case].__doc__}", flush=True)
        results = Results()
        CASES[case](results, given.rounds)
        results.write()
        readme.update()
        figures += results.figures
    print(f"\n{summary(figures)}")
    return int(given.strict and any(figure.met is False for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
