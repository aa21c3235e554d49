"""Writes the comparison of two studies, or of two releases of one, as a report of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from kit import __version__
from kit.cleaning import clean_text
from kit.plots.compare import compare_size_in, plot_compare
from kit.report.crashes import study_crashes
from kit.report.figures import Drawing
from kit.report.handout import markdown_text
from kit.report.sentences import command, provenance_of, versions
from kit.report.templates import THEME, page_template
from kit.stats.compare import (
    Comparison,
    compare,
    had_by_both,
    headline,
    on_one_side,
    overall,
    sentence,
)
from kit.stats.counted import latencies_frame
from kit.stats.frames import trials_frame
from kit.study.encoding import plain, to_json
from kit.study.files import unwritable, write_whole
from kit.study.folder import StudyFolder

TEMPLATE = "compare.html.j2"
#: What two studies may differ in without a word: how the one is told from the other.
_OWN = ("name", "created", "schema")
NOTHING = "–"
#: Of a setting, such as the prompts of a study.
MOST_CHARACTERS = 300


def usual_by(studies: Sequence[StudyFolder]) -> str:
    """What is compared if nobody says: the releases of one study, or two studies. Studies of one
    release each, that is another one, are compared by that, as a soak and the one before it."""
    if len(studies) < 2:
        return "release"
    releases = [set(study.spec.releases) for study in studies]
    are_alone = all(len(own) == 1 for own in releases)
    return "release" if are_alone and len(set.union(*releases)) == 2 else "study"


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashRow:
    """One kind of death, and how many servers of each side died of it."""

    text: str
    first: int
    second: int
    only: str | None  # the side that alone saw it


@dataclass(frozen=True, kw_only=True)
class ComparedStudies:
    """One study or several, and the two sides that are compared."""

    studies: tuple[StudyFolder, ...]
    by: str
    levels: tuple[str, ...] = ()
    scenarios: tuple[str, ...] = ()  # only these; (): all

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of the studies, each of its own."""
        names = [study.path.resolve().name for study in self.studies]
        if len(set(names)) < len(names):
            names = [f"{name} ({number})" for number, name in enumerate(names, 1)]
        return tuple(names)

    @cached_property
    def trials(self) -> pd.DataFrame:
        return self._frame([trials_frame(study) for study in self.studies])

    @cached_property
    def requests(self) -> pd.DataFrame:
        return self._frame([latencies_frame(study) for study in self.studies])

    @cached_property
    def found(self) -> list[Comparison]:
        """One for each traffic that both had.

        Raises:
            SpecError, NotEnoughDataError: as kit.stats.compare.compare.
        """
        return compare(self.trials, self.requests, by=self.by, levels=self.levels)

    @property
    def sides(self) -> tuple[str, str]:
        return self.found[0].first.name, self.found[0].second.name

    @cached_property
    def sentences(self) -> list[str]:
        """One a traffic; where there are several, one over all of it at last."""
        said = [sentence(one) for one in self.found]
        if len(said) > 1:
            said.append(overall(self.trials, by=self.by, levels=self.levels))
        return said

    @cached_property
    def left_out(self) -> dict[str, list[str]]:
        """Traffic that only one side had, by its name."""
        return on_one_side(self.trials, by=self.by, levels=self.levels)

    @cached_property
    def crashes(self) -> list[CrashRow]:
        """Every kind of death on either side under the traffic of both, the commonest first."""
        own = had_by_both(self.trials, by=self.by, levels=self.levels)
        counts: dict[str, list[int]] = {}
        for at, name in enumerate(self.sides):
            for study, trials in self._of_side(own, name):
                for crash in study_crashes(study, trials):
                    counts.setdefault(crash.text, [0, 0])[at] += crash.deaths
        rows = [
            CrashRow(
                text=text,
                first=first,
                second=second,
                only=None if first and second else self.sides[0 if first else 1],
            )
            for text, (first, second) in counts.items()
        ]
        return sorted(rows, key=lambda row: -row.first - row.second)

    @cached_property
    def differences(self) -> list[tuple[str, str, str]]:
        """What else two studies differ in: name, the first's value, the second's."""
        if len(self.studies) != 2:
            return []
        first, second = (_flat_spec(study) | dict(versions(study)) for study in self.studies)
        names = dict.fromkeys([*first, *second])
        return [
            (name, first.get(name, NOTHING), second.get(name, NOTHING))
            for name in names
            if first.get(name) != second.get(name)
        ]

    @property
    def provenance(self) -> str:
        """Of each study, in one line."""
        return "  ·  ".join(map(provenance_of, self.studies))

    @property
    def commands(self) -> list[str]:
        """What runs each study again."""
        return [command(study.spec) for study in self.studies]

    def _frame(self, frames: list[pd.DataFrame]) -> pd.DataFrame:
        named = [self._named(*one) for one in zip(frames, self.names, strict=True)]
        full = [frame for frame in named if len(frame)]  # pandas warns of types in empty ones
        both = pd.concat(full or named, ignore_index=True)
        return both[both["scenario"].isin(self.scenarios)] if self.scenarios else both

    def _named(self, frame: pd.DataFrame, study: str) -> pd.DataFrame:
        """The frame with its study's name: as a column to compare by, else before its trials'
        names. A column `study` would keep trials of different studies apart, which are to be
        compared."""
        if self.by == "study":
            return frame.assign(study=study)
        return frame.assign(trial_id=study + "/" + frame["trial_id"].astype("string"))

    def _of_side(
        self, trials: pd.DataFrame, side: str
    ) -> Iterator[tuple[StudyFolder, pd.DataFrame]]:
        """Each study with its trials of this side, named as the study names them."""
        chosen = trials[trials[self.by].astype(str) == side]
        for study, name in zip(self.studies, self.names, strict=True):
            if self.by == "study":
                own = chosen[chosen["study"] == name]
            else:
                own = chosen[chosen["trial_id"].str.startswith(f"{name}/")]
                own = own.assign(trial_id=own["trial_id"].str.removeprefix(f"{name}/"))
            yield study, own


