"""Words for numbers and lists, and aligned columns: how the kit writes for people."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from itertools import groupby


def listing(words: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def ranges(chosen: Iterable[str], line: Sequence[str]) -> str:
    """Releases with runs along `line` drawn together: "23.10 and 24.08–24.10".

    A name of more than one word, as of a hybrid, is no release and always stands alone.
    """
    members = set(chosen)

    def part(name: str) -> str | bool:
        return name in members and (name if " " in name else True)

    runs = [list(run) for inside, run in groupby(line, part) if inside]
    words = [word for run in runs for word in ([f"{run[0]}–{run[-1]}"] if len(run) > 2 else run)]
    return listing(words)


def in_lines(text: str, width: int = 80, *, first: str = "", rest: str = "") -> list[str]:
    """A paragraph in lines of at most `width` characters; no name breaks, at its hyphen either.

    first, rest: what the first line and all others begin with.

    >>> in_lines("Under cancel-race, 24.10 died.", 14)
    ['Under', 'cancel-race,', '24.10 died.']
    """
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def paragraph(text: str, *, first: str = "", rest: str = "") -> str:
    """The text as a terminal of 80 columns shows it; as in_lines."""
    return "\n".join(in_lines(text, first=first, rest=rest))


def milliseconds(value: float) -> str:
    """A latency for people: "48 ms", "1.2 s", "never"."""
    if math.isinf(value):
        return "never"
    if value >= 1000:
        return f"{value / 1000:.2g} s" if value < 10_000 else f"{value / 1000:.0f} s"
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"


def percent(fraction: float) -> str:
    """A share for people: "47 %"; what is neither nothing nor all is not rounded to it."""
    if 0 < fraction < 0.005:
        return "under 1 %" if fraction >= 0.001 else "under 0.1 %"
    if 0.995 < fraction < 1:
        return "over 99 %"
    return f"{100 * fraction:.0f} %"


def aligned(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Left-aligned columns under a header and a rule."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    padded = ((text.ljust(w) for text, w in zip(line, widths, strict=True)) for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in padded)


def numbers_in_order(name: str) -> list[tuple[bool, int, str]]:
    """A key to sort names by, in which the numbers that they hold count as numbers.

    >>> sorted(["trial_c16", "trial_c4"], key=numbers_in_order)
    ['trial_c4', 'trial_c16']
    """
    parts = re.split(r"([0-9]{1,18})", name)
    return [(bool(n % 2), int(part) if n % 2 else 0, part) for n, part in enumerate(parts)]


def provenance(
    *,
    source: str,
    run: str,
    triton: Iterable[str] = (),
    engines: Iterable[str] = (),
    kit: str | None = None,
    hosts: str = "",
) -> str:
    """One line of where data come from: "live · run first-light · Triton 2.39.0 · …".

    source: "live" or "recorded". Engines are named as they are; a simulated one says so.
    hosts: kit.study.hosts.hosts_words of its trials.
    """
    parts = [source, f"run {run}"]
    versions, kinds = list(dict.fromkeys(triton)), list(dict.fromkeys(engines))
    if versions:
        shown = versions if len(versions) <= 4 else [versions[0], "…", versions[-1]]
        parts.append(f"real Triton {', '.join(shown)}")
    if kinds:
        parts.append(f"engine {', '.join(kinds)}")
    if kit:
        parts.append(f"kit {kit}")
    if hosts:
        parts.append(hosts)
    return " · ".join(parts)
