"""What goes with the page of a report: Markdown for a ticket, and the data as CSV and Parquet."""

from __future__ import annotations

import io
import re
from typing import Any

import pandas as pd

from kit.cleaning import clean_text
from kit.crash.outlook import Outlook
from kit.report.crashes import ToDo
from kit.report.decision import StudyDecision
from kit.report.sentences import (
    command,
    early_sentence,
    headline,
    hosts_sentence,
    load_sentence,
)
from kit.report.table import COLUMNS
from kit.stats.frames import requests_frame, trials_frame
from kit.stats.size import is_large
from kit.stats.tokens import token_sentence
from kit.study.folder import StudyFolder

#: What Markdown, or a spreadsheet that opens a CSV file, would take for a command.
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~$@])")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def markdown_text(text: str) -> str:
    """Text from anywhere on one line of Markdown, where it stands as it is."""
    return _MARKUP.sub(r"\\\1", clean_text(text, lines=False))


def markdown(
    study: StudyFolder,
    document: dict[str, Any],
    decision: StudyDecision,
    remedies: list[ToDo],
    known: Outlook,
) -> str:
    """The report in short: decision, how sure, what was not tried, what is known beyond it, what to
    do, table, command.
    """
    several = len(decision.advice) > 1
    title = decision.overall if several else headline(trials_frame(study))
    rows = [f"# {markdown_text(title)}", "", markdown_text(decision.question), ""]
    if not document["finished"]:
        rows += ["This study is not finished.", ""]
    limits = (
        early_sentence(study),
        token_sentence(study),
        hosts_sentence(study),
        load_sentence(study),
    )
    rows += [f"{markdown_text(text)}\n" for text in limits if text]
    rows += [f"Part of the record is missing: {markdown_text(text)}." for text in study.damage]
    for one in decision.advice:
        rows.append(
            f"- **{markdown_text(one.scenario)}**: {markdown_text(one.text(list(decision.line)))}. "
            f"{markdown_text(one.sure)}"
        )
    if decision.not_tried:
        rows += ["", f"Not tried: {markdown_text('; '.join(decision.not_tried))}."]
    if known.line:
        rows += ["", f"Beyond this study: {markdown_text(known.line)}."]
    rows += [
        f"\n{markdown_text(name)} was left out: {markdown_text(why)}."
        for name, why in study.spec.left_out.items()
    ]
    if remedies:
        rows += ["", "## What to do", ""]
        rows += [f"- {markdown_text(r.where)}: {markdown_text(r.advice)}" for r in remedies]
    rows += ["", "## Result", "", f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for cell in document["cells"]:
        rows.append(f"| {' | '.join(markdown_text(text(cell)) for text in COLUMNS.values())} |")
    again = clean_text(command(study.spec), lines=False)
    rows += ["", "## Run it again", "", f"    {again}", ""]
    return "\n".join(rows)


def data_files(study: StudyFolder, name: str) -> dict[str, bytes]:
    """The study's data by file name: a row a trial as CSV, a row a request as Parquet.

    A study that is too large for a frame has its requests in its own folder alone.
    """
    files = {f"{name}-trials.csv": as_csv(trials_frame(study))}
    if is_large(study):
        return files
    requests = requests_frame(study)
    if len(requests):
        buffer = io.BytesIO()
        requests.to_parquet(buffer, index=False, compression="zstd")
        files[f"{name}-requests.parquet"] = buffer.getvalue()
    return files


def as_csv(frame: pd.DataFrame) -> bytes:
    """UTF-8 CSV in which no text is taken for a formula."""
    texts = frame.select_dtypes(["string", "object", "category"]).columns
    plain = {name: frame[name].astype(object).map(_plain, na_action="ignore") for name in texts}
    return frame.assign(**plain).to_csv(index=False).encode()


def _plain(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = clean_text(value, lines=False)
    return f"'{text}" if text.startswith(_FORMULA) else text
