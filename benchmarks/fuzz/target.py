"""What a fuzzing target is: a parser, bytes to begin with, and what must hold for any others.

A target takes any bytes and returns None. An exception that it lets out is a finding: an error
that the kit does not name, a broken promise (`AssertionError`), or an input that takes too long.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from kit.cleaning import clean_text
from kit.errors import KitError

ROOT = Path(__file__).resolve().parents[2]
#: Processor time that no input of a target's size may take, instrumented and on a slow machine.
SLOWEST_S = 5.0
#: A seed or a kept input that is larger than this teaches a fuzzer little and slows it down.
LARGEST_BYTES = 16_384
#: JSON so deep that Python's parsers give up.
DEEP = b'{"a":' + b"[" * 3000 + b"]" * 3000 + b"}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One parser.

    reads: what it reads, for the table. seeds: bytes that are mostly right, from the tests' own
    samples. words: what its format is made of, which a fuzzer would guess late.
    """

    name: str
    reads: str
    check: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    words: tuple[bytes, ...] = ()
    largest_bytes: int = LARGEST_BYTES

    def run(self, data: bytes) -> None:
        """Try one input.

        Raises:
            AssertionError: it took too long, or a promise is broken; anything else: an error
                that is none of the kit's.
        """
        began = time.thread_time()
        self.check(data)
        took_s = time.thread_time() - began
        assert took_s < SLOWEST_S, f"{took_s:.1f} s for {len(data)} bytes"


class Drawn:
    """Choices drawn from the first bytes of an input; the rest of it is what is parsed.

    >>> drawn = Drawn(b"\\x05\\x01rest")
    >>> drawn.below(3), drawn.below(2), drawn.rest
    (2, 1, b'rest')
    """

    def __init__(self, data: bytes) -> None:
        self.rest = data

    def below(self, count: int) -> int:
        """A number from 0 to count - 1; 0 where nothing is left."""
        first, self.rest = self.rest[:1], self.rest[1:]
        return first[0] % count if first else 0

    def half(self) -> tuple[bytes, bytes]:
        """The rest as two inputs; two bytes say how long the first one is."""
        size = int.from_bytes(self.rest[:2], "big")
        return self.rest[2 : 2 + size], self.rest[2 + size :]


def halves(first: bytes, second: bytes) -> bytes:
    """What `Drawn.half` takes apart."""
    return len(first).to_bytes(2, "big") + first + second


def cut(data: bytes, seed: int) -> list[bytes]:
    """The same bytes in pieces, as a network may deliver them; 0: in pieces of one byte."""
    if seed == 0:
        return [data[at : at + 1] for at in range(len(data))]
    rng = random.Random(seed)
    places = {rng.randrange(len(data) + 1) for _ in range(rng.randrange(1, 9))}
    return [data[a:b] for a, b in pairwise(sorted({0, len(data), *places}))]


def is_named(error: KitError) -> None:
    """The kit's own error says what it should, and is safe to show."""
    assert str(error) == clean_text(str(error)), "an error that is not clean"
    assert error.given, "an error that does not say what was given"
    assert error.expected, "an error that does not say what was expected"
