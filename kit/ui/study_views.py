"""The parts of a study that answer one question each: its KV cache, its map of releases, a limit.

`study.kv`, `study.map` and `study.limit`; each property is a sentence, a list or a table, and a
notebook shows it as text.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from kit.cleaning import clean_text
from kit.study.words import paragraph
from kit.ui.cards import ShownText

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from kit.ui.study_view import Study


class KvView:
    """How full the KV cache of each trial was expected to be, and was.

    >>> import kit
    >>> kit.recorded("kv_real_and_simulated").kv.table.shape[0]
    12
    """

    def __init__(self, study: Study) -> None:
        self._study = study

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row a trial with a closed loop: kit.kv.table.kv_table; fractions from 0 to 1."""
        from kit.kv.table import kv_table

        return kv_table(self._study._folder)

    @property
    def verdict(self) -> ShownText:
        """Whether a full cache can be what killed servers: the dead against the others."""
        from kit.report.sentences import cache_verdict

        return ShownText(cache_verdict(self._study.samples, self._study.trials))

    @property
    def agreement(self) -> ShownText:
        """How far the engine's log and the metrics agree with the engine's own steps."""
        from kit.kv.sentences import agreed

        return ShownText(agreed(self.table))

    @property
    def prediction(self) -> ShownText:
        """How far measured peaks lie from the expected ones."""
        from kit.kv.sentences import predicted

        return ShownText(predicted(self.table))

    @property
    def pressure(self) -> ShownText:
        """Which trials were held up by a full cache."""
        from kit.kv.sentences import pressed

        return ShownText(pressed(self.table))

    @property
    def advice(self) -> ShownText:
        """What to know of each trial's cache, as a list."""
        from kit.kv.sentences import advice_by_trial

        return ShownText(advice_by_trial(self._study._folder))

    def plot_sources(self, trial: str | None = None, ax: Axes | None = None) -> Axes:
        """Draw one trial's usage as the engine's steps, its log and the metrics tell it.

        trial: its trial_id; None: the one with the highest measured peak.
        """
        from kit.plots.kv_sources import plot_sources

        return self._one(trial)._one(lambda part, axes: plot_sources(part.samples, axes), ax, 3.6)

    def plot_queue(self, trial: str | None = None, ax: Axes | None = None) -> Axes:
        """Draw one trial's waiting requests, in the engine and in Triton."""
        return self._one(trial).plot_queue(ax)

    def plot_engines(self, first: str, second: str, ax: Axes | None = None) -> Axes:
        """Draw the usage of two trials, one of real vLLM and one of the simulated engine."""
        from kit.plots.kv_engines import plot_real_and_simulated

        pair = self._study.where(trial_id=[first, second])
        return pair._one(lambda part, axes: plot_real_and_simulated(part.samples, axes), ax, 3.6)

    def __repr__(self) -> str:
        return clean_text(f"{self.verdict}\n{self.pressure}")

    def _one(self, trial: str | None) -> Study:
        if trial is None:
            trial = str(self.table.sort_values("measured_peak")["trial_id"].iloc[-1])
        return self._study.where(trial_id=trial)


class LimitView:
    """The highest load at which a server met its goals, and what that rests on."""

    def __init__(self, study: Study) -> None:
        from kit.stats.limit_study import limit_of

        #: Everything that was found (kit.stats.limit_study.LimitFound).
        self.found = limit_of(study._folder)

    @property
    def value(self) -> float:
        """The limit: clients, or requests a second. 0: below the loads tried; inf: above."""
        return self.found.estimate.value

    @property
    def interval(self) -> tuple[float, float]:
        """Of the limit, at 95 %."""
        return self.found.estimate.low, self.found.estimate.high

    @property
    def decided(self) -> bool:
        """Whether the interval is as narrow as was asked for."""
        return self.found.decided

    @property
    def table(self) -> pd.DataFrame:
        """One row a trial and goal: kit.stats.limit_study.LimitFound.table."""
        return self.found.table

    @property
    def answer(self) -> ShownText:
        """The limit, its interval and what broke first."""
        from kit.report.limit import limit_sentence

        return ShownText(limit_sentence(self.found))

    @property
    def advice(self) -> list[str]:
        """What else has to be known, and the setting that is safe."""
        from kit.report.limit import limit_advice, limit_remarks

        return [*limit_remarks(self.found), *limit_advice(self.found)]

    def __repr__(self) -> str:
        lines = [paragraph(text, first="- ", rest="  ") for text in self.advice]
        return clean_text("\n".join([paragraph(self.answer), *lines]))


class SoakView:
    """Whether a server passed a soak, and each thing that was looked at."""

    def __init__(self, study: Study) -> None:
        from kit.stats.soak_study import soak_of

        #: Everything that was found (kit.stats.soak_study.SoakFound).
        self.found = soak_of(study._folder)

    @property
    def status(self) -> str:
        """The verdict: passed, failed or undecided."""
        return self.found.status.value

    @property
    def answer(self) -> ShownText:
        """The verdict and what it rests on."""
        from kit.report.soak import soak_sentence

        return ShownText(soak_sentence(self.found))

    @property
    def checks(self) -> pd.DataFrame:
        """One row a check: name, status, says."""
        import pandas as pd

        rows = [(one.name, one.status.value, one.says) for one in self.found.checks]
        return pd.DataFrame(rows, columns=["name", "status", "says"])

    @property
    def junit(self) -> str:
        """The checks as JUnit XML."""
        from kit.report.soak import junit

        return junit(self.found).decode()

    def __repr__(self) -> str:
        from kit.report.soak import checks_table

        return clean_text(f"{self.answer}\n\n{checks_table(self.found)}")


class MapView:
    """Which release dies under which scenario, how surely, and since when.

    >>> import kit
    >>> kit.recorded("release_map").map.flips("cancel-race").startswith("23.10 dies")
    True
    """

    def __init__(self, study: Study) -> None:
        self._study = study

    @property
    def answer(self) -> ShownText:
        """Whether any release stands all the traffic, and which crashes came back."""
        from kit.report.release_map import map_answer

        return ShownText(map_answer(self._study._folder))

    @property
    def beside(self) -> ShownText:
        """What was seen on hybrids, which are no releases, against the releases of this study."""
        from kit.report.release_map import beside_answer

        return ShownText(beside_answer(self._study._folder))

    @property
    def certainty(self) -> ShownText:
        """What the study's test makes of cells whose chance of a death is known, as a table."""
        from kit.report.release_map import how_sure

        return ShownText(how_sure(self._study._folder))

    @property
    def cost(self) -> ShownText:
        """Trials and time that it took, and what a fixed design would have needed."""
        from kit.report.release_map import what_it_cost

        return ShownText(what_it_cost(self._study._folder))

    @property
    def bounds(self) -> ShownText:
        """How often releases that never died can die at most, as a list."""
        from kit.report.release_map import bounds

        return ShownText(bounds(self._study._folder))

    @property
    def causes(self) -> ShownText:
        """The deaths grouped by where they happened, with the letters of the map, as a list."""
        from kit.report.release_map import causes

        return ShownText(causes(self._study._folder))

    def flips(self, scenario: str) -> ShownText:
        """At which releases the crash of one scenario came and went, and how surely.

        Raises:
            NotEnoughDataError: no trial of that scenario. SpecError: of several engines or
                traffics.
        """
        from kit.runner.bisect import bisect_recorded, flips_sentence

        return ShownText(flips_sentence(bisect_recorded(self._study._folder, scenario)))

    def __repr__(self) -> str:
        return clean_text(f"{self.answer}\n{self.causes}")
