"""The verdict of a soak: sentences, a picture, and JUnit XML for a pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from xml.etree import ElementTree

from matplotlib.axes import Axes

from kit.cleaning import clean_text
from kit.plots.soak import plot_drift
from kit.report.figures import WIDTH_IN, Drawing
from kit.stats.soak_study import MEASURES, SoakCheck, SoakFound, SoakStatus, failing_names, soak_of
from kit.study.folder import StudyFolder
from kit.study.words import aligned, listing

_MARKS = {
    SoakStatus.PASSED: "✓",
    SoakStatus.FAILED: "✗",
    SoakStatus.UNDECIDED: "?",
    SoakStatus.NOT_EXPORTED: "-",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SoakSection:
    """What a report says of a soak."""

    headline: str
    checks: tuple[SoakCheck, ...]
    drawing: Drawing


def soak_section(study: StudyFolder, note: str) -> SoakSection | None:
    """Of a soak; None: the study is none."""
    if study.spec.soak is None:
        return None
    found = soak_of(study)
    return SoakSection(
        headline=soak_sentence(found),
        checks=found.checks,
        drawing=Drawing(
            name="drift",
            caption="What the server holds, and how long it takes, over the soak.",
            plot=partial(draw_drift, found),
            size_in=(WIDTH_IN, 3.8),
            note=note,
        ),
    )


def soak_sentence(found: SoakFound) -> str:
    """The verdict, and what it rests on."""
    survival = found.checks[0].says
    if found.status is SoakStatus.PASSED:
        return f"{found.server} passed the soak: {survival}."
    if found.status is SoakStatus.FAILED:
        failed = list(failing_names(found))
        return f"{found.server} failed the soak ({listing(failed)}): {survival}."
    open_ones = [one.name for one in found.checks if one.status is SoakStatus.UNDECIDED]
    return f"Not decided for {found.server} ({listing(open_ones)}): {survival}."


def checks_table(found: SoakFound) -> str:
    """The checks as aligned text."""
    rows = [(_MARKS[one.status], one.name, one.says) for one in found.checks]
    return aligned(("", "check", "evidence"), rows)


def draw_drift(found: SoakFound, ax: Axes) -> Axes:
    """The picture: every measure against the requests done."""
    failed = set(failing_names(found))
    grows = {one.name for one in MEASURES if one.claim in failed}
    title = (
        f"{listing([one.words for one in MEASURES if one.name in grows])} grew over the soak"
        if grows
        else "Nothing that was measured grew over the soak"
    )
    return plot_drift(
        found.series,
        ax,
        names={one.name: one.words for one in MEASURES},
        grows=frozenset(grows),
        title=title[0].upper() + title[1:],
    )


def junit(found: SoakFound, *, seconds: float | None = None) -> bytes:
    """The checks as JUnit XML: a test case each; what is not exported or not decided is skipped,
    but for the claim itself, without which the soak has failed.

    seconds: how long the soak took.
    """
    cases = [(one, _outcome(one)) for one in found.checks]
    counts = {
        "tests": str(len(cases)),
        "failures": str(sum(outcome == "failure" for _, outcome in cases)),
        "errors": "0",
        "skipped": str(sum(outcome == "skipped" for _, outcome in cases)),
    }
    if seconds is not None:
        counts["time"] = f"{seconds:.3f}"
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(root, "testsuite", {"name": "kit.soak", **counts})
    for one, outcome in cases:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            {"classname": f"soak.{_plain(found.server)}", "name": _plain(one.name)},
        )
        says = _plain(one.says)
        if outcome:
            ElementTree.SubElement(case, outcome, {"message": says}).text = says
        else:
            ElementTree.SubElement(case, "system-out").text = says
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _outcome(check: SoakCheck) -> str:
    if check.status is SoakStatus.FAILED:
        return "failure"
    if check.status is SoakStatus.UNDECIDED and check.name in ("survives", "answers"):
        return "failure"
    return "" if check.status is SoakStatus.PASSED else "skipped"


def _plain(text: str) -> str:
    """Without what XML cannot hold."""
    return clean_text(text, lines=False)
