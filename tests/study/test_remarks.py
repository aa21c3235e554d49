"""What a run remarked of itself, in its study's folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kit.study.remarks import FILE, MOST_BYTES, Remarks, read_remarks


def test_the_last_runs_remarks_are_there_and_no_earlier_ones(tmp_path: Path) -> None:
    assert read_remarks(tmp_path) == ()
    first = Remarks(tmp_path)
    first.keep(())
    assert not (tmp_path / FILE).exists()
    first.keep(("a", "b"))
    assert read_remarks(tmp_path) == ("a", "b")
    Remarks(tmp_path)
    assert read_remarks(tmp_path) == ()


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_text('{"a": 1}'),
        lambda path: path.write_bytes(b'["\xff"]'),
        lambda path: path.write_text("[" * 100_000),
        lambda path: path.write_text('["' + "x" * MOST_BYTES + '"]'),
        os.mkfifo,
        lambda path: path.symlink_to("/dev/zero"),
        os.mkdir,
    ],
)
def test_what_is_no_list_of_remarks_is_passed_over(
    tmp_path: Path, make: Callable[[Path], object]
) -> None:
    make(tmp_path / FILE)
    assert read_remarks(tmp_path) == ()
