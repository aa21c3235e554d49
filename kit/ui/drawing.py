"""Draws one plot for a person: on given axes or on a figure of its own, in the kit's style.

The figure is pyplot's, so that a notebook shows it at the end of the cell and `plt.show()` shows
it in a script. Global rcParams stay as they are.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kit.cleaning import safe_html
from kit.plots.style import STYLE, clean_texts, footnote
from kit.study.words import in_lines

WIDTH_IN = 7.2
#: Characters of a footnote that fit into an inch.
NOTE_CHARACTERS = 17


class ShownAxes(Axes):
    """Axes whose figure appears once, whether or not they are the last line of a cell."""

    def _ipython_display_(self) -> None:
        """The cell that made the figure shows it when it ends; a later one is shown it here."""
        figure = self.get_figure(root=True)
        assert figure is not None
        if not plt.fignum_exists(getattr(figure, "number", -1)):
            from IPython.display import display

            display(figure)  # type: ignore[no-untyped-call]


def draw(
    plot: Callable[[Axes], object],
    *,
    note: str,
    height_in: float,
    width_in: float = WIDTH_IN,
    ax: Axes | None = None,
) -> Axes:
    """Call `plot` with axes in the kit's style, put `note` beneath the figure; the axes.

    ax: where to draw; None: on a new figure of that size.
    """
    with _kit_style():
        if ax is None:
            figure = plt.figure(figsize=(width_in, height_in), layout="constrained")
            ax = figure.add_subplot(axes_class=ShownAxes)
        plot(ax)
        whole = ax.get_figure(root=True)
        assert whole is not None
        _add_note(whole, note)
        clean_texts(whole)
        whole.draw_without_rendering()  # ticks are made now, in this style
    return ax


def draw_panels(
    plot: Callable[[Figure], Any], *, note: str, size_in: tuple[float, float], figure: Figure | None
) -> Any:
    """Call `plot` with a figure in the kit's style, put `note` beneath it; what `plot` returns.

    figure: where to draw; None: a new one of that size in inches.
    """
    with _kit_style():
        whole = plt.figure(figsize=size_in, layout="constrained") if figure is None else figure
        axes = plot(whole)
        _add_note(whole, note)
        clean_texts(whole)
        whole.draw_without_rendering()
    return axes


def picture_of(plot: Callable[[], Axes], *, alt: str, dpi: int = 110) -> str:
    """The figure that `plot` makes, as an HTML image; a notebook doesn't show it a second time."""
    figure = plot().get_figure(root=True)
    assert figure is not None
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=dpi)
    plt.close(figure)
    data = base64.b64encode(written.getvalue()).decode()
    return f'<img alt="{safe_html(alt)}" src="data:image/png;base64,{data}">'


@contextmanager
def _kit_style() -> Iterator[None]:
    """The kit's rcParams, and the caller's afterwards."""
    interactive = mpl.is_interactive()
    try:
        with style.context(STYLE):
            yield
            # A notebook's backend turns it on when it makes its first figure. Lost at the end of
            # the context, no later cell would show its figures.
            interactive = mpl.is_interactive()
    finally:
        mpl.interactive(interactive)


def _add_note(figure: Figure, note: str) -> None:
    """Beneath what stands there already, if axes of another study share the figure."""
    there = figure.get_supxlabel()
    lines = in_lines(note, int(figure.get_size_inches()[0] * NOTE_CHARACTERS))
    text = "\n".join(lines)
    if text not in there:
        footnote(figure, "\n".join(filter(None, (there, text))))
