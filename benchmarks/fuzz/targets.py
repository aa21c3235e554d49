"""All fuzzing targets by name."""

from __future__ import annotations

import sys

from benchmarks.fuzz.target import ROOT, Target

sys.path.insert(0, str(ROOT / "tests" / "helpers"))  # samples that the tests read, too

from benchmarks.fuzz import files, text, wire

TARGETS: dict[str, Target] = {
    target.name: target for target in (*wire.TARGETS, *text.TARGETS, *files.TARGETS)
}
