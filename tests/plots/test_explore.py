"""Figures to look into: their data are those of the frames, and they work by mouse and by keys."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lacks import lacks
from playwright.sync_api import Page, expect, sync_playwright
from synthetic_studies import first_light

import kit
from kit.errors import NotEnoughDataError, SpecError
from kit.plots import explore
from kit.plots.explore import Exploration, explore_distribution, explore_last_seconds
from kit.servers.browser import BROWSERS, find_browser

HOSTILE = "</script><script>document.title = 'owned'</script>\u202e"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("explore") / "s"
    return kit.open(first_light(folder).path).where(scenario="cancel-race")


def rows_of(exploration: Exploration) -> dict[int, dict[str, Any]]:
    return {row["request"]: row for row in exploration.data["rows"]}


@pytest.mark.slow
def test_every_row_has_the_times_of_its_request(study: Any) -> None:
    shown = study.explore_last_seconds()
    trial = study.trials[study.trials["crashed"]].iloc[0]
    own = study.requests[study.requests["trial_id"] == trial["trial_id"]].set_index("request")
    rows = rows_of(shown)
    assert set(rows) == set(own.index[own["t_s"].notna()])
    for number, row in rows.items():
        sent = own.loc[number]
        assert row["begin"] == pytest.approx(sent["t_s"] - trial["time_to_death_s"], abs=2e-6)
        assert row["look"] == sent["outcome"]
        if row["look"] == "ok":
            assert row["end"] - row["begin"] == pytest.approx(sent["e2e_ms"] / 1e3, abs=1e-5)
            assert row["first"] <= row["end"]
    assert {row["end"] for row in rows.values() if row["look"] == "in_flight"} == {0.0}


@pytest.mark.slow
def test_the_line_of_a_cell_is_its_distribution_with_the_failures(study: Any) -> None:
    shown = study.explore_distribution()
    looks = shown.data["looks"]
    for line in shown.data["lines"]:
        release = looks[line["look"]]["word"]
        own = study.requests[(study.requests["release"] == release) & study.requests["judged"]]
        answered = np.sort(own.loc[own["ok"], "e2e_ms"])
        assert line["ms"] == pytest.approx(answered, abs=1e-3)
        assert line["share"][-1] == pytest.approx(own["ok"].mean(), abs=1e-6)
    assert "% never" in shown.data["said"]


@pytest.mark.slow
def test_a_long_line_is_thinned_and_its_slowest_answers_are_kept(
    study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = explore_distribution(study.requests).data["lines"]
    monkeypatch.setattr(explore, "MOST_POINTS", 20)
    monkeypatch.setattr(explore, "LAST_POINTS", 5)
    for line, thin in zip(whole, explore_distribution(study.requests).data["lines"], strict=True):
        assert len(thin["ms"]) <= 25 < len(line["ms"])
        assert thin["ms"][-5:] == line["ms"][-5:]
        assert (thin["ms"][0], thin["share"][-1]) == (line["ms"][0], line["share"][-1])
        assert set(zip(thin["ms"], thin["share"], strict=True)) <= set(
            zip(line["ms"], line["share"], strict=True)
        )


def test_what_is_not_there_is_a_named_error(study: Any) -> None:
    alive = study.where(release="24.05")
    with pytest.raises(SpecError, match="none died"):
        alive.explore_last_seconds()
    requests = study.requests.assign(ok=False)
    with pytest.raises(NotEnoughDataError, match="answered"):
        explore_distribution(requests)


def test_no_text_ends_the_script(study: Any) -> None:
    requests = study.requests.copy()
    requests["release"] = requests["release"].astype(str).replace("23.10", HOSTILE)
    for shown in (
        explore_distribution(requests, note=HOSTILE),
        explore_last_seconds(study.requests, study.trials, note=HOSTILE),
    ):
        markup = shown._repr_html_()
        assert markup.count("</script>") == 1
        assert "\u202e" not in markup
        data = re.search(r'\("kit-explore-\w+", (.*)\);</script>$', markup)
        assert data
        assert json.loads(data[1]) == json.loads(json.dumps(shown.data))


@pytest.mark.slow
def test_the_same_figure_has_the_same_markup(study: Any) -> None:
    first, second = study.explore_last_seconds(), study.explore_last_seconds()
    assert first._repr_html_() == second._repr_html_()
    assert first._repr_html_().count('src="data:image/png;base64,') == 1  # where scripts are off


@pytest.fixture(scope="module")
def browser_page() -> Iterator[Page]:
    path = find_browser()
    if path is None:
        lacks(f"no browser: none of {', '.join(BROWSERS)} (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 700, "height": 700})
        page.on("pageerror", lambda error: pytest.fail(f"the page's script failed: {error}"))
        yield page
        browser.close()


@pytest.mark.browser
def test_requests_are_chosen_and_looked_at_by_keys_and_by_mouse(
    study: Any, browser_page: Page, tmp_path: Path
) -> None:
    page, shown = browser_page, study.explore_last_seconds()
    last = max(rows_of(shown))
    page.goto(shown.save(tmp_path / "lanes.html").as_uri())
    said, figure = page.get_by_role("status"), page.locator(".kit-explore > svg")
    expect(said).to_contain_text(f"{len(shown.data['rows'])} kept")
    expect(page.locator(".kit-explore img")).to_have_count(0)
    expect(figure).to_have_attribute("data-lm-suppress-shortcuts", "true")  # keys in JupyterLab
    figure.focus()
    page.keyboard.press("ArrowUp")
    expect(said).to_contain_text(f"#{last}: open at death; sent ")
    page.keyboard.press("ArrowUp")
    expect(said).to_contain_text(f"#{last - 1}:")
    page.get_by_role("button", name="Show open at death").click()
    expect(page.locator(f'[data-request="{last}"]')).to_have_count(0)
    page.get_by_role("button", name="Show open at death").click()
    lane = page.locator(f'[data-request="{last}"] rect').last.bounding_box()
    assert lane
    page.mouse.move(lane["x"] + 3, lane["y"] + 2)
    expect(said).to_contain_text(f"#{last}:")
    box = figure.bounding_box()
    assert box
    page.mouse.move(box["x"] + 400, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 600, box["y"] + 100, steps=3)
    page.mouse.up()
    closer = page.locator(".kit-explore > svg text").all_text_contents()
    figure.focus()
    page.keyboard.press("Home")
    assert page.locator(".kit-explore > svg text").all_text_contents() != closer


@pytest.mark.browser
def test_every_line_is_read_at_any_time(study: Any, browser_page: Page, tmp_path: Path) -> None:
    page, shown = browser_page, study.explore_distribution()
    page.goto(shown.save(tmp_path / "shares.html").as_uri())
    page.locator(".kit-explore > svg").focus()
    page.keyboard.press("ArrowRight")
    text = page.get_by_role("status").text_content()
    assert text
    at = re.match(r"Answered within ([\d.]+) ms: (.*)\.", text)
    assert at, text
    for one in at[2].split(", "):
        release, percent, _ = one.split()
        own = study.requests[(study.requests["release"] == release) & study.requests["judged"]]
        within = (own["ok"] & (own["e2e_ms"] <= float(at[1]))).mean()
        # the time is told with three digits, so an answer beside it may count or not
        assert float(percent) == pytest.approx(100 * within, abs=100 * 3 / len(own) + 0.06), one
    page.get_by_role("button", name="Logarithmic scale").click()
    expect(page.get_by_role("button", name="Logarithmic scale")).to_have_attribute(
        "aria-pressed", "false"
    )
