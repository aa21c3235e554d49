"""What `kit.advise` returns, shown: a card for a notebook, plain text for a terminal."""

from __future__ import annotations

from dataclasses import fields
from typing import Self

from kit.cleaning import clean_text, safe_html
from kit.crash.upgrade import Advice, Risk
from kit.ui.cards import card, link_html, wrapped


class AdviceCard(Advice):
    """What is known of a release under some traffic, as `kit.advise` returns it; fields as in
    Advice: `risks`, `others`, `survived`, `better`, `better_measured`, `unmeasured`.
    """

    __slots__ = ()

    @classmethod
    def of(cls, found: Advice) -> Self:
        return cls(**{field.name: getattr(found, field.name) for field in fields(found)})

    def _repr_html_(self) -> str:
        return card(
            f"<b>{safe_html(self.summary)}</b>", *map(_risk_html, self.risks), self._beside()
        )

    def __repr__(self) -> str:
        lines = wrapped(self.summary, indent="")
        for risk in self.risks:
            lines += ["", *wrapped(f"{risk.crash}: {risk.title} ({', '.join(risk.labels)})")]
            said = (risk.seen, risk.on_hybrids, risk.advice)
            lines += [line for text in said if text for line in wrapped(text)]
            lines += [f"    {link}" for link in risk.links]
        return clean_text("\n".join([*lines, *(["", *wrapped(self._beside())])]).rstrip())

    def _beside(self) -> str:
        """What is known of the release under traffic that was not asked for."""
        names = ", ".join(f"{risk.crash} ({risk.labels[0]})" for risk in self.others)
        return f"Known of {self.release} under other traffic: {names}." if names else ""


def _risk_html(risk: Risk) -> str:
    labels = safe_html(", ".join(risk.labels))
    said = f"<b>{safe_html(risk.crash)}</b>: {safe_html(risk.title)} ({labels})"
    seen = "".join(f" {safe_html(text)}." for text in (risk.seen, risk.on_hybrids) if text)
    return f"{said}{seen} {safe_html(risk.advice)}" + "".join(map(link_html, risk.links))
