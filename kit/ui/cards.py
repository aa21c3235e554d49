"""What a person meets at the front door, shown: deaths, diagnoses and comparisons.

Each has a card for a notebook (`_repr_html_`, escaped, in the colours of its page) and plain text
for a terminal (`__repr__`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit.cleaning import clean_text, safe_html
from kit.study.words import in_lines, listing, ranges

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from kit.crash.match import Match
    from kit.report.compare import ComparedStudies
    from kit.stats.compare import Comparison

CARD = (
    "border: 1px solid rgba(128, 128, 128, 0.45); border-radius: 6px; padding: 0.6em 1em; "
    "margin: 0.4em 0; max-width: 60em; line-height: 1.45; text-align: left"
)
FAINT = "opacity: 0.7; font-size: 0.9em"
PRE = (
    "margin: 0.4em 0; padding: 0.5em 0.8em; background: rgba(128, 128, 128, 0.12); "
    "border-radius: 4px; white-space: pre-wrap; overflow-wrap: anywhere; font-size: 0.85em"
)


class ShownText(str):
    """Sentences, or a table in Markdown; as the last line of a notebook's cell they are text."""

    __slots__ = ()

    def __str__(self) -> str:
        return clean_text(str.__str__(self))

    def _repr_markdown_(self) -> str:
        return str(self)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CrashCard:
    """Deaths of one kind in a study, and what is known of them.

    text: one line, "SIGSEGV in f". deaths: how many servers, of how many `trials` of the same
    releases and scenarios. iterations: requests completed before each death, sorted. stack: from
    the fault outward, one line a frame; empty: there was none. known: the catalog's crashes that
    fit as well as the best one; empty: it is not in the catalog. trial_ids: the trials that died.
    """

    text: str
    deaths: int
    trials: int
    releases: tuple[str, ...]
    scenarios: tuple[str, ...]
    iterations: tuple[int, ...]
    stack: tuple[str, ...]
    known: tuple[Match, ...]
    advice: str
    trial_ids: tuple[str, ...]

    @property
    def where(self) -> str:
        """ "23.10 and 24.10 under cancel-race, after 1 to 41 requests"."""
        low, high = self.iterations[0], self.iterations[-1]
        span = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        unit = "request" if low == high == 1 else "requests"
        return (
            f"{ranges(self.releases, self.releases)} under {listing(self.scenarios)}, "
            f"after {span} {unit}"
        )

    def _repr_html_(self) -> str:
        return card(
            f"<b>{safe_html(self.text)}</b>",
            f"{self.deaths} of {self.trials} servers died so: {safe_html(self.where)}.",
            stack_html(self.stack),
            known_html(self.known),
            f"<b>What to do.</b> {safe_html(self.advice)}" if self.advice else "",
        )

    def __repr__(self) -> str:
        lines = [self.text, *wrapped(f"{self.deaths} of {self.trials} servers: {self.where}")]
        return clean_text(
            "\n".join([*lines, *stack_text(self.stack), *known_text(self.known, self.advice)])
        )


class Crashes(tuple[CrashCard, ...]):
    """The kinds of death of a study, commonest first; a tuple that shows itself."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return "".join(one._repr_html_() for one in self) or "<p>No server died.</p>"

    def __repr__(self) -> str:
        return "\n\n".join(map(repr, self)) or "No server died."


class Comparisons(tuple["Comparison", ...]):
    """Comparisons of two sides, one for each traffic that both had; a tuple that shows itself."""

    def __new__(cls, compared: ComparedStudies) -> Comparisons:
        made = super().__new__(cls, compared.found)
        made._compared = compared
        return made

    _compared: ComparedStudies

    @property
    def sentences(self) -> list[str]:
        """Which side is worse, how much and how surely: one sentence a traffic, one over all."""
        return self._compared.sentences

    def plot(self, figure: Figure | None = None) -> Any:
        """Draw deaths of both sides, and the ratio of their median latencies; the two axes."""
        from kit.plots.compare import compare_size_in, plot_compare
        from kit.ui.drawing import draw_panels

        return draw_panels(
            lambda where: plot_compare(self, where, by=self._compared.by),
            note=self._compared.provenance,
            size_in=compare_size_in(len(self)),
            figure=figure,
        )

    def report(self, folder: str | Path = "reports", *, pdf: bool = False) -> Path:
        """Write the comparison into `folder`: one HTML file, the same as Markdown and as JSON.

        It says as well what else two studies differ in, what traffic only one of them had, and
        which crashes only one side saw. pdf: as for study.report. Returns the HTML file's path.

        Raises:
            StoreError: the folder cannot be written.
            MachineError: a PDF is asked for and no browser is here. ExportError: it did not print.
        """
        from kit.report.compare import write_comparison

        page = write_comparison(self._compared, Path(folder).expanduser())
        if pdf:
            from kit.report.pdf import write_pdf

            write_pdf(page)
        return page

    def _repr_html_(self) -> str:
        items = "".join(f"<li>{safe_html(sentence)}</li>" for sentence in self.sentences)
        return f'<ul style="text-align: left">{items}</ul>'

    def __repr__(self) -> str:
        return clean_text("\n".join("\n".join(wrapped(said, indent="")) for said in self.sentences))


def card(*parts: str) -> str:
    body = "".join(f'<div style="margin: 0.25em 0">{part}</div>' for part in parts if part)
    return f'<div class="kit-card" style="{CARD}">{body}</div>'


def stack_html(stack: Sequence[str]) -> str:
    if not stack:
        return ""
    lines = safe_html("\n".join(stack))
    head = f'<span style="{FAINT}">stack, from the fault outward</span>'
    return f'{head}<pre style="{PRE}">{lines}</pre>'


def known_html(known: Sequence[Match]) -> str:
    return "".join(
        f"<div>Known crash <b>{safe_html(match.id)}</b>: {safe_html(match.title)}"
        + "".join(map(link_html, match.links))
        + "</div>"
        for match in known
    )


def link_html(address: str) -> str:
    """A link of the catalog, which holds only addresses of issues and pull requests."""
    short = "/".join(address.split("/")[-3:])
    return f' <a href="{safe_html(address)}" style="font-size: 0.9em">{safe_html(short)}</a>'


def stack_text(stack: Iterable[str]) -> list[str]:
    frames = [f"    {frame}" for frame in stack]
    return ["  stack, from the fault outward:", *frames] if frames else []


def known_text(known: Iterable[Match], advice: str) -> list[str]:
    lines = []
    for match in known:
        lines += wrapped(f"known crash {match.id}: {match.title}")
        lines += [f"    {link}" for link in match.links]
    return [*lines, *(wrapped(f"what to do: {advice}") if advice else [])]


def wrapped(text: str, *, indent: str = "  ") -> list[str]:
    return in_lines(text, first=indent, rest="  ")
