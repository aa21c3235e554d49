"""The catalog's measured tables: which crash a death counts for, and how the file is rewritten."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_studies import write_study, write_trial

from kit.crash.catalog import CATALOG, read_catalog
from kit.crash.measured import (
    measured_deaths,
    unexplained_deaths,
    update_catalog,
    with_measured,
)
from kit.errors import CatalogError, StoreError
from kit.study.folder import StudyFolder
from kit.study.result import Frame, Signature, Verdict

LINE = ["23.10", "24.02", "24.05", "24.10"]
SCENARIOS = ["control", "cancel-race", "grpc-stream-cancel", "bls-concurrency", "stub-dies"]


def stack(*places: tuple[str, str | None], signal: int = 11) -> Signature:
    frames = [("tritonserver", "triton::server::ErrorSignalHandler"), ("libc.so.6", None), *places]
    return Signature(
        signal=signal,
        frames=tuple(
            Frame(index=index, module=module, offset=None, symbol=symbol)
            for index, (module, symbol) in enumerate(frames)
        ),
        key=str(places),
        text="a crash",
    )


CANCELLED = stack(
    ("libtritonserver.so", "TRITONBACKEND_ResponseFactoryIsCancelled"),
    ("libtriton_python.so", None),
)
FREED = stack(("libtritonserver.so", "TRITONSERVER_InferenceRequestCancel"), ("tritonserver", None))
STREAM = stack(("tritonserver", "triton::server::grpc::ModelStreamInferHandler::Process"))
CLEANUP = stack(
    ("libtriton_python.so", "triton::backend::python::ModelInstanceState::ProcessCleanupRequest")
)
NO_STACK = Signature(signal=11, key="SIGSEGV", text="SIGSEGV, no stack")


@pytest.fixture
def study(tmp_path: Path) -> StudyFolder:
    return write_study(tmp_path / "study", LINE, SCENARIOS)


def test_a_death_counts_for_the_crash_that_its_stack_shows(study: StudyFolder) -> None:
    for repeat, signature in enumerate((FREED, FREED, STREAM)):
        write_trial(
            study,
            "23.10",
            scenario="grpc-stream-cancel",
            repeat=repeat,
            crash_after=5,
            signature=signature,
        )
    found = measured_deaths(study)
    assert found["grpc-cancel-freed-request"] == {"23.10": (3, 2)}
    assert found["grpc-stream-cancel-state-race"] == {"23.10": (3, 1)}


def test_survivors_are_counted_and_trials_that_tell_nothing_are_not(study: StudyFolder) -> None:
    write_trial(study, "24.05", repeat=0)
    write_trial(study, "24.05", repeat=1, verdict=Verdict.CLIENT_FAULT)
    write_trial(study, "24.05", repeat=2, finished=False)
    write_trial(study, "24.05", scenario="control", crash_after=3)
    assert measured_deaths(study) == {"is-cancelled-after-final": {"24.05": (1, 0)}}
    assert unexplained_deaths(study) == []


def test_the_stack_of_a_crash_counts_on_a_release_that_was_not_known_to_have_it(
    study: StudyFolder,
) -> None:
    write_trial(study, "24.05", crash_after=3, signature=CANCELLED)
    assert measured_deaths(study) == {"is-cancelled-after-final": {"24.05": (1, 1)}}


def test_a_death_without_a_stack_is_the_one_that_its_scenario_is_made_for(
    study: StudyFolder,
) -> None:
    write_trial(study, "23.10", crash_after=3, signature=NO_STACK)
    write_trial(study, "24.10", scenario="stub-dies", verdict=Verdict.ENGINE_DIED, signature=None)
    found = measured_deaths(study)
    assert found["is-cancelled-after-final"] == {"23.10": (1, 1)}
    assert found["stub-dead-health-200"] == {"24.10": (1, 1)}


def test_a_scenario_that_shows_one_crash_and_later_another_counts_each_where_it_is(
    study: StudyFolder,
) -> None:
    write_trial(study, "23.10", scenario="bls-concurrency", crash_after=3, signature=NO_STACK)
    write_trial(study, "24.05", scenario="bls-concurrency", verdict=Verdict.HUNG)
    found = measured_deaths(study)
    assert found["bls-decoupled-map-and-gil"] == {"23.10": (1, 1), "24.05": (1, 0)}
    assert found["bls-decoupled-deadlock"] == {"23.10": (1, 0), "24.05": (1, 1)}


def test_a_crash_that_is_not_known_counts_for_none_and_is_named(study: StudyFolder) -> None:
    write_trial(study, "24.02", scenario="bls-concurrency", crash_after=3, signature=CLEANUP)
    write_trial(study, "23.10", verdict=Verdict.HUNG)  # cancel-race crashes, it does not hang
    found = measured_deaths(study)
    assert {name: rows["24.02"] for name, rows in found.items() if "24.02" in rows} == {
        "bls-decoupled-map-and-gil": (1, 0),
        "bls-decoupled-deadlock": (1, 0),
    }
    assert found["is-cancelled-after-final"] == {"23.10": (1, 0)}
    assert [trial.spec.scenario for trial in unexplained_deaths(study)] == [
        "cancel-race",
        "bls-concurrency",
    ]


@pytest.mark.slow
def test_only_the_measured_blocks_of_the_catalog_change() -> None:
    text = CATALOG.read_text(encoding="utf-8")
    table = {"is-cancelled-after-final": {"23.10": (5, 5), "24.05": (7, 0)}}
    bare = with_measured(text, {})
    written = with_measured(bare, table)
    block = (
        '  measured:\n    "23.10": {trials: 5, deaths: 5}\n    "24.05": {trials: 7, deaths: 0}\n'
    )
    assert written.replace(block, "") == bare
    assert written.count(block) == 1
    seen = read_catalog(written)["is-cancelled-after-final"].measured
    assert {name: (row.trials, row.deaths) for name, row in seen.items()} == table[
        "is-cancelled-after-final"
    ]
    assert with_measured(written, table) == written
    assert with_measured(written, {}) == bare
    more = {"shm-region-name-clash": {"24.01": (1, 0)}}  # the last entry of the file
    assert with_measured(with_measured(bare, more), {}) == bare


@pytest.mark.slow
def test_a_note_on_a_measured_release_stays() -> None:
    bare = with_measured(CATALOG.read_text(encoding="utf-8"), {})
    table = {"is-cancelled-after-final": {"23.10": (5, 5)}}
    noted = with_measured(bare, table).replace("deaths: 5}", "deaths: 5, note: 'it''s slow'}")
    table["is-cancelled-after-final"]["23.10"] = (6, 6)
    again = with_measured(noted, table)
    assert """"23.10": {trials: 6, deaths: 6, note: 'it''s slow'}""" in again
    assert read_catalog(again)["is-cancelled-after-final"].measured["23.10"].note == "it's slow"


def test_an_update_writes_the_table_and_returns_what_it_could_not_explain(
    study: StudyFolder, tmp_path: Path
) -> None:
    write_trial(study, "23.10", crash_after=3, signature=CANCELLED)
    write_trial(study, "24.02", scenario="bls-concurrency", crash_after=3, signature=CLEANUP)
    catalog = tmp_path / "crashes.yaml"
    catalog.write_bytes(CATALOG.read_bytes())
    table, unexplained = update_catalog(study.path, catalog=catalog)
    assert table["is-cancelled-after-final"]["23.10"] == (1, 1)
    assert [trial.spec.trial_id for trial in unexplained] == ["24.02_bls-concurrency_c4_r0"]
    measured = read_catalog(catalog.read_text())["is-cancelled-after-final"].measured
    assert (measured["23.10"].trials, measured["23.10"].deaths) == (1, 1)


def test_what_is_no_study_or_no_catalog_is_an_error_with_a_name(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        measured_deaths(tmp_path / "nowhere")
    with pytest.raises(CatalogError):
        with_measured("schema: 1", {})
    with pytest.raises(StoreError):
        update_catalog(tmp_path / "nowhere")
