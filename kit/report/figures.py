"""Draws the figures of a report, in reading order."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup
from matplotlib import style
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from kit.cleaning import clean_text, safe_html
from kit.errors import NotEnoughDataError
from kit.plots.crash import curve_count, plot_crash_strip, plot_survival
from kit.plots.distribution import plot_distribution
from kit.plots.explore import Exploration, explore_distribution, explore_last_seconds
from kit.plots.kv import plot_kv_usage
from kit.plots.last_seconds import plot_last_seconds
from kit.plots.latency import plot_latency
from kit.plots.latency_curve import plot_latency_curve
from kit.plots.queue import has_gpu, has_queue, plot_gpu, plot_queue
from kit.plots.release_map import plot_release_map, release_map, signature_key
from kit.plots.style import STYLE, clean_texts, footnote
from kit.report.release_map import map_parts
from kit.report.sentences import provenance_of, scenario_title, scenarios_in_order
from kit.report.svg import themed
from kit.stats.client_limits import client_sentence
from kit.stats.latency import COUNT
from kit.study.folder import StudyFolder
from kit.study.words import in_lines

#: Text of a figure so wide can still be read on a phone's screen, without scrolling.
WIDTH_IN = 6.2
#: With so many releases and scenarios the map says more than a strip.
MAP_RELEASES, MAP_SCENARIOS = 4, 3
#: Requests that a report keeps of one life to look into.
MOST_EXPLORED = 300
#: Cells that fit side by side into WIDTH_IN.
NARROW_CELLS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """One figure, not yet drawn."""

    name: str
    caption: str
    plot: Callable[[Any], object]  # given the Axes, or the Figure if it has several panels
    size_in: tuple[float, float]
    note: str  # where its data come from
    titled: bool = True  # False: the page says its title just above it
    panels: bool = False

    @property
    def shape(self) -> str:
        """A wide one scrolls on a narrow screen, rather than shrink."""
        return "narrow" if self.size_in[0] <= WIDTH_IN else "wide"

    @property
    def svg(self) -> Markup:
        """Markup for a page, texts escaped."""
        buffer = io.StringIO()
        with style.context(STYLE):
            figure = self._drawn(titled=self.titled)
            _lay_out_once(figure)
            metadata = {"Date": None, "Creator": None}
            figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
        label = f'<svg role="img" aria-label="{safe_html(self.caption)}" '
        written = clean_text(buffer.getvalue())  # a name may be the id of a mark as well
        svg = themed(written, prefix=self.name).replace('<svg role="img" ', label, 1)
        return Markup(svg)  # noqa: S704 - by matplotlib

    def save(self, path: Path) -> None:
        """As a file of its own, opaque and titled; .svg or .png."""
        with style.context([STYLE, {"svg.fonttype": "path"}]):
            figure = self._drawn(titled=True)
            figure.savefig(path, dpi=200, metadata={"Date": None} if path.suffix == ".svg" else {})

    def _drawn(self, *, titled: bool) -> Figure:
        figure = Figure(figsize=self.size_in, layout="constrained")
        self.plot(figure if self.panels else figure.add_subplot())
        if not titled:
            figure.suptitle("") if self.panels else figure.gca().set_title("")
        clean_texts(figure)
        note = clean_text(self.note, lines=False)
        footnote(figure, "\n".join(in_lines(note, int(self.size_in[0] * 17))))
        return figure


def _lay_out_once(figure: Figure) -> None:
    """Do the figure's layout for SVG now; to save it does the layout by a drawing of its own."""
    FigureCanvasSVG(figure)
    figure.dpi = 72  # as for every SVG
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.execute(figure)
    figure.set_layout_engine("none")


