"""Secrets do not get into records, not even in pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kit.load.answers import clipped
from kit.load.worker.redact import redacted

SECRET = "0sesame1open2says3me4"


@given(st.text(alphabet="abc ", max_size=600), st.text(alphabet="abc ", max_size=600))
def test_no_telling_piece_of_a_secret_is_left_wherever_the_text_was_cut(
    before: str, after: str
) -> None:
    seen = redacted(clipped(before + SECRET + after) or "", [SECRET])
    pieces = {SECRET[at : at + 4] for at in range(len(SECRET) - 3)}
    assert not any(piece in seen for piece in pieces)


def test_other_text_stays_as_it_is() -> None:
    assert redacted("nothing of it... here", [SECRET]) == "nothing of it... here"
