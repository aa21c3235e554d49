"""What several figures share: percent axis, ticks, the key beneath, names at ends of lines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kit.plots.style import FAINT, INK, spread
from kit.study.words import in_lines, milliseconds, percent

#: Where a percent axis may end that is not drawn whole, and the step of its ticks.
ENDS = ((0.05, 0.01), (0.1, 0.02), (0.15, 0.05), (0.25, 0.05), (0.5, 0.1))
#: Height of a label, as a share of an axes of usual height.
LABEL_GAP = 0.075
#: Labels of lines that end nearer to each other (share of the width) may collide.
NEAR = 0.22
#: More lines than these cross each other's names.
MOST_BESIDE = 4


def percent_axis(ax: Axes, label: str, *, peak: float = 1.0) -> None:
    """Percent upwards, from 0 to 100 %, or less far where `peak` fills less than half of it.

    An axis that ends below 100 % says so in its label.
    """
    end, step = next(((e, s) for e, s in ENDS if peak <= 0.96 * e), (1.0, 0.25))
    ticks = [step * i for i in range(round(end / step) + 1)]
    ax.set_ylim(0, 1.04 * end)
    ax.set_yticks(ticks, [percent(tick) if tick else "0 %" for tick in ticks])
    ax.grid(axis="y")
    ax.set_ylabel(label if end == 1.0 else f"{label}\n(axis ends at {percent(end)})")


def latency_ticks(low_ms: float, high_ms: float) -> tuple[list[float], list[str]]:
    """Ticks of a logarithmic axis of milliseconds, at least three where there is room."""
    ticks: list[float] = []
    for steps in ((1, 10), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        ticks = [m * 10**k for k in range(-2, 7) for m in steps if low_ms <= m * 10**k <= high_ms]
        if len(ticks) >= 3:
            break
    return ticks, [milliseconds(tick) for tick in ticks]


def key(ax: Axes, xlabel: str, *lines: str) -> None:
    """The label of the x axis, and beneath it what marks mean and what is missing.

    It stands outside the axes, so that it can never lie on the data. Each line is wrapped to
    the width of the figure.
    """
    figure = ax.get_figure(root=True)
    width_in = figure.get_size_inches()[0] if figure is not None else 6.4
    columns = ax.get_subplotspec().get_gridspec().ncols if ax.get_subplotspec() else 1  # type: ignore[union-attr]
    most = max(24, int(width_in / columns * 12.5))
    wrapped = [part for line in lines if line for part in in_lines(line, most)]
    ax.set_xlabel("\n".join([xlabel, *wrapped]))


@dataclass(frozen=True, slots=True, kw_only=True)
class LineEnd:
    """Where a line ends, and what it is called."""

    name: str
    x: float
    y: float
    colour: str


def name_lines(ax: Axes, ends: Sequence[LineEnd]) -> None:
    """Names of lines: few beside their ends, many as a list in the right margin.

    A list has no lines to the ends, which would look like data.
    """
    if len(ends) <= MOST_BESIDE:
        label_ends(ax, ends)
        return
    top = 0.97
    for end in ends:
        ax.annotate(
            f"── {end.name}",
            (1.01, top),
            xycoords="axes fraction",
            va="top",
            fontsize=8.5,
            color=end.colour,
            annotation_clip=False,
            gid=f"name {end.name}",
        )
        top -= LABEL_GAP


def label_ends(ax: Axes, ends: Sequence[LineEnd], *, fontsize: float = 9.0) -> None:
    """Each line's name just right of its end; names that would collide are moved apart.

    To be called once the limits of the axes stand. A name that was moved far has a short grey
    line to its end.
    """
    at = [_fraction(ax, end) for end in ends]
    heights = [y for _, y in at]
    for group in _near(at):
        placed = spread([at[i][1] for i in group], LABEL_GAP, 0.02, 0.98)
        for i, y in zip(group, placed, strict=True):
            heights[i] = y
    for end, (x, y), height in zip(ends, at, heights, strict=True):
        moved = abs(height - y) > 0.6 * LABEL_GAP
        ax.annotate(
            end.name,
            (x, y),
            xycoords="axes fraction",
            xytext=(x + 0.02, height),
            textcoords="axes fraction",
            va="center",
            fontsize=fontsize,
            color=end.colour,
            annotation_clip=False,
            gid=f"name {end.name}",
            arrowprops={"arrowstyle": "-", "color": FAINT, "lw": 0.5, "shrinkB": 3}
            if moved
            else None,
        )


def _fraction(ax: Axes, end: LineEnd) -> tuple[float, float]:
    x, y = ax.transAxes.inverted().transform(ax.transData.transform((end.x, end.y)))
    return float(x), float(y)


def _near(at: Sequence[tuple[float, float]]) -> Iterable[list[int]]:
    """Indexes of ends, in groups of which each is near to the one before."""
    order = sorted(range(len(at)), key=lambda i: at[i][0])
    groups: list[list[int]] = []
    for i in order:
        if groups and at[i][0] - at[groups[-1][-1]][0] < NEAR:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def say(ax: Axes, text: str) -> None:
    """What is said in the middle of an axes that has no data."""
    ax.annotate(
        text,
        (0.5, 0.5),
        xycoords="axes fraction",
        ha="center",
        va="center",
        fontsize=9,
        color=FAINT,
        style="italic",
    )


def figure_title(figure: Figure, sentence: str) -> None:
    """The sentence above all panels of a figure, wrapped to its width."""
    most = max(24, int(figure.get_size_inches()[0] * 0.88 / 0.1))
    figure.suptitle(
        "\n".join(in_lines(sentence, most)),
        x=0.01,
        ha="left",
        fontsize=12,
        fontweight="bold",
        color=INK,
    )
