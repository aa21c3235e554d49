"""Values as JSON can have them."""

from __future__ import annotations

import doctest
import json

import numpy as np

from kit.study import encoding
from kit.study.encoding import plain


def test_the_examples_are_true() -> None:
    assert doctest.testmod(encoding).failed == 0
    assert doctest.testmod(encoding).attempted > 0


def test_whatever_a_table_holds_becomes_strict_json() -> None:
    row = {"n": np.int64(3), "ms": np.float64("inf"), "low": float("nan"), "of": (np.bool_(True),)}
    text = json.dumps(plain(row), allow_nan=False)
    assert json.loads(text) == {"n": 3, "ms": "inf", "low": None, "of": [True]}
