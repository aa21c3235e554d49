"""Finds a Chromium of this machine: what prints a page to PDF, and what the tests drive."""

from __future__ import annotations

import shutil
from typing import Final

#: Tried in this order: names on the PATH, then where macOS and Windows put them.
BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ELSEWHERE: Final = (
    "microsoft-edge",
    "msedge",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
)


def find_browser() -> str | None:
    """The path of a browser of the Chromium family; None: there is none.

    >>> import os
    >>> found = find_browser()
    >>> found is None or os.access(found, os.X_OK)
    True
    """
    return next(filter(None, map(shutil.which, (*BROWSERS, *ELSEWHERE))), None)