def write_comparison(compared: ComparedStudies, into: Path) -> Path:
    """Write `<first>-against-<second>.html`, the same as Markdown and as JSON; the page's path.

    Raises:
        SpecError, NotEnoughDataError: as kit.stats.compare.compare.
        StoreError: `into` cannot be written.
    """
    document = comparison_document(compared)
    name = clean_text("-against-".join(compared.sides), lines=False).replace("/", "-")
    files = {
        f"{name}.html": _page(compared, document),
        f"{name}.md": _markdown(compared),
        f"{name}.json": json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
    }
    try:
        into.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(into, error) from error
    for file, text in files.items():
        write_whole(into / file, text.encode())
    return into / f"{name}.html"


def comparison_document(compared: ComparedStudies) -> dict[str, Any]:
    """The whole of the JSON file; infinite ratios are text, "inf" or "-inf"."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "kit": __version__,
        "by": compared.by,
        "first": compared.sides[0],
        "second": compared.sides[1],
        "headline": headline(compared.found),
        "comparisons": [
            plain(msgspec.to_builtins(one)) | {"says": sentence(one)} for one in compared.found
        ],
        "overall": compared.sentences[-1] if len(compared.found) > 1 else None,
        "only_on_one_side": compared.left_out,
        "crashes": msgspec.to_builtins(compared.crashes),
        "differences": [
            dict(zip(("name", "first", "second"), row, strict=True)) for row in compared.differences
        ],
    }


def _page(compared: ComparedStudies, document: Mapping[str, Any]) -> str:
    figure = Drawing(
        name="compare",
        caption="Left: the share of servers that died, with 95 % intervals. Right: the ratio of "
        "the median latencies; 1 is “the same”.",
        plot=partial(plot_compare, compared.found, by=compared.by),
        panels=True,
        size_in=compare_size_in(len(compared.found)),
        note=compared.provenance,
        titled=False,
    )
    return page_template(TEMPLATE).render(
        name=" against ".join(compared.sides),
        headline=document["headline"],
        theme=THEME,
        refresh_s=None,
        document=document,
        compared=compared,
        figure=figure,
        provenances=[provenance_of(study) for study in compared.studies],
    )


def _markdown(compared: ComparedStudies) -> str:
    rows = [f"# {markdown_text(headline(compared.found))}", ""]
    rows += [f"- {markdown_text(said)}" for said in compared.sentences]
    for side, traffic in compared.left_out.items():
        if traffic:
            rows += ["", f"Not compared, only {side} had it: {markdown_text(', '.join(traffic))}."]
    if compared.crashes:
        header = ["crash", *map(markdown_text, compared.sides)]
        rows += ["", "## How they died", "", f"| {' | '.join(header)} |", "|---|---|---|"]
        rows += [f"| {markdown_text(r.text)} | {r.first} | {r.second} |" for r in compared.crashes]
    if compared.differences:
        header = ["", *map(markdown_text, compared.names)]
        rows += ["", "## What else differs", "", f"| {' | '.join(header)} |", "|---|---|---|"]
        rows += [f"| {' | '.join(map(markdown_text, row))} |" for row in compared.differences]
    rows += ["", "## Run it again", ""]
    rows += [f"    {clean_text(text, lines=False)}" for text in compared.commands]
    return "\n".join([*rows, ""])


def _flat_spec(study: StudyFolder) -> dict[str, str]:
    """The study's settings by their path, "grid.concurrency", as text."""
    flat: dict[str, str] = {}

    def into(path: str, value: object) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                into(f"{path}.{key}" if path else str(key), inner)
        elif text := _short(value):
            flat[path] = text

    spec = msgspec.json.decode(to_json(study.spec))
    into("", {name: value for name, value in spec.items() if name not in _OWN})
    return flat


def _short(value: object) -> str:
    """A setting in words: what is empty is left out, what is long is cut."""
    if value in (None, [], {}, ""):
        return ""
    if isinstance(value, dict):
        return " ".join(filter(None, map(_short, value.values())))
    if isinstance(value, list):
        text = ", ".join(map(_short, value))
        return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} …"
    return str(value)
