"""The figures of a study about load, tokens, distributions and the moment of a crash."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from kit.ui.study_view import Study


class StudyPlots:
    """Methods of kit.Study; each draws on `ax`, or on a new figure, and returns the axes."""

    def plot_load(
        self, ax: Axes | None = None, *, quantile: float = 0.95, latency: str | None = None
    ) -> Axes:
        """Draw latency against concurrency or rate, with intervals; reads study.requests.

        Raises:
            SpecError: more than release and load varies; study.where(...) takes a part.
        """
        from kit.plots.latency_curve import plot_latency_curve

        return self._one(
            lambda study, axes: plot_latency_curve(
                study.requests, axes, quantile=quantile, latency=latency
            ),
            ax,
        )

    def plot_pareto(self, ax: Axes | None = None, *, quantile: float = 0.95) -> Axes:
        """Draw throughput against latency, a point a load; reads study.requests.

        Raises:
            SpecError: more than release and load varies; study.where(...) takes a part.
        """
        from kit.plots.latency_curve import plot_pareto

        return self._one(lambda s, axes: plot_pareto(s.requests, axes, quantile=quantile), ax)

    def plot_distribution(self, ax: Axes | None = None, *, latency: str | None = None) -> Axes:
        """Draw the share of requests answered within a time (ECDF); reads study.requests."""
        from kit.plots.distribution import plot_distribution

        return self._one(lambda s, axes: plot_distribution(s.requests, axes, latency=latency), ax)

    def plot_ttft(self, ax: Axes | None = None) -> Axes:
        """Draw the time to first token; reads study.requests.

        Raises:
            NotEnoughDataError: no request was streamed.
        """
        from kit.plots.distribution import plot_ttft

        return self._one(lambda study, axes: plot_ttft(study.requests, axes), ax)

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

        study = cast("Study", self)
        part = study if trial is None else study.where(trial_id=trial)
        return StudyPlots._one(
            part,
            lambda s, axes: plot_last_seconds(
                s.requests, s.trials, axes, gaps=s.tokens, seconds=seconds
            ),
            ax,
            height_in=5.2,
        )

    def plot_kv_panels(self, figure: Figure | None = None) -> Any:
        """Draw KV usage, waiting requests, preemptions and GPU of each release on one time axis.

        Reads study.samples and study.trials. figure: where; None: a new one. Returns the axes, an
        array of one row a figure and one column a release.
        """
        from kit.plots.kv_panels import panel_size_in, plot_kv_panels
        from kit.ui.drawing import draw_panels

        part, note = cast("Study", self)._drawable(one_scenario=True)
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
        from kit.plots.compare import compare_size_in, plot_compare
        from kit.stats.compare import compare
        from kit.ui.drawing import draw_panels

        study, levels = cast("Study", self), (first, second)
        rows = len(compare(study.trials, study.requests, levels=levels))
        return draw_panels(
            lambda where: plot_compare(study.trials, study.requests, where, levels=levels),
            note=study.provenance,
            size_in=compare_size_in(rows),
            figure=figure,
        )

    def _one(
        self, plot: Callable[[Study, Axes], object], ax: Axes | None, height_in: float = 4.2
    ) -> Axes:
        from kit.ui.drawing import draw

        part, note = cast("Study", self)._drawable(one_scenario=True)
        return draw(lambda axes: plot(part, axes), note=note, height_in=height_in, ax=ax)
