"""Hybrids: frontends of one release on the core of another, never counted as a release."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest

import kit
from kit.crash.catalog import known_crashes
from kit.crash.diagnose import diagnose
from kit.crash.outlook import outlook
from kit.crash.upgrade import advise
from kit.errors import CatalogError, UnknownReleaseError
from kit.plots.crash import plot_crash_strip
from kit.plots.release_map import plot_release_map
from kit.plots.titles import crash_title, map_title
from kit.report.release_map import map_parts
from kit.report.sentences import answer
from kit.stats.returns import segments
from kit.study import hybrids
from kit.study.hybrids import NO_RELEASE, get_hybrid, hybrid_parts, load_hybrids, together
from kit.study.paths import RECORDED
from kit.study.plan import not_applicable
from kit.study.recorded import open_study
from kit.study.releases import embedded_releases, get_release, in_order, load_releases, neighbours
from kit.study.spec import ServerSpec, StudySpec
from kit.study.words import ranges
from kit.ui.advice_card import AdviceCard
from kit.ui.choices import choose
from kit.ui.options import words
from kit.ui.server_words import server_named

NAME = "frontend 26.09 on core 24.10"


def test_the_kit_has_the_frontends_of_four_releases_on_the_newest_core_in_a_wheel() -> None:
    found = load_hybrids()
    assert [one.frontends for one in found.values()] == ["26.06", "26.07", "26.08", "26.09"]
    assert {one.core for one in found.values()} == {embedded_releases()[-1].release}
    for one in found.values():
        assert one.wheel.version == get_release(one.frontends).triton
        assert one.glibc("x86_64") == (2, 39)


@pytest.mark.parametrize(
    "written", [NAME, "26.09 on 24.10", "Frontends 26.09  on core 24.10", " 26.09 on core 24.10 "]
)
def test_a_hybrid_can_be_written_in_several_ways_and_has_one_name(written: str) -> None:
    assert hybrid_parts(written) == ("26.09", "24.10")
    server = server_named(written, {})
    assert server.label == NAME
    assert choose(written, "control", name="t").servers == (server,)


def test_a_list_on_the_command_line_keeps_its_name_whole() -> None:
    assert words(f"24.10, {NAME} 24.05") == ["24.10", NAME, "24.05"]


@pytest.mark.parametrize("other", ["26.05 on 24.10", "26.09 on 24.05"])
def test_a_hybrid_that_the_kit_has_not_is_answered_with_those_that_it_has(other: str) -> None:
    with pytest.raises(UnknownReleaseError, match=NAME):
        server_named(other, {})


def test_a_hybrid_is_on_no_list_of_releases_and_next_to_none() -> None:
    assert NAME not in load_releases()
    assert in_order([NAME, "26.11", "24.10"]) == ["24.10", "26.11", NAME]
    assert not neighbours("26.11", NAME)


def test_no_range_of_releases_runs_over_a_hybrid() -> None:
    line = ["24.08", "24.09", "24.10", "frontend 26.06 on core 24.10", NAME]
    assert ranges(line, line).startswith("24.08–24.10, frontend 26.06")


def test_advice_before_an_upgrade_refuses_a_hybrid_and_never_recommends_one() -> None:
    with pytest.raises(UnknownReleaseError, match="no release"):
        advise(release=NAME, traffic=["grpc-stream-cancel"])
    assert NAME not in advise(release="24.10", traffic=["cancel-race"]).better


def test_traffic_that_no_recorded_study_ran_on_a_release_is_said_to_be_unmeasured() -> None:
    traffic = "grpc-stream-cancel-verbose"
    for release, unmeasured in (("25.10", (traffic,)), ("24.02", ())):
        found = advise(release=release, traffic=[traffic])
        assert found.unmeasured == unmeasured
        assert found.risks, "its fault is known by other traffic all the same"


def test_advice_tells_what_was_measured_on_hybrids_and_that_they_are_no_releases() -> None:
    found = advise(release="26.09", traffic=["grpc-unary-deadline", "grpc-stream-cancel"])
    told = {risk.crash: risk.on_hybrids for risk in found.risks}
    assert f"trials died on {NAME}" in str(told["grpc-stream-cancel-state-race"])
    assert "no releases" in str(told["grpc-stream-cancel-state-race"])
    assert all(risk.seen is None for risk in found.risks), "they say nothing of the release itself"
    for shown in (repr(AdviceCard.of(found)), AdviceCard.of(found)._repr_html_()):
        assert NAME in " ".join(shown.split())
    assert NAME in str(outlook(["26.09"], ["grpc-stream-cancel"]).faults)


@pytest.mark.parametrize(
    ("crash", "holds"),
    [
        ("grpc-unary-low-timeout", False),  # fixed in the frontends of 25.04
        ("grpc-stream-cancel-state-race", True),
        ("is-cancelled-after-final", True),  # of the backend of 24.10
        ("shm-region-name-clash", False),
    ],
)
def test_a_hybrid_has_the_faults_of_its_frontends_release_and_else_of_its_cores(
    crash: str, holds: bool
) -> None:
    assert known_crashes()[crash].holds(NAME) is holds


def test_hybrids_are_listed_beside_releases_and_not_among_them() -> None:
    frame = kit.releases(hybrids=True)
    assert list(frame["hybrid"]) == list(load_hybrids())
    assert set(frame["runs"]) <= {"here", "not here"}
    assert not set(frame["hybrid"]) & set(kit.releases()["release"])


def test_several_hybrids_of_one_core_are_named_together() -> None:
    names = list(load_hybrids())
    assert together(names[-2:]) == "frontends 26.08 and 26.09 on core 24.10"
    assert together(names[-1:]) == NAME


def test_what_only_a_main_program_reads_cannot_be_run_on_a_hybrid() -> None:
    study = StudySpec(
        name="t",
        servers=(server_named(NAME, {}), server_named("24.10", {})),
        scenarios=("grpc-unary-traced", "grpc-stream-cancel-verbose"),
    )
    [(cell, why)] = not_applicable(study).items()
    assert cell == (NAME, "grpc-unary-traced")
    assert "main program" in why


@pytest.mark.slow
def test_a_map_beside_another_adds_cells_and_changes_none() -> None:
    line, newest = (open_study(RECORDED / name) for name in ("release_map", "frontends_of_2026"))
    alone, both = map_parts(line), map_parts(line, newest)
    rows = [{str(row) for row in one.cells.to_dict("records")} for one in (alone, both)]
    assert rows[0] <= rows[1]
    assert set(both.cells["release"]) - set(alone.cells["release"]) == {
        name for name in newest.spec.releases if name != "24.10"
    }
    assert (alone.untested, both.error) == (None, alone.error)
    assert both.untested is not None
    figure, axes = plt.subplots(figsize=both.size_in)
    try:
        plot_release_map(both.cells, axes, error=both.error, untested=both.untested)
        named = [label.get_text() for label in axes.get_xticklabels(minor=True)]
        assert named == ["on core 24.10:\nno releases"]
        assert "no releases" in axes.get_title(loc="left") or "no releases" in axes.get_title()
        assert "blank: not tried" in axes.get_xlabel().replace("\n", " ")
    finally:
        plt.close(figure)


def cells() -> pd.DataFrame:
    """A crash that comes and goes along three releases, and a hybrid that dies."""
    rows = [("24.08", 0), ("24.09", 10), ("24.10", 0), (NAME, 10)]
    return pd.DataFrame(
        {
            "release": release,
            "scenario": "grpc-stream-cancel",
            "trials": 10,
            "died": died,
            "median_iteration": 100.0 if died else None,
            "verdict": "crashes" if died else "survives",
            "signature": None,
        }
        for release, died in rows
    )


def test_a_crash_that_a_hybrid_has_does_not_come_back_on_the_line() -> None:
    assert [s.releases for s in segments(cells())] == [("24.08",), ("24.09",), ("24.10",)]


def test_titles_count_releases_and_name_hybrids_apart() -> None:
    title = map_title(cells())
    assert title.endswith(f"{NAME} crashes (no release)")
    assert "24.10–" not in title


def trials() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "trial_id": f"t{i}",
            "release": release,
            "scenario": "grpc-stream-cancel",
            "kind": "fault",
            "concurrency": 16,
            "engine": "simulated",
            "protocol": "grpc-stream",
            "completed": 100 + i,
            "crash_iteration": 100.0 + i if died else None,
            "crashed": died,
            "counted": True,
            "verdict": "crashed" if died else "survived",
        }
        for i, (release, died) in enumerate([("24.09", False), ("24.10", True), (NAME, True)])
    )


def test_a_title_of_trials_says_that_a_hybrid_is_no_release() -> None:
    assert crash_title(trials()) == (f"24.10 crashes, 24.09 survives; {NAME} crashes (no release)")


@pytest.mark.slow
def test_figures_draw_hybrids_behind_a_gap_or_a_line_and_say_what_they_are() -> None:
    figure, (left, right) = plt.subplots(1, 2)
    try:
        plot_crash_strip(trials(), left)
        assert NO_RELEASE in left.get_xlabel()
        assert any(line.get_gid() == "hybrids below" for line in left.get_lines())
        plot_release_map(cells(), right)
        places = list(right.get_xticks())
        assert places[:3] == [0, 1, 2]
        assert places[3] > 3, "a gap between the line and the hybrid"
        assert "no releases" in right.get_xlabel()
    finally:
        plt.close(figure)


def test_the_answer_of_a_study_says_what_a_hybrid_is() -> None:
    assert answer(trials())[-1] == f"{NAME}: {NO_RELEASE}."


LOG = """
| server_version                   | 2.51.0    |
tritonfrontend 2.73.0 on the core of 2.51.0, at 127.0.0.1
Signal (11) received.
 0# 0x00007F09FE68B055 in [anonymous]
 1# 0x00007F09FEA4BD70 in /cache/libc.so.6
 2# grpc_call_ref in /w/tritonfrontend_bindings.cpython-312-x86_64-linux-gnu.so
 3# _ZN6triton6server4grpc23ModelStreamInferHandler7ProcessEv in /w/tritonfrontend_bindings.so
