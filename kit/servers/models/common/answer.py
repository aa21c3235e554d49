"""The text that the kit's models must answer with, so that a client can check it.

A prompt starts with a nonce word, `[n:<hex>]`. The answer is

    the prompt, unchanged (unless the request excludes it), then exactly n continuation tokens;
    token i, counted from 0, is the text ` <hex>:<i>`, with the nonce's digits as they came.

So every token names its request and its place: a token of another request, a lost one, a
doubled one or one out of order can be seen from outside. A prompt without a nonce continues
with the eight hexadecimal digits of the CRC-32 of its UTF-8 text.

Streamed, each response carries one token, and the first also the echo before it. One token is
one word, in prompts too, as far as their length is counted.
"""

from __future__ import annotations

import re
from zlib import crc32

NONCE = re.compile(r"\[n:([0-9a-fA-F]+)\](?:\s|$)")


def nonce_of(prompt: str) -> str:
    """The digits that every continuation token of this prompt carries."""
    match = NONCE.match(prompt)
    return match.group(1) if match else f"{crc32(prompt.encode()):08x}"


def token(nonce: str, index: int) -> str:
    """Continuation token `index`, with the space before it."""
    return f" {nonce}:{index}"


def continuation(prompt: str, tokens: int) -> str:
    """All that follows the echoed prompt."""
    nonce = nonce_of(prompt)
    return "".join(token(nonce, index) for index in range(tokens))


def prompt_tokens(prompt: str) -> int:
    """Length of a prompt; an empty one still has its begin-of-text token."""
    return max(1, len(prompt.split()))
