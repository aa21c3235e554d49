"""What `kit.preflight` returns, shown: a card for a notebook, plain text for a terminal."""

from __future__ import annotations

from dataclasses import fields
from typing import Final, Self

from kit.checks.finding import Finding, Preflight, Severity
from kit.cleaning import clean_text, safe_html
from kit.ui.cards import FAINT, card, wrapped

#: How each severity is marked, for people who see no colours, too.
MARKS: Final = {
    Severity.BLOCKS: "BLOCKS",
    Severity.WARNS: "WARNS",
    Severity.NOTES: "note",
    Severity.NOT_CHECKED: "not checked",
    Severity.OK: "ok",
}
_CELL: Final = "padding: 0.15em 0.8em 0.15em 0; vertical-align: top; text-align: left"


class PreflightCard(Preflight):
    """What was found before a study, as `kit.preflight` returns it; fields as in Preflight:
    `findings`, each with severity, found, reason and hint; `blocking`, `warnings`, `summary`.
    """

    __slots__ = ()

    @classmethod
    def of(cls, found: Preflight) -> Self:
        return cls(**{field.name: getattr(found, field.name) for field in fields(found)})

    def _repr_html_(self) -> str:
        rows = "".join(map(_row, self.findings))
        return card(
            f"<b>{safe_html(self.summary)}</b>",
            f'<table style="border-collapse: collapse">{rows}</table>',
        )

    def __repr__(self) -> str:
        lines = wrapped(self.summary, indent="")
        for one in self.findings:
            lines += ["", *finding_lines(one)]
        return clean_text("\n".join(lines))


def finding_lines(one: Finding) -> list[str]:
    """One finding for a terminal: what was found, why it matters, what to do."""
    about = f"{one.topic}, {one.server}" if one.server else one.topic
    lines = wrapped(f"{MARKS[one.severity]}  {about}: {one.found}", indent="")
    if one.reason:
        lines += wrapped(f"why: {one.reason}")
    if one.hint:
        lines += wrapped(f"hint: {one.hint}")
    return lines


def _row(one: Finding) -> str:
    mark = safe_html(MARKS[one.severity])
    shown = f"<b>{mark}</b>" if one.is_grave else f'<span style="{FAINT}">{mark}</span>'
    about = safe_html(f"{one.topic}, {one.server}" if one.server else one.topic)
    said = safe_html(one.found)
    if one.reason:
        said += f'<br><span style="{FAINT}">why: {safe_html(one.reason)}</span>'
    if one.hint:
        said += f'<br><span style="{FAINT}">hint: {safe_html(one.hint)}</span>'
    cells = "".join(f'<td style="{_CELL}">{cell}</td>' for cell in (shown, about, said))
    return f"<tr>{cells}</tr>"
