"""The figures of a study: deaths, survival, latency, load, tokens, the KV cache, the map."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from kit.plots.explore import Exploration
    from kit.ui.study_view import Study


class StudyPlots:
    """Methods of kit.Study; each draws on `ax`, or on a new figure, and returns the axes."""

    @property
    def _study(self) -> Study:
        return cast("Study", self)

    def plot_crashes(self, ax: Axes | None = None) -> Axes:
        """Draw each trial as a mark: after how many requests its server died, or survived.

        ax: axes to draw on; None: a new figure. Returns the axes.
        """
        from kit.plots.crash import plot_crash_strip
        from kit.plots.titles import varying

        part, note = self._study._drawable()
        rows = part.trials.groupby(varying(part.trials), observed=True, dropna=False).ngroups
        return _draw(
            lambda axes: plot_crash_strip(part.trials, axes), note, 1.7 + 0.36 * rows, ax=ax
        )

    def plot_survival(self, ax: Axes | None = None, *, over: str = "completed") -> Axes:
        """Draw the share of servers still alive after so many requests (Kaplan-Meier).

        over: "completed" (requests) or "exposure_s" (seconds). ax: as for plot_crashes.
        """
        from kit.plots.crash import curve_count, plot_survival

        part, note = self._study._drawable()
        height_in = 3.4 + 0.16 * curve_count(part.trials)
        return _draw(
            lambda axes: plot_survival(part.trials, axes, over=over), note, height_in, ax=ax
        )

    def plot_latency(self, ax: Axes | None = None, *, latency: str | None = None) -> Axes:
        """Draw what users waited for: median and 95th percentile; a failure is never answered.

        latency: "e2e_ms", "ttft_ms" (time to first token), "itl_ms_mean"; None: end to end.
        ax: as for plot_crashes.
        """
        from kit.plots.latency import plot_latency
        from kit.plots.titles import varying

        part, note = self._study._drawable()
        keys = [*dict.fromkeys(("release", "concurrency", *varying(part.latencies)))]
        cells = part.latencies.groupby(keys, observed=True, dropna=False).ngroups
        return _draw(
            lambda axes: plot_latency(part.latencies, axes, latency=latency),
            _noted(note, part),
            4.2,
            width_in=max(7.2, 1.0 + 0.9 * cells),
            ax=ax,
        )

    def plot_kv(self, ax: Axes | None = None) -> Axes:
        """Draw how full the KV cache was over time, up to each server's death.

        ax: as for plot_crashes.
        """
        from kit.plots.kv import plot_kv_usage

        part, note = self._study._drawable(one_scenario=True)
        return _draw(lambda axes: plot_kv_usage(part.samples, part.trials, axes), note, 3.6, ax=ax)

    def plot_queue(self, ax: Axes | None = None) -> Axes:
        """Draw how many requests wait, in the engine and in Triton. ax: as for plot_crashes."""
        from kit.plots.queue import plot_queue

        part, note = self._study._drawable(one_scenario=True)
        return _draw(lambda axes: plot_queue(part.samples, part.trials, axes), note, 3.0, ax=ax)

    def plot_map(
        self, ax: Axes | None = None, *, beside: Study | Iterable[Study] | None = None
    ) -> Axes:
        """Draw which release dies under which scenario: a cell for each pair.

        ax: as for plot_crashes. beside: another study, or several, whose cells are drawn where this
        one has none, such as those of hybrids.

        >>> import kit
        >>> newest = kit.recorded("frontends_of_2026")
        >>> kit.recorded("release_map").plot_map(beside=newest).get_title(loc="left")[:5]
        '24.08'
        """
        from kit.plots.release_map import plot_release_map, signature_key
        from kit.report.release_map import map_parts

        others = beside if isinstance(beside, Iterable) else filter(None, [beside])
        all_of = [self._study, *others]
        parts = map_parts(*(one._folder for one in all_of))
        width_in, height_in = parts.size_in
        return _draw(
            lambda axes: plot_release_map(
                parts.cells,
                axes,
                not_applicable=parts.skipped,
                error=parts.error,
                untested=parts.untested,
            ),
            "  ·  ".join([*signature_key(parts.cells), *(one.provenance for one in all_of)]),
            height_in,
            width_in=max(7.2, width_in),
            ax=ax,
        )

    def plot_factors(self, ax: Axes | None = None) -> Axes:
        """Draw every trial as a mark: releases across, engines down. ax: as for plot_crashes."""
        from kit.plots.factors import plot_factors

        study = self._study
        return _draw(lambda axes: plot_factors(study.trials, axes), study.provenance, 3.6, ax=ax)

    def plot_load(
        self, ax: Axes | None = None, *, quantile: float = 0.95, latency: str | None = None
    ) -> Axes:
        """Draw latency against concurrency or rate, with intervals; reads study.requests.

        Raises:
            SpecError: more than release and load varies; study.where(...) takes a part.
        """
        from kit.plots.latency_curve import plot_latency_curve

        return self._latencies(
            lambda frame, axes: plot_latency_curve(frame, axes, quantile=quantile, latency=latency),
            ax,
        )

    def plot_limit(self, ax: Axes | None = None) -> Axes:
        """Draw goals and goodput against load, the limit marked; of a study of kit.find_limit.

        ax: as for plot_crashes.

        Raises:
            SpecError: the study does not look for a limit.
        """
        from kit.report.limit import draw_limit

        found = self._study.limit.found
        note = self._study.provenance
        return _draw(lambda axes: draw_limit(found, axes), note, 4.4, ax=ax)

    def plot_drift(self, ax: Axes | None = None) -> Axes:
        """Draw what the server holds, and its latency, over a soak. ax: as for plot_crashes.

        Raises:
            SpecError: the study is no soak.
        """
        from kit.report.soak import draw_drift

        found = self._study.soak.found
        note = self._study.provenance
        return _draw(lambda axes: draw_drift(found, axes), note, 3.8, ax=ax)

    def plot_pareto(self, ax: Axes | None = None, *, quantile: float = 0.95) -> Axes:
        """Draw throughput against latency, a point a load; reads study.requests.

        Raises:
            SpecError: more than release and load varies; study.where(...) takes a part.
        """
        from kit.plots.latency_curve import plot_pareto

        return self._one(lambda s, axes: plot_pareto(s.requests, axes, quantile=quantile), ax)

    def plot_distribution(self, ax: Axes | None = None, *, latency: str | None = None) -> Axes:
        """Draw the share of requests answered within a time (ECDF); reads study.latencies."""
        from kit.plots.distribution import plot_distribution

        return self._latencies(
            lambda frame, axes: plot_distribution(frame, axes, latency=latency), ax
        )

    def plot_ttft(self, ax: Axes | None = None) -> Axes:
        """Draw the time to first token; reads study.latencies.

        Raises:
            NotEnoughDataError: no request was streamed.
        """
        from kit.plots.distribution import plot_ttft

        return self._latencies(plot_ttft, ax)

    def plot_itl(self, ax: Axes | None = None) -> Axes:
        """Draw the gaps between tokens, up to the longest; reads study.tokens.

        Raises:
            NotEnoughDataError: no request was streamed.
        """
        from kit.plots.distribution import plot_itl

        return self._one(lambda study, axes: plot_itl(study.tokens, axes), ax)

    def plot_last_seconds(
        self, trial: str | None = None, ax: Axes | None = None, *, seconds: float | None = None
    ) -> Axes:
        """Draw the last requests before a server died, a row each; reads study.requests, tokens.

        trial: its trial_id; None: the first that died. seconds: how far back.

        Raises:
            SpecError: it did not die, or none did.
        """
        from kit.plots.last_seconds import plot_last_seconds

        study = self._study
        part = study if trial is None else study.where(trial_id=trial)
        return StudyPlots._one(
            part,
            lambda s, axes: plot_last_seconds(
                s.requests, s.trials, axes, gaps=s.tokens, seconds=seconds
            ),
            ax,
            height_in=5.2,
        )

    def explore_last_seconds(self, trial: str | None = None) -> Exploration:
        """Look into the requests before a server died: zoom, choose one, read its times.

        Works by mouse or keys in a notebook, in Voilà and, by .save("file.html"), in a page of
        its own. trial: as for plot_last_seconds. Reads study.requests and tokens.

        Raises:
            SpecError: it did not die, or none did.
        """
        from kit.plots.explore import explore_last_seconds
        from kit.ui.drawing import picture_of

        study = self._study
        whole = study if trial is None else study.where(trial_id=trial)
        part, note = whole._drawable(one_scenario=True)
        return explore_last_seconds(
            part.requests,
            part.trials,
            gaps=part.tokens,
            note=note,
            picture=picture_of(part.plot_last_seconds, alt="The last requests before the death"),
        )

    def explore_distribution(self, *, latency: str | None = None) -> Exploration:
        """Look into the distribution of latencies: read every line at any time, zoom, choose.

        Works as explore_last_seconds does. latency: as for plot_distribution.
        Reads study.latencies.
        """
        from kit.plots.explore import explore_distribution
        from kit.ui.drawing import picture_of

        part, note = self._study._drawable(one_scenario=True)
        return explore_distribution(
            part.latencies,
            latency=latency,
            note=_noted(note, part),
            picture=picture_of(
                partial(part.plot_distribution, latency=latency), alt="Distribution of latencies"
            ),
        )

    def plot_kv_panels(self, figure: Figure | None = None) -> Any:
        """Draw KV usage, waiting requests, preemptions and GPU of each release on one time axis.

        Reads study.samples and study.trials. figure: where; None: a new one. Returns the axes, an
        array of one row a figure and one column a release.
        """
        from kit.plots.kv_panels import panel_size_in, plot_kv_panels
        from kit.ui.drawing import draw_panels

        part, note = self._study._drawable(one_scenario=True)
        return draw_panels(
            lambda where: plot_kv_panels(part.samples, part.trials, where),
            note=note,
            size_in=panel_size_in(part.samples, part.trials),
            figure=figure,
        )

    def plot_compare(self, first: str, second: str, figure: Figure | None = None) -> Any:
        """Draw two releases under the same traffic: deaths of both, and the ratio of latencies.

        Reads study.trials and study.requests. Returns the two axes.

        Raises:
            SpecError, NotEnoughDataError: as study.compare.
        """
        return self._study.compare(first, second).plot(figure)

    def _latencies(self, plot: Callable[[pd.DataFrame, Axes], object], ax: Axes | None) -> Axes:
        part, note = self._study._drawable(one_scenario=True)
        return _draw(lambda axes: plot(part.latencies, axes), _noted(note, part), 4.2, ax=ax)

    def _one(
        self, plot: Callable[[Study, Axes], object], ax: Axes | None, height_in: float = 4.2
    ) -> Axes:
        part, note = self._study._drawable(one_scenario=True)
        return _draw(lambda axes: plot(part, axes), note, height_in, ax=ax)


def _noted(note: str, part: Study) -> str:
    """The note, and that latencies of a study too large for a frame are not exact."""
    from kit.stats.counted import class_note

    return "  ·  ".join(filter(None, (note, class_note(part.latencies))))


def _draw(
    plot: Callable[[Axes], object],
    note: str,
    height_in: float,
    *,
    width_in: float = 7.2,
    ax: Axes | None,
) -> Axes:
    from kit.ui.drawing import draw  # pyplot, which takes a moment

    return draw(plot, note=note, height_in=height_in, width_in=width_in, ax=ax)
