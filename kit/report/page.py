"""Writes the report of a study: one self-contained HTML file, and latest.json."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from kit.cleaning import clean_text
from kit.crash.outlook import Outlook
from kit.kv.advice import study_advice
from kit.report.cells import result_document
from kit.report.crashes import StudyCrash, study_crashes, to_do, without_stack
from kit.report.decision import StudyDecision, study_decision
from kit.report.figures import drawings, explorations, hero, map_drawing
from kit.report.handout import data_files, markdown
from kit.report.known import known_beyond
from kit.report.limit import limit_section
from kit.report.release_map import beside_sentences, what_it_cost
from kit.report.sentences import (
    answer,
    command,
    early_sentence,
    headline,
    hosts_sentence,
    load_sentence,
    provenance_of,
    scenarios_in_order,
    versions,
)
from kit.report.soak import soak_section
from kit.report.table import latency
from kit.report.templates import THEME, page_template
from kit.runner.agenda import decided
from kit.servers.watch.names import NOT_EXPORTED, WATCHER_FAILED
from kit.stats.client_limits import client_limits, client_sentence
from kit.stats.counted import class_note, latencies_frame
from kit.stats.frames import samples_frame, trials_frame
from kit.stats.summary import CELL, cell_columns, crash_table
from kit.stats.tokens import token_sentence
from kit.stats.trial_keys import engine_labels
from kit.study.encoding import to_json
from kit.study.files import unwritable, write_whole
from kit.study.folder import StudyFolder
from kit.study.plan import not_applicable
from kit.study.recorded import open_study
from kit.study.releases import in_order

TEMPLATE = "page.html.j2"


def write_report(
    study: StudyFolder | Path,
    into: Path,
    *,
    refresh_s: float | None = None,
    beside: StudyFolder | None = None,
) -> Path:
    """Write `<study folder>.html` and what goes with it into a folder; the page's path.

    Beside it: the same for a ticket (`.md`), a row a trial (`-trials.csv`) and, if there are any, a
    row a request (`-requests.parquet`); `latest.html`, `latest.md` and `latest.json`. A study that
    is not finished is reported as far as it is.

    refresh_s: a browser that shows the page of an unfinished study loads it anew this often.
    beside: another study, whose cells the map has where this one has none, such as hybrids'.

    Raises:
        StoreError: no study there, or `into` cannot be written.
    """
    folder = open_study(study)
    document = result_document(folder)
    name = clean_text(folder.path.resolve().name, lines=False)
    data = data_files(folder, name)
    decision = study_decision(folder)
    crashes = study_crashes(folder, trials_frame(folder))
    known = known_beyond(folder, trials_frame(folder))
    page = render(
        folder, document, decision, crashes, known, list(data), refresh_s, beside=beside
    ).encode()
    try:
        into.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(into, error) from error
    written = into / f"{name}.html"
    for path in (written, into / "latest.html"):
        write_whole(path, page)
    text = markdown(folder, document, decision, to_do(crashes), known).encode()
    for path in (into / f"{name}.md", into / "latest.md"):
        write_whole(path, text)
    for file, content in data.items():
        write_whole(into / file, content)
    as_json = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    write_whole(into / "latest.json", as_json.encode() + b"\n")
    return written


def render(
    study: StudyFolder,
    document: dict[str, Any],
    decision: StudyDecision,
    crashes: list[StudyCrash],
    known: Outlook,
    data: Sequence[str] = (),
    refresh_s: float | None = None,
    *,
    beside: StudyFolder | None = None,
) -> str:
    """The report as HTML; everything that a server said is escaped. data: files beside it.

    beside: as for write_report.
    """
    spec, trials = study.spec, trials_frame(study)
    requests, samples = latencies_frame(study), samples_frame(study)
    limits = client_limits(study)
    line = provenance_of(study)
    figures = "  ·  ".join(filter(None, (line, class_note(requests))))
    skipped = not_applicable(spec)
    main = hero(
        trials, skipped, line, decided(study), spec.sequential.beta if spec.sequential else None
    )
    if beside is not None:
        main = map_drawing(study, beside)
    limit = limit_section(study, line)
    soak = soak_section(study, line)
    is_map = main is not None and main.name == "map"
    table = _table(document, trials)
    has = _worth_a_column([cell for block in table for cell in block["cells"]])
    return page_template(TEMPLATE).render(
        name=spec.name,
        theme=THEME,
        headline=limit.headline
        if limit is not None
        else soak.headline
        if soak is not None
        else decision.overall
        if len(decision.advice) > 1
        else headline(trials),
        decision=decision,
        known=known,
        to_do=to_do(crashes),
        data=data,
        answer=answer(trials),
        document=document,
        spec=spec,
        table=table,
        has=has,
        width=5 + 2 * has["latency"] + has["kv"],
        client=client_sentence(limits),
        hosts=" ".join(filter(None, (hosts_sentence(study), load_sentence(study)))),
        tokens=token_sentence(study),
        early=early_sentence(study),
        hero=main,
        beside=[] if beside is None else beside_sentences(beside),
        limit=limit,
        soak=soak,
        # A map says it all in one figure; those of its scenarios would be dozens.
        drawings=[] if is_map else list(drawings(trials, requests, samples, limits, figures)),
        closer=[] if is_map else list(explorations(trials, requests, figures)),
        kv_advice=study_advice(study),
        engine_labels=engine_labels(trial.spec.engine for trial in study.trials()),
        crashes=crashes,
        without_stack=without_stack(crashes),
        trials=trials.astype(object).where(trials.notna(), None).to_dict("records"),
        skipped=skipped,
        provenance=line,
        versions=versions(study),
        command=command(spec),
        whole_spec=to_json(spec).decode(),
        damage=study.damage,
        refresh_s=None if document["finished"] else refresh_s,
        cost=what_it_cost(study) if spec.sequential and len(trials) else None,
    )


def _among(row: Mapping[Any, Any], cells: Iterable[Mapping[Any, Any]]) -> bool:
    """Whether the row's cell is one of these; an open loop's concurrency is NA, equal to none."""
    key = [str(row[name]) for name in CELL]
    return any([str(cell[name]) for name in CELL] == key for cell in cells)


def _worth_a_column(cells: list[dict[str, Any]]) -> dict[str, bool]:
    """Which columns of the table say something in at least one cell."""
    quantiles = (("latency_p50_ms", 0.5), ("latency_p95_ms", 0.95))
    kept = [cell["kv_peak_fraction"] is not None for cell in cells]
    return {
        "latency": any(latency(cell, *one) != "-" for cell in cells for one in quantiles),
        "kv": any(kept) or any(cell["kv_silence"] == WATCHER_FAILED for cell in cells),
    }


def _table(document: dict[str, Any], trials: pd.DataFrame) -> list[dict[str, Any]]:
    """The result cells with what the evidence supports, in blocks of equal traffic."""
    summary = crash_table(trials, cell_columns(trials)).to_dict("records")
    unseen = trials.loc[trials["watch_fault"].notna(), list(CELL)].to_dict("records")
    cells = [
        cell
        | {"says": row["says"], "left_out": row["left_out"]}
        | {"kv_silence": WATCHER_FAILED if _among(row, unseen) else NOT_EXPORTED}
        for cell, row in zip(document["cells"], summary, strict=True)
    ]
    order = scenarios_in_order(trials)
    line = in_order(cell["release"] for cell in cells)

    def block(cell: dict[str, Any]) -> tuple[int, str, int]:
        return order.index(cell["scenario"]), cell["engine"], cell["concurrency"] or 0

    cells.sort(key=lambda cell: (*block(cell), line.index(cell["release"])))
    blocks = [list(rows) for _, rows in groupby(cells, block)]
    return [{**rows[0], "cells": rows} for rows in blocks]
