"""Colour, marker and dashes of each release: the same in every plot.

Also the style sheet, and the place of the footnote that says where a picture's data come from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from kit.cleaning import clean_text
from kit.study.hybrids import hybrid_parts, is_hybrid
from kit.study.releases import place_in_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.typing import ColorType

STYLE = Path(__file__).with_name("kit.mplstyle")

#: Text, secondary text and grid lines, as in the style sheet. The report replaces them in its
#: figures by CSS variables, so that they follow the reader's light or dark theme.
INK, FAINT, GRID = "#1f2328", "#6e7781", "#d8dee4"

#: The mark of a death, wherever it is not in the colour of a release.
DEATH = "#c3451a"

#: One colour a release. Chosen by greedy maximin over OKLab distance as seen with full colour
#: vision, protanopia and deuteranopia (Machado et al. 2009), the embedded releases first, among
#: colours with a contrast of 3:1 on white and 2.1:1 on #1a1a1a; tests/plots/test_pictures.py
#: checks that.
#: Forty-odd colours cannot all be told apart: markers and dashes cycle beside them, and lines carry
#: their names.
COLOURS = {
    **{"23.04": "#a64450", "23.05": "#608e5c", "23.06": "#528ed9", "23.07": "#793b82"},
    **{"23.08": "#5a76e4", "23.09": "#a9719a", "23.10": "#c3451a", "23.11": "#9a5e81"},
    **{"23.12": "#0843be", "24.01": "#a21c10", "24.02": "#e1595a", "24.03": "#549cc0"},
    **{"24.04": "#0867a9", "24.05": "#0c82bf", "24.06": "#2864e0", "24.07": "#739d8f"},
    **{"24.08": "#e7740f", "24.09": "#ad74ff", "24.10": "#9c1854", "24.11": "#475411"},
    **{"24.12": "#7b5181", "25.01": "#d55c13", "25.02": "#a25e63", "25.03": "#294e99"},
    **{"25.04": "#dc747e", "25.05": "#2a5cc2", "25.06": "#29555c", "25.07": "#896ca4"},
    **{"25.08": "#af2933", "25.09": "#cb77b5", "25.10": "#c43e43", "25.11": "#b96dd8"},
    **{"25.12": "#34a36c", "26.01": "#af0e6e", "26.02": "#997483", "26.03": "#3471ee"},
    **{"26.04": "#356794", "26.05": "#446cba", "26.06": "#0191ed", "26.07": "#a11738"},
    **{"26.08": "#e6653d", "26.09": "#4f7f1c", "26.10": "#8a6d00", "26.11": "#0f8a86"},
}
#: Cells of one release, such as concurrencies: apart in grey, and for every eye.
CELL_COLOURS = ("#0843be", "#e7740f", "#475411", "#cb77b5", "#549cc0", "#5a76e4")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
DASHES = ("-", "--", "-.", (0, (1, 1)))


def colour(release: str) -> str:
    """The release's colour, of a hybrid that of its frontends; grey for one that the kit does not
    know (an attached server)."""
    if (parts := hybrid_parts(release)) is not None:
        release = parts[0]
    return COLOURS.get(release, "#6b6b6b")


def marker(release: str) -> str:
    return MARKERS[place_in_line(release) % len(MARKERS)]


def dashes(release: str) -> str | tuple[int, tuple[int, int]]:
    if is_hybrid(release):
        return DASHES[-1]
    return DASHES[place_in_line(release) % len(DASHES)]


def spread(
    positions: Sequence[float], gap: float, low: float = -math.inf, high: float = math.inf
) -> list[float]:
    """The positions moved apart until neighbours are `gap` away, kept in order and in bounds."""
    order = sorted(range(len(positions)), key=positions.__getitem__)
    placed = [positions[i] for i in order]
    for _ in range(300):
        for i, (a, b) in enumerate(pairwise(list(placed))):
            short = gap - (b - a)
            if short > 0:
                placed[i] -= short / 2
                placed[i + 1] += short / 2
        placed = [min(max(y, low), high) for y in placed]
    for i in range(1, len(placed)):  # what a bound squeezed together
        placed[i] = max(placed[i], placed[i - 1] + gap)
    moved = dict(zip(order, placed, strict=True))
    return [moved[i] for i in range(len(positions))]


def contrast(a: ColorType, b: ColorType) -> float:
    """Contrast ratio of two colours as the WCAG defines it, 1 to 21."""
    lighter, darker = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(shade: ColorType) -> float:
    from matplotlib.colors import to_rgb

    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(shade)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def requests_axis(ax: Axes, furthest: float) -> None:
    """A logarithmic x axis over completed requests on which 0 has a place of its own."""
    ax.set_xscale("symlog", linthresh=1, linscale=0.35)
    powers = [10**k for k in range(7) if 10**k <= furthest]
    ax.set_xticks([0, *powers], ["0", *(f"{p:,}" for p in powers)])
    ax.set_xticks([], minor=True)
    ax.set_xlim(-0.25, max(2.0, furthest) * 1.6)


def clean_texts(figure: Figure) -> None:
    """Spell out what is invisible in the figure's texts: names come from folders and servers."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        shown = text.get_text()
        if (cleaned := clean_text(shown)) != shown:
            text.set_text(cleaned)


def footnote(figure: Figure, text: str) -> None:
    """`text` small beneath the whole figure."""
    figure.supxlabel(text, fontsize=7.5, color=FAINT, x=0.01, ha="left")
