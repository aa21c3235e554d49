"""One target under atheris: `python -m benchmarks.fuzz.one MODULE TARGET [libFuzzer's options]`.

Runs in the environment of atheris's own that benchmarks.fuzz.campaign makes, with the kit's
packages on the path.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: Sequence[str]) -> None:
    module, name, *options = arguments
    sys.path.insert(0, str(ROOT / "tests" / "helpers"))
    # The kit's code is counted, and hpack's, which is Python too; what is C is not.
    with atheris.instrument_imports(include=["kit", "hpack"]):
        targets = importlib.import_module(module).TARGETS
        target = next(one for one in targets if one.name == name)
        for seed in target.seeds():  # what is imported when it is first used
            try:
                target.check(seed)
            except Exception:  # noqa: BLE001 - it is one of the inputs, and found again
                continue
    atheris.Setup([sys.argv[0], *options], target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
