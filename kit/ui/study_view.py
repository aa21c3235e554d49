"""A study as a person works with it: frames, crashes, plots, a report; it shows its own answer."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit.cleaning import clean_text, safe_html
from kit.errors import SpecError
from kit.report.table import html_table, text_table
from kit.stats.frames import (
    client_frame,
    requests_frame,
    samples_frame,
    token_gaps_frame,
    trials_frame,
)
from kit.study.folder import StudyFolder
from kit.study.spec import StudySpec
from kit.study.words import listing, paragraph
from kit.ui.arguments import nearest
from kit.ui.cards import FAINT, Comparisons, Crashes, ShownText
from kit.ui.study_plots import StudyPlots
from kit.ui.study_store import StudyStore
from kit.ui.study_views import KvView, LimitView, MapView, SoakView

if TYPE_CHECKING:
    import pandas as pd

#: Rows of a result table that a study shows of itself; cells that one figure shows side by side
#: (of more, one scenario is drawn).
MOST_ROWS, MOST_CELLS = 24, 12


class Study(StudyPlots, StudyStore):
    """A study: trials of servers under traffic, with what was seen of them.

    As the last line of a notebook's cell, or in a terminal, it shows its answer. `kit.run`,
    `kit.open` and `kit.recorded` return one.

    >>> import kit
    >>> study = kit.recorded("first_light")
    >>> study.trials.groupby("release")["crashed"].sum().to_dict()
    {'23.10': 5, '24.05': 0, '24.10': 5}
    """

    def __init__(self, folder: StudyFolder) -> None:
        self._folder = folder
        self._parts: dict[str, Study] = {}  # of one scenario each, with their frames

    @property
    def name(self) -> str:
        """Name of its folder."""
        return self._folder.path.resolve().name

    @property
    def path(self) -> Path:
        """Its folder, which holds everything that was recorded."""
        return self._folder.path

    @property
    def spec(self) -> StudySpec:
        """What was asked for (kit.study.spec.StudySpec)."""
        return self._folder.spec

    @property
    def finished(self) -> bool:
        """False: trials are still to be run; the same kit.run resumes it."""
        return self._folder.finished

    @cached_property
    def trials(self) -> pd.DataFrame:
        """One row a trial: what it was, verdict, crash iteration, signature, times.

        Columns: kit.stats.frames.trials_frame.
        """
        return trials_frame(self._folder)

    @cached_property
    def requests(self) -> pd.DataFrame:
        """One row a request, failures and requests in flight at a death included.

        Columns: kit.stats.frames.requests_frame; times in ms (`_ms`) or s (`_s`).

        >>> import kit
        >>> kit.recorded("first_light").requests["outcome"].value_counts().to_dict()
        {'ok': 4123, 'in_flight': 175, 'refused': 160}
        """
        return requests_frame(self._folder)

    @cached_property
    def latencies(self) -> pd.DataFrame:
        """What latency figures read; the columns are those of kit.stats.counted.latencies_frame.

        It is `requests`, or counts of them if there are too many.
        """
        from kit.stats.counted import latencies_frame  # scipy

        return latencies_frame(self._folder)

    @cached_property
    def tokens(self) -> pd.DataFrame:
        """One row a gap between two tokens of one request: kit.stats.frames.token_gaps_frame."""
        return token_gaps_frame(self._folder)

    @cached_property
    def samples(self) -> pd.DataFrame:
        """One row a value that was watched (KV usage, queue, memory): kit.stats.frames."""
        return samples_frame(self._folder)

    @cached_property
    def client(self) -> pd.DataFrame:
        """One row a tick of the load generator's own health: kit.stats.frames.client_frame."""
        return client_frame(self._folder)

    @cached_property
    def summary(self) -> pd.DataFrame:
        """One row a cell: trials, crashed, latency and KV peak, with the crash share's interval.

        A cell is what its trials have in common: release, scenario and whatever else varies.

        >>> import kit
        >>> cells = kit.recorded("first_light").summary
        >>> cells[cells["crashed"] > 0][["release", "crashed", "trials"]].to_numpy().tolist()
        [['23.10', 5, 5], ['24.10', 5, 5]]
        """
        from kit.plots.titles import varying
        from kit.stats.summary import crash_table

        by = list(dict.fromkeys(("scenario", *varying(self.trials))))
        return crash_table(self.trials, by)

    @cached_property
    def crashes(self) -> Crashes:
        """The kinds of death, commonest first: stack, known crash of the catalog, what to do.

        >>> import kit
        >>> crash = kit.recorded("first_light").crashes[0]
        >>> crash.text, crash.deaths, crash.releases
        ('SIGSEGV in TRITONBACKEND_ResponseFactoryIsCancelled', 10, ('23.10', '24.10'))
        """
        from kit.ui.deaths import crashes_of_study

        return crashes_of_study(self._folder, self.trials)

    @cached_property
    def answer(self) -> ShownText:
        """What died of what, how soon, what survived, and what that is worth."""
        from kit.report.sentences import answer

        return ShownText(" ".join(answer(self.trials)))

    @property
    def client_limits(self) -> ShownText:
        """Whether the load generator was itself what held requests up."""
        from kit.stats.client_limits import client_limits, client_sentence

        return ShownText(client_sentence(client_limits(self._folder)))

    @cached_property
    def factors(self) -> ShownText:
        """Which decides whether servers die: Triton's release, the engine, or the load.

        Raises:
            NotEnoughDataError: the trials do not vary two of them.
        """
        from kit.stats.factors import factors, vllm_or_triton

        return ShownText(vllm_or_triton(factors(self.trials)))

    @cached_property
    def kv(self) -> KvView:
        """The KV cache: expected and measured peaks, what the sources told, advice."""
        return KvView(self)

    @cached_property
    def map(self) -> MapView:
        """The map of releases: its answer, how sure it is, what it cost, where crashes came."""
        return MapView(self)

    @cached_property
    def limit(self) -> LimitView:
        """The highest load at which the goals hold; of a study of kit.find_limit.

        Raises:
            SpecError: the study does not look for one.
        """
        return LimitView(self)

    @cached_property
    def soak(self) -> SoakView:
        """The verdict of a soak, with its evidence; of a study of kit.soak.

        Raises:
            SpecError: the study is no soak.
        """
        return SoakView(self)

    def agreement(self, other: Study) -> ShownText:
        """Whether the cells that another study ran, too, ended alike in both."""
        from kit.report.sentences import compared

        return ShownText(compared(self.trials, other.trials))

    @cached_property
    def advice(self) -> list[str]:
        """What to do, a sentence or two a finding; empty: there is nothing to be done."""
        from kit.ui.deaths import advice_for

        return advice_for(self._folder, self.crashes)

    @property
    def provenance(self) -> str:
        """Where the data come from: live or recorded, which run, versions, engines."""
        from kit.report.sentences import provenance_of

        return provenance_of(self._folder, kit=None)

    def where(self, **values: Any) -> Study:
        """The part of the study in which columns of `trials` have these values.

        **values: a column's value, or a list of them.

        Raises:
            SpecError: no such column, or no trial has the value; names the nearest.

        >>> import kit
        >>> len(kit.recorded("first_light").where(scenario="control", release="24.05").trials)
        5
        """
        chosen = self.trials
        for column, wanted in values.items():
            chosen = chosen[_matches(self.trials, column, wanted).loc[chosen.index]]
        return Study(self._folder.only(chosen["trial_id"]))

    def report(
        self, folder: str | Path = "reports", *, pdf: bool = False, beside: Study | None = None
    ) -> Path:
        """Write the report into `folder`: one HTML file, and its result as latest.json.

        pdf: print it as well, beside the page, with a Chromium, Chrome or Edge of this machine.
        beside: as for plot_map.
        Returns the HTML file's path.

        Raises:
            StoreError: the folder cannot be written.
            MachineError: a PDF is asked for and no browser is here. ExportError: it did not print.
        """
        from kit.report.page import write_report

        other = None if beside is None else beside._folder
        page = write_report(self._folder, Path(folder).expanduser(), beside=other)
        if pdf:
            from kit.report.pdf import write_pdf

            write_pdf(page)
        return page

    def compare(self, first: str, second: str, *, by: str = "release") -> Comparisons:
        """Compare two releases, or two values of the column `by`, under the same traffic.

        Raises:
            SpecError: a value that no trial has. NotEnoughDataError: no traffic in common.

        >>> import kit
        >>> print(kit.recorded("first_light").compare("24.10", "24.05")[0].traffic)
        cancel-race
        """
        from kit.ui import comparing

        return comparing.compared([self._folder], by=by, levels=(first, second))

    def script(self, trial: str | None = None) -> str:
        """Write a trial's traffic as one Python script that needs nothing of the kit.

        trial: its trial_id; None: the first that died of the commonest crash.

        Raises:
            SpecError: no such trial, or none died. ExportError: no script can do this traffic.

        >>> import kit
        >>> kit.recorded("first_light").script().startswith("#!/usr/bin/env python3")
        True
        """
        from kit.reproduce.script import render_script

        chosen = trial or next((crash.trial_ids[0] for crash in self.crashes), None)
        known = [one.path.name for one in self._folder.trials()]
        if chosen not in known:
            raise SpecError(
                f"trial {chosen!r} of {self.name}" if chosen else f"{self.name}, where none died",
                "the trial_id of a trial, or a study in which a server died",
                "study.trials lists them",
            )
        text = next((crash.text for crash in self.crashes if chosen in crash.trial_ids), "no crash")
        return render_script(self._folder.trial(chosen).spec, text)

    @cached_property
    def _cells(self) -> list[dict[str, Any]]:
        from kit.report.cells import result_cells

        return result_cells(self._folder)

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if not name.startswith("_")]

    def __repr__(self) -> str:
        cells = self._cells
        parts = [
            self._verdict,
            paragraph(self.answer),
            self._unfinished(),
            text_table(cells[:MOST_ROWS], width=80),
        ]
        if len(cells) > MOST_ROWS:
            parts.append(f"… and {len(cells) - MOST_ROWS} more rows: study.summary has all")
        parts += [paragraph(text, first="- ", rest="  ") for text in self.advice]
        return clean_text("\n\n".join(filter(None, [*parts, self.provenance])))

    def _repr_html_(self) -> str:
        cells = self._cells
        more = len(cells) - MOST_ROWS
        advice = "".join(f"<li>{safe_html(text)}</li>" for text in self.advice)
        verdict = safe_html(self._verdict).replace("\n", "<br>")
        parts = [
            f"<p>{verdict}</p>",
            f"<p><b>{safe_html(self.answer)}</b></p>",
            f"<p>{safe_html(self._unfinished())}</p>",
            f'<div style="overflow-x: auto">{html_table(cells[:MOST_ROWS])}</div>',
            f"<p>… and {more} more rows: <code>study.summary</code> has all.</p>"
            if more > 0
            else "",
            f"<p>What to do</p><ul>{advice}</ul>" if advice else "",
            f'<p style="{FAINT}">{safe_html(self.provenance)}</p>',
        ]
        body = "".join(part for part in parts if part != "<p></p>")
        return f'<div class="kit-study" style="text-align: left; max-width: 75em">{body}</div>'

    @property
    def _verdict(self) -> str:
        """Of a search for a limit, or of a soak; empty for other studies."""
        if self.spec.limit is not None:
            return repr(self.limit)
        return repr(self.soak) if self.spec.soak is not None else ""

    def _unfinished(self) -> str:
        """How far it is, if it is not finished; empty if it is."""
        if self.finished:
            return ""
        there = int(self.trials["verdict"].ne("interrupted").sum())
        have = "1 trial has" if there == 1 else f"{there} trials have"
        return (
            f"Not finished: {have} a result so far. The kit.run that began it goes on from there."
        )

    def _drawable(self, *, one_scenario: bool = False) -> tuple[Study, str]:
        """As much of the study as one figure can show, and the note beneath it."""
        from kit.plots.titles import varying
        from kit.report.sentences import scenarios_in_order

        if self.trials.empty:
            raise SpecError(
                f"a plot of {self.name}, which has no trial yet", "one trial or more", "run some"
            )
        cells = self.trials.groupby(varying(self.trials), observed=True, dropna=False).ngroups
        order = scenarios_in_order(self.trials)
        if len(order) == 1 or (cells <= MOST_CELLS and not one_scenario):
            return self, self.provenance
        shown = f"scenario {order[0]}, one of {len(order)}: study.where(scenario=…) draws another"
        if order[0] not in self._parts:
            self._parts[order[0]] = self.where(scenario=order[0])
        return self._parts[order[0]], f"{self.provenance} · {shown}"


def _matches(trials: pd.DataFrame, column: str, wanted: Any) -> pd.Series:
    """Which rows have one of the wanted values.

    Raises:
        SpecError: no such column, or none has them.
    """
    if column not in trials:
        near = nearest(column, trials.columns)
        raise SpecError(
            f"where({column}=…), which is no column of trials",
            listing([str(name) for name in trials.columns]),
            f"did you mean {near}?" if near else "study.trials.columns lists them",
        )
    values = list(wanted) if isinstance(wanted, list | tuple | set) else [wanted]
    found = trials[column].isin(values)
    if not found.any():
        there = [str(value) for value in trials[column].dropna().unique()]
        near = nearest(str(values[0]), there)
        raise SpecError(
            f"where({column}={wanted!r}), which no trial has",
            listing(there[:20]),
            f"did you mean {near}?" if near else "choose one of those",
        )
    return found
