"""Adapts a matplotlib SVG to the page's light or dark theme."""

from __future__ import annotations

import re
from collections import Counter

from matplotlib.colors import to_hex, to_rgb

from kit.plots.style import COLOURS, DEATH, FAINT, GRID, INK


def themed(svg: str, *, prefix: str) -> str:
    """The SVG for use inside a page: no header, ids of its own, colours as CSS variables."""
    body = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    safe = re.sub(r"[^a-zA-Z0-9_-]", "-", prefix)
    seen: Counter[str] = Counter()

    def named(found: re.Match[str]) -> str:
        """Several marks may have one name (matplotlib's gid); as ids only the first has it."""
        name = _word(found[1])
        seen[name] += 1
        return f'id="{safe}-{name}"' if seen[name] == 1 else f'id="{safe}-{name}-{seen[name]}"'

    body = re.sub(r'\bid="([^"]*)"', named, body)
    body = re.sub(r"url\(#([^)]*)\)", lambda m: f"url(#{safe}-{_word(m[1])})", body)
    body = re.sub(r'xlink:href="#([^"]*)"', lambda m: f'xlink:href="#{safe}-{_word(m[1])}"', body)
    for shade, (variable, _) in THEMED.items():
        body = body.replace(shade, f"var({variable})")
    return re.sub(r"<svg ", '<svg role="img" ', body, count=1)


def _word(identity: str) -> str:
    return re.sub(r"\s+", "_", identity)


def _lighter(shade: str) -> str:
    """A release's colour for a dark page: a third of the way to white."""
    red, green, blue = (c + (1 - c) / 3 for c in to_rgb(shade))
    return to_hex((red, green, blue))


#: Colours that change with the reader's theme: CSS variable, and its value in the dark. The ink
#: of the figures is the ink of the page, and white outlines of marks are the page's background.
THEMED = {
    INK: ("--ink", "#e6edf3"),
    FAINT: ("--faint", "#9aa4ae"),
    GRID: ("--grid", "#363c44"),
    "#ffffff": ("--page", "#16191d"),
    **{shade: (f"--c{shade[1:]}", _lighter(shade)) for shade in [*COLOURS.values(), DEATH]},
}
