"""The page that every report is: its templates, in which all text is cleaned and escaped."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from kit.cleaning import clean_text
from kit.report.sentences import frame_text, scenario_title
from kit.report.svg import THEMED
from kit.report.table import latency
from kit.study.words import percent

FOLDER = Path(__file__).parent
#: Colours as CSS variables: name, in light, in dark.
THEME = [(variable, light, dark) for light, (variable, dark) in THEMED.items()]


def page_template(name: str) -> Template:
    """A template that extends base.html.j2, which asks for: headline, name, theme, refresh_s, and
    document with "kit" and "created"."""
    page = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page.filters |= {"frame": frame_text, "percent": percent, "scenario": scenario_title}
    page.filters["latency"] = latency
    return page.get_template(name)


def _shown(value: object) -> object:
    """What stands in the page: text that came from anywhere is cleaned, then escaped by Jinja."""
    return clean_text(value) if isinstance(value, str) and not isinstance(value, Markup) else value
