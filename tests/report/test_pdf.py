"""A report on paper: how long it is, and what is said where it cannot be printed."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from lacks import lacks
from playwright.sync_api import sync_playwright

import kit
from kit.errors import ExportError, MachineError
from kit.report import pdf
from kit.servers.browser import BROWSERS, find_browser

#: A map of 154 cells, for a meeting.
MOST_PAGES = 12


@pytest.mark.browser
def test_the_recorded_map_is_printed_on_a_dozen_pages(tmp_path: Path) -> None:
    if find_browser() is None:
        lacks(f"no browser: none of {', '.join(BROWSERS)} (Debian: apt-get install chromium)")
    page = kit.recorded("release_map").report(tmp_path, pdf=True)
    printed = page.with_suffix(".pdf").read_bytes()
    assert printed.startswith(b"%PDF-")
    assert 5 <= len(re.findall(rb"/Type\s*/Page\b(?!s)", printed)) <= MOST_PAGES


@pytest.mark.browser
def test_the_decision_of_the_recorded_map_stands_on_the_first_screen_of_a_phone(
    tmp_path: Path,
) -> None:
    browser_path = find_browser()
    if browser_path is None:
        lacks(f"no browser: none of {', '.join(BROWSERS)} (Debian: apt-get install chromium)")
    page = kit.recorded("release_map").report(tmp_path)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"]
        )
        shown = browser.new_page(viewport={"width": 390, "height": 844})
        shown.goto(page.as_uri())
        advice = [row.bounding_box() for row in shown.locator("#decision li").all()]
        sure = shown.locator("#decision .sure").first.bounding_box()
        wide = shown.evaluate("document.documentElement.scrollWidth")
        browser.close()
    assert len(advice) >= 4
    boxes = [box for box in (*advice, sure) if box is not None]
    assert max(box["y"] + box["height"] for box in boxes) <= 844
    assert wide <= 390
    assert len(boxes) == len(advice) + 1


def test_without_a_browser_the_error_names_one_and_the_page_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.html"
    page.write_text("<h1>whole</h1>")
    monkeypatch.setattr(pdf, "find_browser", lambda: None)
    with pytest.raises(MachineError, match=r"no browser here.*chromium"):
        pdf.write_pdf(page)
    assert page.exists()


@pytest.mark.slow
def test_a_browser_that_prints_nothing_is_quoted_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = tmp_path / "browser"
    browser.write_text("#!/bin/sh\nsleep 600 &\necho 'cannot print today' >&2\nexit 1\n")
    browser.chmod(0o755)
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(pdf.tempfile, "tempdir", str(tmp_path / "scratch"))
    monkeypatch.setattr(pdf, "TIMEOUT_S", 5.0)
    monkeypatch.setattr(pdf, "find_browser", lambda: str(browser))
    with pytest.raises(ExportError, match="printed nothing"):
        pdf.write_pdf(tmp_path / "page.html")
    assert os.listdir(tmp_path / "scratch") == []
    assert not (tmp_path / "page.pdf").exists()
