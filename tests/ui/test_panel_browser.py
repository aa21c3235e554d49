"""A person's way through the first notebook: JupyterLab in a real browser, a click on Run, and a
real server's crash in the result table.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
#: Headless, and silent towards the network: it has no business beyond 127.0.0.1.
BROWSER_FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
PATIENCE_MS = 120_000
QUIET = {
    "@jupyterlab/apputils-extension:notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
    }
}


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """The address of a JupyterLab of its own, on a copy of the notebooks."""
    shutil.copytree(NOTEBOOKS, tmp_path / "notebooks")
    settings = tmp_path / "config" / "labconfig" / "default_setting_overrides.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps(QUIET), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += ["--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0"]
    command += ["--IdentityProvider.token=", "--LabApp.news_url=None"]
    command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    with (tmp_path / "lab.log").open("wb") as log:
        server = subprocess.Popen(
            [*command, f"--ServerApp.root_dir={tmp_path / 'notebooks'}"],
            env={**os.environ, **{name: str(tmp_path / folder) for name, folder in own.items()}},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    address = f"http://127.0.0.1:{port}/lab"
    try:
        wait_for(address, server)
        yield address
    finally:
        server.terminate()
        server.wait(30)


def wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(address, timeout=10):
                return
        except urllib.error.URLError:
            assert server.poll() is None, "JupyterLab did not start; see lab.log"
            assert time.monotonic() < deadline, "JupyterLab does not answer"
            time.sleep(0.2)


@pytest.fixture
def page() -> Iterator[Page]:
    browser_path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser_path is None:
        missing = f"no browser: none of {', '.join(BROWSERS)} (Debian: apt-get install chromium)"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=BROWSER_FLAGS)
        shown = browser.new_page(viewport={"width": 1300, "height": 1000})
        shown.set_default_timeout(PATIENCE_MS)
        yield shown
        browser.close()


def run_all_cells(page: Page, address: str) -> None:
    page.goto(f"{address}/tree/01_reproduce_the_crash.ipynb")
    expect(page.locator("#jp-main-statusbar")).to_contain_text("| Idle", timeout=PATIENCE_MS)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()


@pytest.mark.timeout(400)
def test_a_click_on_run_reproduces_the_crash(lab: str, page: Page, tmp_path: Path) -> None:
    run_all_cells(page, lab)
    panel = page.locator(".kit-panel")
    panel.scroll_into_view_if_needed()
    releases, scenarios = panel.locator("select").all()
    concurrency, requests = panel.locator("input[type=text]").all()[:2]
    run = panel.get_by_role("button", name="Run")

    concurrency.fill("sixteen")
    concurrency.blur()
    expect(panel.locator(".kit-problem")).to_contain_text("'sixteen'")
    expect(run).to_be_disabled()
    page.screenshot(path=tmp_path / "refused.png")

    concurrency.fill("16")
    concurrency.blur()
    releases.select_option(label="23.10  (Triton 2.39.0)")
    (fault,) = [
        text for text in scenarios.locator("option").all_inner_texts() if "cancel-race" in text
    ]
    scenarios.select_option(label=fault)
    # One 23.10 in twenty or so outlives 200 requests; 1 in 3,000,000 outlives five times as many.
    requests.fill("1000")
    panel.locator("input[type=number]").fill("1")
    expect(panel).to_contain_text("1 trial: 1 release, 1 scenario, 1 repeat")
    run.click()

    expect(panel.locator("progress")).to_be_visible(timeout=PATIENCE_MS)
    expect(panel.get_by_role("button", name="Stop")).to_be_enabled()
    page.screenshot(path=tmp_path / "running.png")
    table = panel.locator(".kit-results")
    expect(table).to_contain_text("1 of 1", timeout=PATIENCE_MS)
    expect(table).to_contain_text("TRITONBACKEND_ResponseFactoryIsCancelled")
    expect(run).to_be_enabled()
    table.scroll_into_view_if_needed()
    page.screenshot(path=tmp_path / "result.png")
    (study,) = (tmp_path / "studies").iterdir()
    assert (study / "done.json").exists()
