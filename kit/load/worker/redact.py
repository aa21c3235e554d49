"""Text from a server and the secrets that it was sent in, the text without them out.

A server may repeat in an error what it was sent. Texts on records are clipped before they come
here, so the piece of a secret that a cut has left is taken out as well.
"""

from __future__ import annotations

from collections.abc import Sequence

MARK = "[secret]"
_CUT = "..."
#: A piece shorter than this gives nothing away.
_TELLING = 4


def redacted(text: str, secrets: Sequence[str]) -> str:
    """`text` with each secret, and each piece of one at a cut, replaced by a mark."""
    for secret in secrets:
        text = text.replace(secret, MARK)
        text = _CUT.join(
            _without_head(_without_tail(part, secret), secret) for part in text.split(_CUT)
        )
    return text


def _without_tail(part: str, secret: str) -> str:
    """`part` without the longest beginning of `secret` that it ends with."""
    for length in range(len(secret) - 1, _TELLING - 1, -1):
        if part.endswith(secret[:length]):
            return part[:-length] + MARK
    return part


def _without_head(part: str, secret: str) -> str:
    """`part` without the longest end of `secret` that it begins with."""
    for length in range(len(secret) - 1, _TELLING - 1, -1):
        if part.startswith(secret[-length:]):
            return MARK + part[length:]
    return part
