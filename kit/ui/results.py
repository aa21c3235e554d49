"""How a command ends: a study's answer, its table, what to do, and where the report is."""

from __future__ import annotations

from pathlib import Path

from kit.report.cells import result_document
from kit.report.page import write_report
from kit.report.table import text_table
from kit.study.folder import StudyFolder
from kit.study.words import paragraph
from kit.ui.console import (
    DONE,
    NOTHING_LEARNED,
    busy,
    print_json,
    print_text,
    remark,
)
from kit.ui.study_view import Study

COLUMNS = 80


def print_study(
    folder: StudyFolder, *, as_json: bool, report: Path | None, into: Path | None = None
) -> tuple[int, bool]:
    """Print a study's result; the exit code, and whether a server died.

    report: one that is written already. into: where one is written now.
    """
    if into is not None:
        with busy("writing the report"):
            report = write_report(folder, into)
    with busy("reading the study"):
        document = result_document(folder)
        lines = [] if as_json else _lines(Study(folder), document["cells"], report)
    if as_json:
        print_json({"folder": str(folder.path), "report": report and str(report), **document})
    else:
        print_text("\n".join(lines))
    silent = [t for t in folder.trials() if t.result and not t.result.verdict.is_counted]
    if silent:
        remark(
            f"{len(silent)} trials say nothing about a server, as the kit's own side failed or "
            f"they were stopped; the first: {silent[0].result.reason if silent[0].result else ''}"
        )
    learned = any(cell["trials"] for cell in document["cells"])
    crashed = any(cell["crashed"] for cell in document["cells"])
    return DONE if learned else NOTHING_LEARNED, crashed


def _lines(study: Study, cells: list[dict[str, object]], report: Path | None) -> list[str]:
    lines = [paragraph(study.answer), "", text_table(cells, width=COLUMNS), *advice_lines(study)]
    if report:
        lines += ["", f"report: {report}"]
    return lines


def advice_lines(study: Study) -> list[str]:
    """What the study's reader should do, below its result; nothing where nothing follows."""
    advice = study.advice
    if not advice:
        return []
    return ["", "What to do:", *(paragraph(text, first="- ", rest="  ") for text in advice)]
