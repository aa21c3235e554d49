"""Take secrets out of a server's text, in every form in which servers echo them.

A server may repeat in an error what it was sent. Texts on records are clipped before they come
here, so the piece of a secret that a cut has left is taken out as well.
"""

from __future__ import annotations

import base64
import binascii
import html
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import quote, quote_plus, unquote

MARK = "[secret]"
_CUT = "..."
#: A piece shorter than this gives nothing away.
_TELLING = 4


def forms(values: Iterable[str]) -> tuple[str, ...]:
    """Header values that are secret, and each form in which they may come back, longest first.

    The word in front of an Authorization header's secret, the names of cookies and the user's
    name in front of a password are no part of the secret; percent-encoding, JSON's and HTML's
    escapes and base64 hide none of it.

    Example:
        >>> "hunter2/x" in forms(["Basic dTpodW50ZXIyL3g="])
        True
    """
    bare = {part for value in values for part in _parts(value) if len(part) >= _TELLING}
    written = {form for part in bare for form in _written(part)}
    return tuple(sorted(written, key=lambda form: (-len(form), form)))


def _parts(value: str) -> Iterator[str]:
    """A header's value and what in it is secret by itself."""
    yield value
    scheme, space, rest = value.partition(" ")
    if space and re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", scheme):
        yield rest
        with_user = _decoded(rest)
        if with_user:
            yield with_user
            yield with_user.partition(":")[2]
    for cookie in value.split(";"):
        name, equals, content = cookie.strip().partition("=")
        if equals and content and re.fullmatch(r"[\w.-]+", name):
            yield content.strip('"')
            yield unquote(content.strip('"'))


def _decoded(text: str) -> str:
    """ "user:password" of a Basic header's base64; "" where it is none."""
    try:
        found = base64.b64decode(text, validate=True).decode()
    except (binascii.Error, ValueError):
        return ""
    return found if ":" in found and found.isprintable() else ""


def _written(secret: str) -> Iterator[str]:
    """The ways in which texts hold it."""
    yield secret
    for safe in ("/", ""):
        yield quote(secret, safe=safe)
        yield quote(secret, safe=safe).lower()
        yield quote_plus(secret, safe=safe)
    for ascii_only in (True, False):
        escaped = json.dumps(secret, ensure_ascii=ascii_only)[1:-1]
        yield escaped
        yield escaped.replace("/", "\\/")
        yield re.sub(r"[<>&'/]", lambda m: f"\\u{ord(m[0]):04x}", escaped)
    yield html.escape(secret)
    yield repr(secret)[1:-1]
    data = secret.encode()
    for encoded in (base64.b64encode(data), base64.urlsafe_b64encode(data)):
        yield encoded.decode().rstrip("=")
    yield data.hex()


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
