"""A person's way through the panel, in a real browser with real servers: by mouse in JupyterLab,
by keyboard alone in the application that Voilà serves.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from lacks import lacks
from playwright.sync_api import Locator, Page, Route, expect, sync_playwright

from kit.servers.browser import BROWSERS, find_browser
from kit.study.folder import StudyFolder
from kit.ui.app import app_notebook, voila_command, voila_environment

ROOT = Path(__file__).resolve().parents[2]

#: Headless, and silent towards the network: it has no business beyond 127.0.0.1.
BROWSER_FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
#: A slow machine needs a minute for what takes a second elsewhere: no step has less than this.
PATIENCE_MS = 180_000
expect.set_options(timeout=PATIENCE_MS)
#: What the panel of the notebook has chosen before anybody touches it.
CHOSEN = {"releases": ["24.05", "24.08"], "scenarios": ["control"]}
QUIET = {
    "@jupyterlab/apputils-extension:notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
    }
}


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """The address of a JupyterLab of its own, with a notebook of one cell, which is a panel."""
    (tmp_path / "notebooks").mkdir()
    notebook = app_notebook(tmp_path / "notebooks", tmp_path / "notebooks" / "studies", CHOSEN)
    notebook.rename(notebook.with_name("panel.ipynb"))
    settings = tmp_path / "config" / "labconfig" / "default_setting_overrides.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps(QUIET), encoding="utf-8")
    port = free_port()
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
        end(server, tmp_path / "lab.log")


TOKEN = "a-token-for-this-test"


@pytest.fixture
def app(tmp_path: Path) -> Iterator[str]:
    """The address of the application, on a study folder of its own."""
    port = free_port()
    notebook = app_notebook(tmp_path, tmp_path / "studies")
    command = voila_command(notebook, ip="127.0.0.1", port=port, token=TOKEN)
    with (tmp_path / "app.log").open("wb") as log:
        server = subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**voila_environment(), "JUPYTER_CONFIG_DIR": str(tmp_path / "config")},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    address = f"http://127.0.0.1:{port}/?token={TOKEN}"
    try:
        wait_for(f"http://127.0.0.1:{port}/static/", server)
        yield address
    finally:
        end(server, tmp_path / "app.log")


def end(server: subprocess.Popen[bytes], log: Path) -> None:
    """End it, and print what it logged: pytest shows that of a test that failed."""
    server.terminate()
    server.wait(PATIENCE_MS / 1000)
    print(log.read_text(errors="replace")[-4000:])


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while True:
        try:
            with urllib.request.urlopen(address, timeout=10):
                return
        except urllib.error.HTTPError:
            return  # it answers, if only to say that this is not for us
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            assert server.poll() is None, "the server of notebooks did not start; its log has why"
            assert time.monotonic() < deadline, "the server of notebooks does not answer"
            time.sleep(0.2)


@pytest.fixture
def page() -> Iterator[Page]:
    browser_path = find_browser()
    if browser_path is None:
        lacks(f"no browser: none of {', '.join(BROWSERS)} (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=BROWSER_FLAGS)
        shown = browser.new_page(viewport={"width": 1300, "height": 1000})
        shown.set_default_timeout(PATIENCE_MS)
        shown.on("console", lambda said: print(f"console {said.type}: {said.text[:300]}"))
        yield shown
        browser.close()


def run_all_cells(page: Page, address: str) -> None:
    page.goto(f"{address}/tree/panel.ipynb")
    expect(page.locator("#jp-main-statusbar")).to_contain_text("| Idle")
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()


def plan_of(study: Path) -> dict[str, object]:
    """What the study in this folder is, as its own file has it."""
    spec = json.loads((study / "study.json").read_text())
    return {"repeats": spec["repeats"], "concurrency": spec["grid"].get("concurrency")}


def deaths(study: Path) -> dict[int | None, int]:
    """Servers that died, by concurrency."""
    died: dict[int | None, int] = {}
    for trial in StudyFolder(study).trials():
        assert trial.result is not None
        clients = trial.spec.workload.concurrency
        died[clients] = died.get(clients, 0) + trial.result.verdict.is_death
    return died


def choose_deadly(panel: Locator) -> None:
    panel.get_by_label("23.10 (Triton 2.39.0)").check()
    panel.get_by_label("cancel-race:").check()


@pytest.mark.timeout(1800)
def test_by_mouse_in_jupyterlab_what_is_shown_is_what_runs(
    lab: str, page: Page, tmp_path: Path
) -> None:
    studies = tmp_path / "notebooks" / "studies"
    run_all_cells(page, lab)
    panel = page.locator("form.kit-panel")
    panel.scroll_into_view_if_needed()
    chips = panel.get_by_role("button", name="remove")
    expect(chips).to_have_count(sum(map(len, CHOSEN.values())))
    for left in range(chips.count(), 0, -1):
        chips.first.click()
        expect(chips).to_have_count(left - 1)
    run, stop = (panel.get_by_role("button", name=name, exact=True) for name in ("Run", "Stop"))
    concurrency = panel.get_by_label("concurrency (clients)")

    concurrency.fill("sixteen")
    expect(panel.get_by_text("'sixteen'")).to_be_visible()
    expect(run).to_be_disabled()
    concurrency.fill("999999")
    expect(panel.get_by_text("4,096 at most")).to_be_visible()

    # Each question has its own fields, and a server elsewhere its box.
    question = panel.get_by_label("question", exact=True)
    question.select_option("limit")
    expect(panel.get_by_label("p95_ttft_ms", exact=True)).to_be_visible()
    expect(panel.get_by_label("repeats", exact=True)).to_be_hidden()
    question.select_option("crash")
    expect(panel.get_by_label("p95_ttft_ms", exact=True)).to_be_hidden()
    panel.get_by_text("Servers in containers").click()
    url, box = panel.get_by_label("URL", exact=True), panel.get_by_label("this traffic may go")
    expect(box).to_be_hidden()
    url.fill("http://192.0.2.1:8000")
    expect(box).to_be_visible()
    expect(run).to_be_disabled()
    url.fill("")
    expect(box).to_be_hidden()

    # No key is taken for a command of JupyterLab's, such as b for a new cell.
    cells = page.locator(".jp-Notebook .jp-Cell").count()
    for field in ("input[type=checkbox]", "button", "select", "summary"):
        panel.locator(f"{field}:visible").first.focus()
        page.keyboard.press("b")
    assert page.locator(".jp-Notebook .jp-Cell").count() == cells

    # Typed fast: many repeats and then few; the last that stands on the screen is what runs.
    choose_deadly(panel)
    repeats = panel.get_by_label("repeats", exact=True)
    repeats.fill("1000")
    repeats.fill("5000")
    repeats.fill("2")
    concurrency.fill("4, 16")
    panel.get_by_label("requests", exact=True).fill("400")
    run.click()
    expect(stop).to_be_enabled()
    expect(stop).to_be_focused()
    expect(panel.locator(".kit-plan")).to_contain_text("4 trials")
    expect(panel.locator(".kit-progress")).to_contain_text("of 4 trials")
    [study] = studies.glob("panel-*")
    assert plan_of(study) == {"repeats": 2, "concurrency": [4, 16]}

    stop.click()
    expect(panel.get_by_text("Stopped; Run goes on")).to_be_visible()
    run.click()
    deadline = time.monotonic() + 4 * PATIENCE_MS / 1000  # of four trials
    while not (study / "done.json").exists():
        assert time.monotonic() < deadline, "the study did not end"
        page.wait_for_timeout(200)
    died = deaths(study)
    assert sum(died.values()) > 0, "23.10 outlives 400 requests once in 400 lives"
    table = panel.locator(".kit-results")
    for count in died.values():
        expect(table).to_contain_text(f"{count} of 2")
    expect(table).to_contain_text("TRITONBACKEND_ResponseFactoryIsCancelled")
    expect(panel.locator(".kit-crash")).to_contain_text(f"{sum(died.values())} of 4 servers died")
    assert list(studies.glob("panel-*")) == [study]
    assert (study / "done.json").exists()


@pytest.mark.timeout(1800)
def test_by_keyboard_alone_in_the_application(app: str, page: Page, tmp_path: Path) -> None:
    page.goto(app)
    panel = page.locator("form.kit-panel")
    expect(panel).to_be_visible()
    found = Axe().run(page, context="form.kit-panel").response["violations"]
    assert [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in SERIOUS] == []
    for width in (1400, 700, 390):
        page.set_viewport_size({"width": width, "height": 1000})
        page.screenshot(path=tmp_path / f"app-{width}.png", full_page=True)
        inner = panel.evaluate("form => form.scrollWidth - form.clientWidth")
        assert inner <= 1, f"wider than {width} px"
        for hidden in panel.locator(".kit-list").evaluate_all(HIDDEN_SIDEWAYS):
            assert hidden <= 1, f"choices that lie beside the list at {width} px"

    def tab_to(name: str) -> None:
        for _ in range(90):
            page.keyboard.press("Tab")
            if page.evaluate(FOCUSED) == name:
                return
        raise AssertionError(f"Tab does not reach {name!r}")

    tab_to("23.10 (Triton 2.39.0)")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Space")
    tab_to(
        "cancel-race: Cancellation asked for from a second thread while the last response is sent"
    )
    page.keyboard.press("Space")
    tab_to("concurrency (clients)")
    page.keyboard.type("16")
    tab_to("requests")
    page.keyboard.type("100")
    tab_to("repeats")
    page.keyboard.press("Control+A")
    page.keyboard.type("1")
    expect(panel.locator(".kit-plan")).to_contain_text("1 trial:")
    tab_to("Run")
    page.keyboard.press("Enter")
    expect(panel.locator(".kit-results")).to_contain_text("1 of 1")
    expect(panel.get_by_role("button", name="Run", exact=True)).to_be_focused()
    page.screenshot(path=tmp_path / "app-result.png", full_page=True)
    tab_to("Report")
    page.keyboard.press("Enter")
    link = panel.get_by_role("link", name="Open the report")
    expect(link).to_be_focused()
    [report] = (tmp_path / "studies" / "reports").glob("*/panel-*.html")
    assert "23.10" in report.read_text(encoding="utf-8")


HIDDEN_SIDEWAYS = "lists => lists.map(list => list.scrollWidth - list.clientWidth)"
SERIOUS = ("serious", "critical")
#: The accessible name of what has the focus: its label, else its text.
FOCUSED = """() => {
  const at = document.activeElement;
  const label = at.labels && at.labels.length ? at.labels[0].innerText : at.innerText;
  return (label || "").trim();
}"""


def test_a_study_of_the_application_outlives_its_page(app: str, page: Page, tmp_path: Path) -> None:
    page.goto(app)
    panel = page.locator("form.kit-panel")
    panel.get_by_label("24.05 (Triton 2.46.0)").check()
    panel.get_by_label("control:").check()
    panel.get_by_label("requests", exact=True).fill("200000")
    panel.get_by_role("button", name="Run", exact=True).click()
    expect(panel.locator(".kit-progress")).to_contain_text("of 3 trials")
    [study] = (tmp_path / "studies").glob("panel-*")
    browser = page.context.browser
    assert browser is not None
    page.close()
    again = browser.new_page()
    again.set_default_timeout(PATIENCE_MS)
    again.goto(app)
    panel = again.locator("form.kit-panel")
    expect(panel.locator(".kit-progress")).to_contain_text("of 3 trials")
    assert not (study / "done.json").exists()
    panel.get_by_role("button", name="Stop", exact=True).click()
    expect(panel.get_by_text("Stopped; Run goes on")).to_be_visible()


def test_the_application_lets_nobody_in_without_its_token(app: str) -> None:
    bare = app.partition("?")[0]
    for path in ("", "voila/", "voila/render/x.ipynb", "api/kernels", "files/x"):
        status, url, body = landing(f"{bare}{path}")
        assert status in (401, 403, 404) or "login" in url
        assert b"kit-panel" not in body


def landing(address: str) -> tuple[int, str, bytes]:
    """Where a request without a token ends: status, address and body."""
    try:
        with urllib.request.urlopen(address, timeout=60) as page:
            return page.status, page.url, page.read()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.url, b""


PAGE_OF_THE_APP = ROOT / "kit/ui/jupyter/voila/templates/kit/index.html.j2"
LOST = '<div id="rendered_cells">Error displaying widget: model not found</div>'
PANEL = '<div id="rendered_cells"><form class="kit-panel"></form></div>'


@pytest.mark.parametrize(("answers", "loads"), [([LOST] * 9, 4), ([LOST, LOST, PANEL], 3)])
def test_the_application_loads_itself_again_if_its_kernel_lost_the_panel_three_times_at_most(
    page: Page, answers: list[str], loads: int
) -> None:
    script = re.search(r"<script.*</script>", PAGE_OF_THE_APP.read_text("utf-8"), re.DOTALL)
    assert script is not None
    served: list[str] = []

    def serve(route: Route) -> None:
        served.append(answers[len(served)])
        route.fulfill(content_type="text/html", body=served[-1] + script[0])

    page.route("http://application.test/", serve)
    page.goto("http://application.test/")
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while len(served) < loads:
        assert time.monotonic() < deadline, f"loaded {len(served)} times"
        page.wait_for_timeout(100)
    page.wait_for_timeout(1500)  # time in which it could load once too often
    assert len(served) == loads