"""


@pytest.mark.parametrize("told", [NAME, None])
def test_the_log_of_a_hybrid_is_taken_for_that_of_no_release(told: str | None) -> None:
    found = diagnose(LOG, believed_release=told)
    assert found.died
    assert found.component == "grpc-frontend"
    assert found.release_guess is None
    assert found.matches[0].id == "grpc-stream-cancel-state-race"
    assert "address bits" not in found.advice


def test_a_catalog_of_hybrids_with_a_wrong_row_is_named(tmp_path: Path) -> None:
    path = tmp_path / "hybrids.yaml"
    text = hybrids.CATALOG.read_text()
    for wrong in (
        text.replace('core: "24.10"', 'core: "24.11"'),
        text.replace('release: "26.09"', 'release: "26.10"'),
        text.replace("schema: 1", "schema: 2"),
    ):
        path.write_text(wrong)
        hybrids._read.cache_clear()
        with pytest.raises(CatalogError, match=r"hybrids\.yaml"):
            hybrids._read(path)
    hybrids._read.cache_clear()


def test_a_hybrid_server_has_a_name_that_a_release_cannot_have() -> None:
    hybrid = get_hybrid("26.09", "24.10")
    server = ServerSpec(kind="hybrid", release=hybrid.core, frontends=hybrid.frontends)  # type: ignore[arg-type]
    assert server.label == hybrid.name == NAME
