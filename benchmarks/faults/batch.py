"""One batch of faults in a process of its own: `python -m benchmarks.faults.batch GROUP SEED DIR`.

Prints one JSON list: [kind, problem] a fault, problem "" where all was well. A batch that dies or
hangs is a finding by itself, so the campaign runs each in a child.
"""

from __future__ import annotations

import json
import random
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))  # servers and studies made for tests

#: What came of one fault: its kind, and what was wrong afterwards ("": nothing).
Fault = tuple[str, str]
Group = Callable[[random.Random, Path], list[Fault]]


def groups() -> dict[str, Group]:
    """All groups of faults by name."""
    from benchmarks.faults import (
        clocks,
        commands,
        leftovers,
        pages,
        pairs,
        processes,
        readers,
        resources,
        servers,
        studies,
        wheels,
    )

    return {
        "http": servers.http,
        "grpc": servers.grpc,
        "raw": servers.raw,
        "metrics": servers.metrics,
        "folders": readers.folders,
        "logs": readers.logs,
        "specs": readers.specs,
        "registers": leftovers.registers,
        "guards": leftovers.guards,
        "workers": processes.workers,
        "trials": processes.trials,
        "disks": resources.disks,
        "limits": resources.limits,
        "clocks": clocks.clocks,
        "wheels": wheels.wheels,
        "studies": studies.studies,
        "short": studies.short,
        "inputs": commands.inputs,
        "pairs": pairs.pairs,
        "pages": pages.pages,
        "notebooks": pages.notebooks,
        "strikes": commands.strikes,
        "foreigners": commands.foreigners,
    }


def main() -> int:
    name, seed, folder = sys.argv[1:]
    warnings.simplefilter("ignore")  # that a file is damaged is looked up, not read here
    print(json.dumps(groups()[name](random.Random(seed), Path(folder))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
