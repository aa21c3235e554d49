"""A limit that is known by arithmetic, on a real server with the simulated engine."""

from __future__ import annotations

from pathlib import Path

import kit
from kit.study.spec import Engine


def test_the_limit_of_a_real_server_is_found_and_reported(tmp_path: Path) -> None:
    # A request holds 4 blocks at its begin and 6 at its end, of 128: half the cache is full
    # with 11 clients at the latest, and not yet with 8.
    engine = Engine(blocks=129, max_sequences=64, decode_step_ms=20.0)
    words = {
        "workload": kit.Workload(
            protocol="http-generate-stream", prompt_tokens=64, output_tokens=32
        ),
        "engine": engine,
        "failed": 0.05,
        "kv": 0.5,
        "low": 4,
        "high": 24,
        "requests": 20,
        "most_trials": 3,
        "folder": tmp_path / "study",
        "progress": False,
    }
    study = kit.find_limit("24.05", **words)  # type: ignore[arg-type]
    assert study.finished
    assert 2 <= len(study.trials) <= 3
    low, high = study.limit.interval
    assert low <= 16  # clients that come late leave room, so more may fit than by arithmetic
    assert high >= 8
    assert set(study.limit.table["goal"]) == {"failed", "kv"}
    assert "p95 KV usage" in study.limit.answer
    ax = study.plot_limit()
    assert ax.get_ylabel().startswith("measured / goal")
    page = study.report(tmp_path / "reports").read_text()
    assert 'id="limit"' in page
    before = sorted(study.trials["trial_id"])
    again = kit.find_limit("24.05", **words)  # type: ignore[arg-type]
    assert sorted(again.trials["trial_id"]) == before
    assert not study.trials["crashed"].any()
