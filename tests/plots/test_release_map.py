"""What the recorded release map shows: crashes that come back, and no release that stands all."""

from __future__ import annotations

import pandas as pd
import pytest

from kit.crash.catalog import MEASURED_IN, load_catalog
from kit.crash.measured import measured_deaths
from kit.plots.release_map import release_map, signature_key, traffic_cells
from kit.report.release_map import map_answer
from kit.runner.agenda import decided
from kit.runner.bisect import bisect_recorded
from kit.stats.frames import trials_frame
from kit.stats.returns import returns
from kit.study.folder import StudyFolder
from kit.study.paths import RECORDED
from kit.study.plan import not_applicable
from kit.study.recorded import open_study
from kit.study.releases import embedded_releases
from kit.study.scenarios import load_scenarios

#: Every release that carries a wheel; the oldest needs a Python that not every machine has.
LINE = [release.release for release in embedded_releases() if release.release != "23.04"]


@pytest.fixture(scope="module")
def study() -> StudyFolder:
    return open_study(RECORDED / "release_map")


@pytest.fixture(scope="module")
def traffic(study: StudyFolder) -> pd.DataFrame:
    """The cells in which traffic alone could kill: no controls, and not the kit's own doing."""
    return traffic_cells(release_map(trials_frame(study), decided(study)))


#: Scenarios that came after the map was recorded: nobody has run them on the whole line.
NOT_IN_THE_MAP = {
    *("grpc-stream-cancel-many", "grpc-stream-cancel-verbose"),
    *("control-grpc-stream-many", "control-grpc-stream-verbose"),
    *("grpc-stream-status", "control-grpc-stream-status", "grpc-unary-traced"),
}


def test_every_embedded_release_met_every_scenario_that_it_can(study: StudyFolder) -> None:
    cells, releases = decided(study), study.spec.releases
    assert set(releases) - {"23.04"} == set(LINE)
    names = set(load_scenarios()) - NOT_IN_THE_MAP
    assert names == set(study.spec.scenarios)
    wanted = {(release, name) for release in releases for name in names}
    assert set(cells) == wanted - set(not_applicable(study.spec))
    counted = trials_frame(study).query("counted").groupby(["release", "scenario"]).size()
    assert set(counted[counted < 5].index) == set(), "five trials a cell at least"


def test_a_crash_that_had_gone_comes_back_with_24_08(
    study: StudyFolder, traffic: pd.DataFrame
) -> None:
    line = returns(traffic)["cancel-race"]
    killed = [release for part in line if part.dies for release in part.releases]
    assert killed == ["23.10", "24.08", "24.09", "24.10"]
    found = bisect_recorded(study, "cancel-race")
    assert found.decided
    assert [(f.older, f.newer) for f in found.flips if f.came][-1] == ("24.07", "24.08")


def test_no_release_with_cancellation_stands_all_the_traffic(
    study: StudyFolder, traffic: pd.DataFrame
) -> None:
    """Of traffic alone: with what the kit's own model does it would hold whatever was measured."""
    dying = set(traffic.loc[traffic["verdict"] == "crashes", "release"])
    assert dying >= set(LINE) - {"23.07"}
    assert "crashes return" in map_answer(study)


def test_the_catalog_holds_what_the_recorded_studies_measured(study: StudyFolder) -> None:
    held = {
        crash.id: {release: (m.trials, m.deaths) for release, m in crash.measured.items()}
        for crash in load_catalog().values()
        if crash.measured
    }
    assert held == measured_deaths(*MEASURED_IN)
    on_the_map = measured_deaths(study)
    for crash, rows in on_the_map.items():
        only_here = {name: row for name, row in held[crash].items() if name in rows}
        later = set(load_catalog()[crash].scenarios) & NOT_IN_THE_MAP
        assert only_here == rows or later, "a study beside the map adds to no cell of it"


def test_the_key_has_no_gaps_where_a_log_line_had_some() -> None:
    cells = pd.DataFrame({"signature": ["SIGABRT after a.h:9]          failed: false"] * 2})
    assert signature_key(cells) == ["A  SIGABRT after a.h:9] failed: false"]