def hero(
    trials: pd.DataFrame,
    skipped: dict[tuple[str, str], str],
    note: str,
    decisions: Mapping[tuple[str, str], str] | None = None,
    error: float | None = None,
) -> Drawing | None:
    """The map where there is much to map, else the result strip of the deadliest scenario.

    decisions, error: of a sequential study, see release_map and plot_release_map.
    """
    if trials.empty:
        return None
    scenarios = scenarios_in_order(trials)
    cells = release_map(trials, decisions)
    cells = cells.sort_values("scenario", key=lambda s: s.map(scenarios.index), kind="stable")
    if cells["release"].nunique() < MAP_RELEASES or len(scenarios) < MAP_SCENARIOS:
        return strip(trials, scenarios[0], note, titled=False)
    releases = {*cells["release"], *(release for release, _ in skipped)}
    return Drawing(
        name="map",
        caption="Every release under every scenario.",
        plot=partial(plot_release_map, cells, not_applicable=skipped, error=error),
        size_in=(2.4 + 0.62 * len(releases), 1.8 + 0.46 * len(scenarios)),
        note="  ·  ".join([*signature_key(cells), note]),
    )


def map_drawing(study: StudyFolder, *beside: StudyFolder | None) -> Drawing:
    """The map of a study, with the cells that only others have, such as those of hybrids."""
    parts = map_parts(study, *beside)
    notes = [provenance_of(one) for one in (study, *beside) if one is not None]
    return Drawing(
        name="map",
        caption="Every release under every scenario.",
        plot=partial(
            plot_release_map,
            parts.cells,
            not_applicable=parts.skipped,
            error=parts.error,
            untested=parts.untested,
        ),
        size_in=parts.size_in,
        note="  ·  ".join([*signature_key(parts.cells), *notes]),
    )


def strip(trials: pd.DataFrame, scenario: str, note: str, *, titled: bool = True) -> Drawing:
    own = trials[trials["scenario"] == scenario]
    cells = own.groupby(["release", "engine", "concurrency"], dropna=False).ngroups
    return Drawing(
        name=f"strip-{scenario}",
        caption=f"{scenario}: {scenario_title(scenario)}. One mark a server: a cross at the "
        "number of requests after which it died, an arrow where it was still alive.",
        plot=partial(plot_crash_strip, own),
        size_in=(WIDTH_IN, 1.5 + 0.36 * cells),
        note=note,
        titled=titled,
    )


def drawings(
    trials: pd.DataFrame,
    requests: pd.DataFrame,
    samples: pd.DataFrame,
    limits: pd.DataFrame,
    note: str,
) -> Iterator[Drawing]:
    """Per scenario: deaths, survival, latency and KV usage; what has no data is left out.

    limits: kit.stats.client_limits.client_limits of the same study.
    """
    for i, scenario in enumerate(scenarios_in_order(trials)):
        own = trials[trials["scenario"] == scenario]
        if i:
            yield strip(trials, scenario, note)
        if own["crashed"].any():  # without a death there is no curve
            yield Drawing(
                name=f"survival-{scenario}",
                caption=f"{scenario}: share of servers still alive, Kaplan-Meier with 95 % "
                "intervals; upright ticks are servers that were alive when their requests ended. "
                "Beneath: servers still at risk.",
                plot=partial(plot_survival, own),
                size_in=(WIDTH_IN, 3.4 + 0.16 * curve_count(own)),
                note=note,
            )
        asked = requests[requests["scenario"] == scenario]
        if asked["judged"].any():
            client = client_sentence(limits, set(own["trial_id"]))
            yield _latency(asked, scenario, client, note)
            if asked["ttft_ms"].notna().any():
                yield _first_tokens(asked, scenario, client, note)
        seen = samples[samples["scenario"] == scenario]
        yield Drawing(
            name=f"kv-{scenario}",
            caption=f"{scenario}: share of KV-cache blocks in use, one line a server and source.",
            plot=partial(plot_kv_usage, seen, own),
            size_in=(WIDTH_IN, 3.4),
            note=note,
        )
        if has_queue(seen):
            yield Drawing(
                name=f"queue-{scenario}",
                caption=f"{scenario}: requests that wait, in the engine for a place in its batch "
                "and in Triton for the model, one pair of lines a server.",
                plot=partial(plot_queue, seen, own),
                size_in=(WIDTH_IN, 2.6),
                note=note,
            )
        if has_gpu(seen):
            yield Drawing(
                name=f"gpu-{scenario}",
                caption=f"{scenario}: GPU utilisation and memory, as its driver or Triton tells.",
                plot=partial(plot_gpu, seen, own),
                size_in=(WIDTH_IN, 2.6),
                note=note,
            )


