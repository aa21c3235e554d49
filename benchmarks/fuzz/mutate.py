"""Changes inputs at random, for the short run of every target that needs no atheris."""

from __future__ import annotations

import random
from collections.abc import Sequence

_TELLING = (
    b"\0",
    b"\xff",
    b"\n",
    b"\r\n",
    b'"',
    b"\\",
    b"{",
    b"[",
    b"9" * 25,
    b"-1",
    b"\xed\xa0\x80",
)


def mutated(rng: random.Random, seeds: Sequence[bytes], words: Sequence[bytes], most: int) -> bytes:
    """One of the seeds after some changes; at most `most` bytes."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((1, 2, 8, 64)))
        match rng.randrange(6):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                del data[at:end]
            case 2:
                data[at:at] = rng.choice((*_TELLING, *words))
            case 3:
                data[at:end] = rng.randbytes(end - at)
            case 4:
                data[at:at] = data[at:end] * rng.choice((1, 3, 30))
            case _:
                other = rng.choice(seeds)
                begin = rng.randrange(len(other) + 1)
                data[at:end] = other[begin : begin + rng.choice((4, 32, 256))]
    return bytes(data[:most])
