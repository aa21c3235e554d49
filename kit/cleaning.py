"""Cleans text for the moment when it is shown: in a terminal, a page, a figure, an error.

Text of a server, a log, a folder or a person is kept as it came and cleaned where it is shown.
"""

from __future__ import annotations

import re
from html import escape

#: What changes how a terminal or a page shows the text around it: C0 controls but tab and newline,
#: DEL and C1; marks, embeddings and isolates of bidirectional text (Unicode TR 9); separators of
#: lines and paragraphs; characters without width; tags; half a surrogate pair.
_UNSHOWABLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    r"\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def clean_text(text: str, *, lines: bool = True) -> str:
    """Text of a server, a log, a file or a person, safe to show: what is invisible is spelled out.

    Call it where text is shown (terminal, HTML, Markdown, figure), once, and not where it is kept.
    A character that could move a cursor, change colours, ring, hide or turn the text around it
    becomes its escape in Python's spelling: nothing is dropped, and the whole is valid UTF-8.
    Markup is not touched: escape it for the format that the text goes into, afterwards.

    lines: keep newlines and tabs ("\\r\\n" as "\\n"); False: each becomes one space, for a cell
    of a table or a title.

    >>> clean_text("\\x1b[31mred\\u202e")
    '\\\\x1b[31mred\\\\u202e'
    >>> clean_text("a\\r\\nb", lines=False)
    'a b'
    """
    text = text.replace("\r\n", "\n")
    if not lines:
        text = text.replace("\n", " ").replace("\t", " ")
    return _UNSHOWABLE.sub(_spelled_out, text)


def _spelled_out(found: re.Match[str]) -> str:
    code = ord(found[0])
    return (
        f"\\x{code:02x}"
        if code < 0x100
        else f"\\u{code:04x}"
        if code < 0x10000
        else f"\\U{code:08x}"
    )


def safe_html(text: str, *, lines: bool = True) -> str:
    """The same as HTML: nothing in it is markup.

    >>> safe_html("<b>\\x1b")
    '&lt;b&gt;\\\\x1b'
    """
    return escape(clean_text(text, lines=lines))


def clean_json(document: bytes) -> str:
    """A JSON document for a terminal: the same data, its invisible characters spelled out.

    >>> clean_json('["\\u202e"]'.encode())
    '["\\\\u202e"]'
    """
    return _UNSHOWABLE.sub(_as_json, document.decode())


def _as_json(found: re.Match[str]) -> str:
    """Outside of strings JSON has none of them, inside this is how it spells them."""
    units = found[0].encode("utf-16-be")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