def explorations(trials: pd.DataFrame, requests: pd.DataFrame, note: str) -> Iterator[Markup]:
    """Of the deadliest scenario: the last requests of the first server that died, and the
    distribution of all latencies, for a reader who looks closer; arguments as for `drawings`."""
    if requests.empty or trials.empty:
        return
    scenario = scenarios_in_order(trials)[0]
    own, asked = (frame[frame["scenario"] == scenario] for frame in (trials, requests))
    first = own[own["crashed"] & own["time_to_death_s"].notna()].head(1)
    if len(first) and COUNT not in asked:
        with suppress(NotEnoughDataError):
            plain = Drawing(
                name=f"last-{scenario}",
                caption=f"{scenario}: the last requests before a server died.",
                plot=partial(plot_last_seconds, asked, first),
                size_in=(WIDTH_IN, 5.2),
                note=note,
            )
            yield _closer(
                explore_last_seconds(asked, first, note=note, picture=plain.svg, most=MOST_EXPLORED)
            )
    if (asked["judged"] & asked["ok"]).any():
        plain = Drawing(
            name=f"distribution-{scenario}",
            caption=f"{scenario}: share of requests answered within a time.",
            plot=partial(plot_distribution, asked),
            size_in=(WIDTH_IN, 4.2),
            note=note,
        )
        yield _closer(explore_distribution(asked, note=note, picture=plain.svg))


def _closer(figure: Exploration) -> Markup:
    return Markup(figure._repr_html_())  # noqa: S704 - escaped where it is made


def _latency(requests: pd.DataFrame, scenario: str, client: str, note: str) -> Drawing:
    """A mark for every cell; a line for every release where that would be a crowd."""
    keys = ["release", "concurrency", "engine"]
    cells = requests.groupby(keys, observed=True, dropna=False).ngroups
    is_line = requests["concurrency"].nunique() > 1 and requests["engine"].nunique() == 1
    if is_line and cells > 2 * NARROW_CELLS:
        return Drawing(
            name=f"latency-{scenario}",
            caption=f"{scenario}: 95th percentile of all requests against concurrent clients; a "
            f"failure counts as never answered. {client}",
            plot=partial(plot_latency_curve, requests),
            size_in=(WIDTH_IN, 4.2),
            note=note,
        )
    return Drawing(
        name=f"latency-{scenario}",
        caption=f"{scenario}: median (filled) and 95th percentile (open) of all requests, with "
        f"95 % intervals; a failure counts as never answered. {client}",
        plot=partial(plot_latency, requests),
        size_in=(_width_in(cells), 4.2),
        note=note,
    )


def _first_tokens(requests: pd.DataFrame, scenario: str, client: str, note: str) -> Drawing:
    cells = requests.groupby(["release", "concurrency", "engine"], observed=True).ngroups
    return Drawing(
        name=f"ttft-{scenario}",
        caption=f"{scenario}: time from sending to the first token, median (filled) and 95th "
        f"percentile (open), with 95 % intervals. {client}",
        plot=partial(plot_latency, requests, latency="ttft_ms"),
        size_in=(_width_in(cells), 4.2),
        note=note,
    )


def _width_in(cells: int) -> float:
    return WIDTH_IN if cells <= NARROW_CELLS else 1.0 + 0.9 * cells
