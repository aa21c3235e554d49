"""Text from elsewhere, cleaned for showing: nothing in it acts, and nothing of it is lost."""

from __future__ import annotations

import doctest
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kit.study.words
from kit.cleaning import clean_text

pytestmark = pytest.mark.filterwarnings("error")


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(kit.study.words).failed == 0
    assert doctest.testmod(kit.study.words).attempted > 0


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b31mred", "\\x9b31mred"),
        ("100 %\r  0 %", "100 %\\x0d  0 %"),
        ("invoice\u202ecod.exe", "invoice\\u202ecod.exe"),
        ("\u2066\u2069\u200f\u061c", "\\u2066\\u2069\\u200f\\u061c"),
        ("a\u2028b", "a\\u2028b"),
        ("half\ud83d", "half\\ud83d"),
        ("tag\U000e0041", "tag\\U000e0041"),
    ],
)
def test_what_would_act_on_a_terminal_or_a_page_is_spelled_out(text: str, shown: str) -> None:
    assert clean_text(text) == shown


@pytest.mark.parametrize("text", ["naïve 模型 \U0001f600", "שלום", "a\tb\nc", "é", "<b>&amp;$x$"])
def test_ordinary_text_of_any_script_stays_as_it_is(text: str) -> None:
    assert clean_text(text) == text


def test_a_cell_of_a_table_keeps_to_one_line() -> None:
    assert clean_text("a\r\nb\tc\nd", lines=False) == "a b c d"


@settings(deadline=None)
@given(st.text(st.characters(), max_size=200))
def test_nothing_that_is_left_is_a_control_or_a_bidi_mark(text: str) -> None:
    shown = clean_text(text)
    shown.encode()  # no half surrogate either
    assert not {c for c in shown if unicodedata.category(c) == "Cc"} - {"\n", "\t"}
    directions = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
    assert directions.isdisjoint(map(unicodedata.bidirectional, shown))
    assert clean_text(shown) == shown
