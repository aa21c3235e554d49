"""Studies too large for a frame: counted latencies, and SQL, say what the frame says."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_studies import first_light, write_study, write_trial

import kit
from kit.errors import MissingPackageError, QueryError, StoreError, TooLargeError
from kit.stats import size
from kit.stats.counted import ERROR_FRACTION, latencies_frame
from kit.stats.frames import requests_frame, token_gaps_frame
from kit.stats.latency import count_requests, latency_table
from kit.study.folder import StudyFolder
from kit.study.pack import pack_study, pack_trial


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six trials, half of them packed."""
    study = first_light(tmp_path_factory.mktemp("large") / "s", repeats=1)
    for trial in study.trials()[:3]:
        assert pack_trial(trial).left == ""
    return study.path


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any study is too large for a frame."""
    monkeypatch.setattr(size, "MOST_ROWS", 100)
    monkeypatch.setattr(size, "LEAST_BYTES", 1)


@pytest.mark.slow
def test_a_study_that_fits_is_not_counted(path: Path) -> None:
    pd.testing.assert_frame_equal(latencies_frame(path), requests_frame(path))


@pytest.mark.slow
@pytest.mark.parametrize("latency", ["e2e_ms", "ttft_ms", "itl_ms_mean"])
def test_quantiles_of_a_large_study_are_those_of_its_frame_within_the_stated_error(
    path: Path, monkeypatch: pytest.MonkeyPatch, latency: str
) -> None:
    by = ["release", "scenario"]
    exact = latency_table(requests_frame(path), by, latency=latency)
    monkeypatch.setattr(size, "MOST_ROWS", 100)
    counted = latency_table(latencies_frame(path), by, latency=latency)
    same = [*by, "quantile", "n", "failed_fraction", "interval", "lacks"]
    pd.testing.assert_frame_equal(counted[same], exact[same], check_categorical=False)
    for column in ("ms", "low_ms", "high_ms"):
        assert np.isinf(exact[column]).equals(np.isinf(counted[column]))
        np.testing.assert_allclose(counted[column], exact[column], rtol=1.01 * ERROR_FRACTION)
    assert np.isinf(exact["ms"]).any()


@pytest.mark.usefixtures("few")
def test_warmup_is_counted_as_sent_and_left_out_of_latency(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ["24.05"], ["cancel-race"])
    write_trial(study, "24.05", requests=300, warmup=20)
    frame = latencies_frame(study)
    assert count_requests(frame) == 300
    assert count_requests(frame, judged=True) == 280


@pytest.mark.usefixtures("few")
def test_a_frame_of_a_large_study_is_refused_with_the_way_round(path: Path) -> None:
    with pytest.raises(TooLargeError, match=r"study\.sql"):
        requests_frame(path)
    with pytest.raises(TooLargeError):
        token_gaps_frame(path)


@pytest.mark.slow
@pytest.mark.usefixtures("few")
def test_figure_and_report_of_a_large_study_say_that_latencies_are_of_classes(
    path: Path, tmp_path: Path
) -> None:
    study = kit.open(path)
    axes = study.plot_latency()
    assert len(axes.get_xticklabels()) == 6
    page = study.report(tmp_path).read_text()
    words = " ".join(re.sub("<[^>]*>", " ", page).split())  # notes are broken into lines
    assert "latencies within 0.07 %" in words
    assert not list(tmp_path.glob("*requests.parquet"))


KEY = ["trial_id", "request"]


@pytest.mark.slow
def test_the_table_of_requests_is_the_frame_of_requests(path: Path) -> None:
    frame = requests_frame(path).sort_values(KEY)
    asked = kit.open(path).sql("select * from requests order by trial_id, request")
    for name in frame.columns:
        one, other = (f[name].astype(object).where(f[name].notna(), None) for f in (frame, asked))
        if frame[name].dtype == "float64":
            np.testing.assert_allclose(asked[name], frame[name], rtol=1e-9)
        else:
            assert other.tolist() == one.tolist(), name


@pytest.mark.slow
def test_the_table_of_tokens_is_the_frame_of_token_gaps(path: Path) -> None:
    frame = token_gaps_frame(path).sort_values([*KEY, "gap"])
    asked = kit.open(path).sql("select * from tokens order by trial_id, request, gap")
    assert list(asked.columns) == list(frame.columns)
    np.testing.assert_allclose(asked["itl_ms"], frame["itl_ms"])


@pytest.mark.slow
def test_trials_and_samples_are_tables_too(path: Path) -> None:
    study = kit.open(path)
    assert study.sql("select count(*) n from trials where crashed")["n"].item() == 2
    assert study.sql("select count(*) n from samples")["n"].item() == len(study.samples)
    assert "itl_ms_max" in study.sql("describe requests")["column_name"].tolist()


HOSTILE = [
    "select * from read_csv('/etc/passwd')",
    "select * from '/etc/passwd'",
    "select * from read_text('/etc/passwd')",
    "select * from read_blob('/etc/passwd')",
    "select * from glob('/etc/*')",
    "copy trials to 'OUT'",
    "copy (select 1 as x) to 'PART' (format parquet, use_tmp_file false)",
    "export database 'OUT'",
    "attach 'OUT' as other",
    "set enable_external_access=true",
    "set lock_configuration=false",
    "set allowed_directories=['/']",
    "install httpfs",
    "select 1; select 2",
    "create table x as select 1",
    "select * from secret_frame",
    "",
    "no sql",
]


@pytest.mark.slow
@pytest.mark.parametrize("sql", HOSTILE)
def test_a_query_reads_the_study_and_nothing_else(path: Path, tmp_path: Path, sql: str) -> None:
    secret_frame = pd.DataFrame({"x": [1]})  # a variable is no table, either
    part = next(path.rglob("requests-0.parquet"))
    before = part.read_bytes()
    text = sql.replace("OUT", str(tmp_path / "out")).replace("PART", str(part))
    with pytest.raises(QueryError):
        kit.open(path).sql(text)
    assert len(secret_frame) == 1
    assert list(tmp_path.iterdir()) == []
    assert part.read_bytes() == before


@pytest.mark.slow
def test_a_query_that_needs_too_much_memory_says_the_way_round(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kit.stats.sql.MEMORY_LIMIT", "100MB")
    many = "select quantile_disc(a.n + b.n, 0.5) from range(20000) a(n), range(20000) b(n)"
    with pytest.raises(QueryError, match=r"more memory than 100MB.*one release or trial at a time"):
        kit.open(path).sql(many)


@pytest.mark.slow
def test_a_damaged_part_is_named_before_duckdb_sees_it(tmp_path: Path) -> None:
    study = first_light(tmp_path / "s", repeats=1)
    pack_study(study)
    part = next(study.path.rglob("requests-0.parquet"))
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(StoreError, match="is damaged"):
        kit.open(study.path).sql("select 1")


def test_without_duckdb_the_error_says_how_to_install_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(MissingPackageError, match=r"\.\[duckdb\]"):
        kit.open(path).sql("select 1")


@pytest.mark.slow
@pytest.mark.usefixtures("few")
def test_many_requests_that_are_not_packed_are_to_be_packed_first(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kit.stats.sql.MOST_ROWS", 100)
    with pytest.raises(TooLargeError, match="kit pack"):
        kit.open(path).sql("select 1")
    part = StudyFolder(path).only(trial.path.name for trial in StudyFolder(path).trials()[:3])
    from kit.stats.sql import query

    assert len(query(part, "select distinct trial_id from requests")) == 3
