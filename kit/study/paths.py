"""Where the checkout keeps what the kit reads at run time, as absolute paths.

The kit is used from its checkout (`pip install --editable .`): catalogs, prompts and recorded
studies lie in `data/` beside the package, Triton's models inside it.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "data"
#: Recorded studies that came with the checkout, one folder each.
RECORDED = DATA / "recorded"
NOTEBOOKS = ROOT / "notebooks"
#: Triton models that embedded servers serve; they import nothing of the kit.
MODELS = ROOT / "kit" / "servers" / "models"
