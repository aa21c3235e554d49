"""The page of earlier studies in the application: what was run here, and what has changed since."""

from __future__ import annotations

from pathlib import Path

import ipywidgets

from kit.cleaning import safe_html
from kit.errors import KitError
from kit.ui.histories import history

ALL = "all"
STYLE = (
    "<style>.kit-history { overflow-x: auto } .kit-history table { border-collapse: collapse }"
    ".kit-history :is(td, th) { padding: 2px 10px; text-align: left; white-space: nowrap;"
    " line-height: 1.4 }</style>"
)


class HistoryView(ipywidgets.VBox):  # type: ignore[misc]
    """A button that lists the studies below a folder, and two lists that take a part of them.

    Nothing is read before the button is clicked, so that the panel above is there at once; each
    click reads the folder anew.
    """

    def __init__(self, studies: Path) -> None:
        self._studies = studies
        self.show = ipywidgets.Button(description="Earlier studies", icon="refresh")
        self.release = ipywidgets.Dropdown(description="release", options=[ALL])
        self.scenario = ipywidgets.Dropdown(description="scenario", options=[ALL])
        self.listed = ipywidgets.HTML()
        self._choice = ipywidgets.HBox([self.release, self.scenario])
        self.show.on_click(lambda _: self.read())
        for field in (self.release, self.scenario):
            field.observe(lambda _: self._list(), "value")
        super().__init__([self.show])

    def read(self) -> None:
        """Read the folder, and list what is in it."""
        if not self._studies.exists():
            self.listed.value = "<p>No study was run here yet.</p>"
            self.children = [self.show, self.listed]
            return
        try:
            table = history(self._studies).table
        except KitError as error:
            self._say(error)
            return
        for field, column in ((self.release, "release"), (self.scenario, "scenario")):
            names, chosen = sorted(set(table[column].astype(str))), field.value
            if field.options != (ALL, *names):  # new options take the choice back
                field.options = (ALL, *names)
                field.value = chosen if chosen in names else ALL
        self._list()
        self.children = [self.show, self._choice, self.listed]

    def _list(self) -> None:
        chosen = {
            name: field.value
            for name, field in (("release", self.release), ("scenario", self.scenario))
            if field.value != ALL
        }
        try:
            listed = history(self._studies, **chosen)._repr_html_()
        except KitError as error:
            self._say(error)
            return
        self.listed.value = f'{STYLE}<div class="kit-history">{listed}</div>'

    def _say(self, error: KitError) -> None:
        self.listed.value = f"<p>{safe_html(str(error))}</p>"
        self.children = [self.show, self.listed]
