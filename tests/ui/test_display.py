"""Whatever a server, a log or a folder says is cleaned wherever a person sees it."""

from __future__ import annotations

import ast
import io
import json
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from kit.cleaning import clean_json, clean_text, safe_html
from kit.errors import DamagedStudyWarning, ServerStartError
from kit.runner.study import RunningTrial, StudyProgress
from kit.study.paths import ROOT
from kit.study.result import Signature, TrialResult, Verdict
from kit.study.spec import Arrivals, ServerSpec, TrialSpec, Workload
from kit.ui.cards import CrashCard, Crashes, ShownText
from kit.ui.cli import main
from kit.ui.dashboard import live_view
from kit.ui.live import LiveStudy, LiveTrial, live_html
from kit.ui.panel import error_html, failure_html
from kit.ui.progress import TextProgress, progress_html, summary_line

#: Moves the cursor, rings, is a C1 control, turns text around, hides, ends a tag.
HOSTILE = "\x1b[2J\x07\x9b31m\u202e\u2066\u200b\x7f<script>"
FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]")

SPEC = TrialSpec(
    trial_id="t",
    server=ServerSpec(release="23.10"),
    scenario=f"s{HOSTILE}",
    model="m",
    workload=Workload(arrivals=Arrivals(concurrency=4), requests=20),
)
FAULT = TrialResult(trial_id="t", verdict=Verdict.CLIENT_FAULT, reason=f"r{HOSTILE}", completed=3)
CRASH = replace(
    FAULT, verdict=Verdict.CRASHED, signature=Signature(signal=11, text=f"SIGSEGV in {HOSTILE}")
)
PROGRESS = StudyProgress(
    total=3,
    done=((SPEC, FAULT), (replace(SPEC, trial_id="u"), CRASH)),
    running=(RunningTrial(spec=SPEC, phase=f"p{HOSTILE}"),),
    elapsed_s=30.0,
)
LIVE = LiveStudy(
    path=Path(f"x{HOSTILE}"),
    total=3,
    done=PROGRESS.done,
    running=(LiveTrial(spec=SPEC, phase=HOSTILE, log=(HOSTILE,)),),
    is_running=True,
)
ERROR = ServerStartError(f"a log that says {HOSTILE}", "another", "none")
DEATHS = Crashes(
    [
        CrashCard(
            text=HOSTILE,
            deaths=1,
            trials=1,
            releases=("23.10",),
            scenarios=(HOSTILE,),
            iterations=(1,),
            stack=(HOSTILE,),
            known=(),
            advice=HOSTILE,
            trial_ids=("t",),
        )
    ]
)


def written(stream: io.StringIO) -> str:
    shown = TextProgress(stream, columns=400)
    shown(replace(PROGRESS, done=()))
    shown(PROGRESS)
    return stream.getvalue()


def on_terminal(live: LiveStudy) -> str:
    console = Console(file=io.StringIO(), width=400, height=60)
    console.print(live_view(live, elapsed_s=1.0))
    return console.file.getvalue()  # type: ignore[attr-defined]


SHOWN: dict[str, Callable[[], str]] = {
    "progress in a pipe": lambda: written(io.StringIO()),
    "a bar": lambda: summary_line(PROGRESS),
    "progress in a notebook": lambda: progress_html(PROGRESS),
    "the live view": lambda: live_html(LIVE),
    "the live view on a terminal": lambda: on_terminal(LIVE),
    "an error": lambda: str(ERROR),
    "an error in the panel": lambda: error_html(ERROR),
    "another error in the panel": lambda: failure_html(ValueError(HOSTILE)),
    "a card": lambda: DEATHS._repr_html_(),
    "a card as text": lambda: repr(DEATHS),
    "an answer": lambda: str(ShownText(HOSTILE)) + ShownText(HOSTILE)._repr_markdown_(),
    "JSON": lambda: clean_json(json.dumps({HOSTILE: HOSTILE}, ensure_ascii=False).encode()),
}


@pytest.mark.parametrize("shown", SHOWN.values(), ids=SHOWN)
def test_nothing_invisible_is_shown(shown: Callable[[], str]) -> None:
    text = shown()
    assert FORBIDDEN.findall(text) == []
    assert "202e" in text, "and nothing is dropped"


@pytest.mark.parametrize("name", [name for name in SHOWN if "notebook" in name or "panel" in name])
def test_nothing_shown_as_html_is_markup(name: str) -> None:
    assert "<script>" not in SHOWN[name]()


def test_a_warning_of_damage_is_shown_cleaned() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        warnings.warn(HOSTILE, DamagedStudyWarning, stacklevel=1)
    assert FORBIDDEN.findall(warnings.formatwarning(seen[0].message, UserWarning, "f", 1)) == []


def test_json_for_a_terminal_holds_the_same_data() -> None:
    document = {"a": HOSTILE + "\U000e0041é\n"}
    shown = clean_json(json.dumps(document, ensure_ascii=False).encode())
    assert json.loads(shown) == document
    assert "\U000e0041" not in shown


def test_html_is_escaped_after_it_was_cleaned() -> None:
    assert safe_html("<b>\x1b") == "&lt;b&gt;\\x1b"
    assert clean_text(clean_text(HOSTILE)) == clean_text(HOSTILE)


@pytest.mark.parametrize("flag", [[], ["--json"]])
def test_the_commands_that_read_what_others_wrote_show_it_cleaned(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], flag: list[str]
) -> None:
    folder = tmp_path / "logs\u202e\x1b"
    folder.mkdir()
    stack = (ROOT / "tests/crash/stacks/server-7332.log").read_text()
    (folder / "a\u202e\x1b.log").write_text(f"{HOSTILE}\n{stack}\nSignal (11) received.{HOSTILE}\n")
    codes = [
        main(["diagnose", str(folder), *flag]),
        main(["diagnose", str(folder / "a\u202e\x1b.log"), *flag]),
        main(["diagnose", str(folder / "none\x1b"), *flag]),
        main(["report", str(tmp_path / "none\x1b\u202e"), *flag]),
    ]
    assert codes == [0, 0, 1, 1]
    shown = capfd.readouterr()
    assert FORBIDDEN.findall(shown.out + shown.err) == []


#: Who may write to the terminal: what cleans, and what says only words of its own.
WRITERS = {
    "kit/ui/console.py",  # cleans
    "kit/ui/progress.py",  # cleans
    "kit/ui/app.py",  # its own address
    "kit/ui/apart.py",  # JSON, into a pipe of the panel, which cleans
    "kit/ui/commands/dev.py",  # for the kit's developers, of the checkout
    "kit/ui/commands/study.py",  # names of releases
    "kit/ui/commands/report.py",  # a JSON document, cleaned
    "kit/runner/trial.py",  # into the trial's log
    "kit/servers/hybrid/process.py",  # the server itself, into its own log
    "kit/servers/python_fetch.py",  # its own words
    "kit/servers/bundle/bootstrap.py",  # cleans; it runs where the kit is not installed yet
}


@pytest.mark.slow
def test_only_these_modules_write_to_a_terminal_or_escape_markup() -> None:
    for path in sorted((ROOT / "kit").rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(("kit/servers/models/", "kit/reproduce/templates/")):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "print",
                "sys.stdout.write",
                "sys.stderr.write",
            ):
                assert name in WRITERS, f"{name}:{node.lineno}: use kit.ui.console"
            if isinstance(node, ast.ImportFrom) and node.module == "html":
                assert name == "kit/cleaning.py", f"{name}: use kit.cleaning.safe_html"
