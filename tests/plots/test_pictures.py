"""What the pictures contain: lines, marks, labels and titles, read back from the axes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from synthetic_studies import first_light, write_study, write_trial

from kit.errors import SpecError
from kit.plots.crash import plot_crash_strip, plot_survival
from kit.plots.kv import plot_kv_usage
from kit.plots.latency import plot_latency
from kit.plots.latency_curve import plot_latency_curve
from kit.plots.release_map import plot_release_map, release_map, signature_key
from kit.plots.style import COLOURS, DASHES, DEATH, STYLE, colour, contrast, spread
from kit.plots.titles import crash_title, kv_title, map_title
from kit.stats.frames import requests_frame, samples_frame, trials_frame
from kit.study.releases import embedded_releases, load_releases
from kit.study.result import Outcome, Verdict
from kit.study.spec import Engine, EngineKind
from kit.study.words import milliseconds, percent, provenance, ranges

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def ax() -> Iterator[Axes]:
    with plt.style.context(STYLE):
        figure, axes = plt.subplots()
        yield axes
        figure.savefig(Path("/dev/null"), format="png")  # draws: layout and fonts warn here
        plt.close(figure)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return first_light(tmp_path_factory.mktemp("study") / "s").path


@pytest.fixture(scope="module")
def trials(study: Path) -> pd.DataFrame:
    frame = trials_frame(study)
    return frame[frame["scenario"] == "cancel-race"]


def texts(ax: Axes) -> list[str]:
    """What is written in the axes, and each line of the key beneath."""
    return [*(text.get_text() for text in ax.texts), *ax.get_xlabel().split("\n")]


def lines(ax: Axes, start: str) -> dict[str, object]:
    return {
        str(line.get_gid()): line
        for line in ax.get_lines()
        if str(line.get_gid()).startswith(start)
    }


def trial_rows(**columns: object) -> pd.DataFrame:
    return pd.DataFrame({"counted": True, "scenario": "s"} | columns)


def test_the_strip_has_a_mark_for_every_trial_at_its_crash_iteration(
    trials: pd.DataFrame, ax: Axes
) -> None:
    plot_crash_strip(trials, ax)
    assert sorted(lines(ax, "died")["died 23.10"].get_xdata()) == [28, 33, 51]
    assert len(lines(ax, "died")["died 24.05"].get_xdata()) == 0
    survivors = lines(ax, "survived")["survived 24.05"]
    assert (list(survivors.get_xdata()), survivors.get_markerfacecolor()) == ([200] * 3, "none")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["23.10", "24.05", "24.10"]
    assert texts(ax)[:3] == ["3/3 crashed", "0/3 died", "3/3 crashed"]
    assert ax.get_title(loc="left") == "23.10 and 24.10 crash, 24.05 survives"
    assert "log" in ax.get_xlabel()


def test_scenarios_are_never_pooled_into_one_row(study: Path, ax: Axes) -> None:
    plot_crash_strip(trials_frame(study), ax)
    assert len(ax.get_yticks()) == 6
    assert texts(ax).count("3/3 crashed") == 2


def test_a_death_before_the_first_answer_is_on_the_axis(tmp_path: Path, ax: Axes) -> None:
    folder = write_study(tmp_path / "s", ["24.10"], ["cancel-race"])
    write_trial(folder, "24.10", crash_after=0)
    plot_crash_strip(trials_frame(folder), ax)
    (mark,) = lines(ax, "died").values()
    low, high = ax.get_xlim()
    assert low < mark.get_xdata()[0] == 0 < high


def test_how_servers_died_and_what_was_left_out_is_said(tmp_path: Path, ax: Axes) -> None:
    folder = write_study(tmp_path / "s", ["23.10"], ["cancel-race"])
    write_trial(folder, "23.10", repeat=0, crash_after=5, verdict=Verdict.HUNG)
    write_trial(folder, "23.10", repeat=1, verdict=Verdict.CLIENT_FAULT)
    plot_crash_strip(trials_frame(folder), ax)
    assert texts(ax)[0] == "1/1 hung (+1 no verdict)"


def test_survival_falls_at_each_death_and_ticks_the_censored(
    trials: pd.DataFrame, ax: Axes
) -> None:
    plot_survival(trials, ax)
    curves = {line.get_label(): line for line in ax.get_lines()}
    assert list(curves["23.10"].get_xdata()) == [0, 28, 33, 51]
    np.testing.assert_allclose(curves["23.10"].get_ydata(), [1, 2 / 3, 1 / 3, 0])
    ticks = lines(ax, "censored")
    assert list(ticks["censored 24.05"].get_xdata()) == [200]
    assert len(ticks["censored 23.10"].get_xdata()) == 0
    assert "24.05 (0/3 died)" in texts(ax)
    assert curves["23.10"].get_color() == colour("23.10")


def test_trials_at_risk_stand_beneath_the_survival_curves(trials: pd.DataFrame, ax: Axes) -> None:
    plot_survival(trials, ax)
    rows = {
        release: [t.get_text() for t in ax.texts if t.get_gid() == f"at risk {release}"]
        for release in ("23.10", "24.05")
    }
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "1", "10", "100"]
    assert rows == {"23.10": ["3", "3", "3", "0"], "24.05": ["3", "3", "3", "3"]}


def test_releases_that_never_die_share_one_labelled_line(tmp_path: Path, ax: Axes) -> None:
    folder = write_study(tmp_path / "s", ["23.10", "23.12", "24.01", "24.02"], ["cancel-race"])
    for release in folder.spec.releases:
        write_trial(folder, release, crash_after=9 if release == "23.10" else None)
    plot_survival(trials_frame(folder), ax, over="exposure_s")
    assert {"23.10 (1/1 crashed)", "23.12–24.02 (0/3 died)"} <= set(texts(ax))
    assert ax.get_xlabel() == "seconds under load"


def test_latency_marks_failures_as_never_and_says_how_many(study: Path, ax: Axes) -> None:
    requests = requests_frame(study)
    plot_latency(requests[requests["scenario"] == "cancel-race"], ax)
    marks = lines(ax, "p")
    never = dict(zip([t.get_text() for t in ax.get_yticklabels()], ax.get_yticks(), strict=True))[
        "never"
    ]
    assert marks["p95 23.10 16"].get_ydata() == [never]
    assert marks["p95 24.05 16"].get_ydata()[0] < never
    below = {t.get_text().split("\n")[0]: t.get_text() for t in ax.get_xticklabels()}
    assert "n 160" in below["23.10"]
    assert "30 % failed" in below["23.10"]
    assert "0 % failed" in below["24.05"]
    assert "unanswered" in ax.get_title(loc="left")


def test_a_quantile_of_too_few_requests_is_left_out_and_said(tmp_path: Path, ax: Axes) -> None:
    folder = write_study(tmp_path / "s", ["24.05"], ["cancel-race"])
    write_trial(folder, "24.05", requests=20)
    plot_latency(requests_frame(folder), ax)
    assert list(lines(ax, "p")) == ["p50 24.05 4"]
    assert "no p95" in ax.get_xticklabels()[0].get_text()
    assert "answers half within" in ax.get_title(loc="left"), "no 95 % of what has no p95"


def test_kv_usage_names_the_release_that_exports_none(
    study: Path, trials: pd.DataFrame, ax: Axes
) -> None:
    samples = samples_frame(study)
    plot_kv_usage(samples[samples["scenario"] == "cancel-race"], trials, ax)
    assert "24.05: not exported" in texts(ax)
    assert not any("24.05" in str(line.get_gid()) for line in ax.get_lines())
    deaths = lines(ax, "death")
    died = trials[trials["crashed"]].set_index("trial_id")["time_to_death_s"]
    assert {gid.split()[1]: line.get_xdata()[0] for gid, line in deaths.items()} == died.to_dict()


def test_no_exporter_at_all_is_said_and_not_drawn_as_zero(trials: pd.DataFrame, ax: Axes) -> None:
    empty = pd.DataFrame(columns=["trial_id", "name", "source", "t_s", "value"])
    plot_kv_usage(empty, trials, ax)
    assert ax.get_title(loc="left") == "KV usage: not exported by any of these servers"
    assert len(ax.get_lines()) == 0


def test_sources_that_disagree_are_both_drawn(trials: pd.DataFrame, ax: Axes) -> None:
    one = trials.iloc[[0]]
    samples = pd.DataFrame(
        {
            "trial_id": one["trial_id"].iloc[0],
            "name": "kv_usage_fraction",
            "source": ["engine_log", "engine_log", "triton_metrics", "triton_metrics"],
            "t_s": [0.0, 0.1, 0.0, 0.1],
            "value": [0.1, 0.2, 0.1, 0.5],
        }
    )
    plot_kv_usage(samples, one, ax)
    assert len(lines(ax, str(one["trial_id"].iloc[0]))) == 2
    assert any("engine log" in text and "Triton metrics" in text for text in texts(ax))


def test_the_map_tells_crash_survival_undecided_and_not_applicable_apart(
    study: Path, ax: Axes
) -> None:
    cells = release_map(trials_frame(study), {("24.05", "cancel-race"): "undecided"})
    plot_release_map(cells, ax, not_applicable={("23.07", "cancel-race"): "no cancellation"})
    kinds = [str(patch.get_gid()) for patch in ax.patches]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "crashes": 2,
        "survives": 3,
        "undecided": 1,
        "not applicable": 1,
    }
    assert [t.get_text() for t in ax.get_xticklabels()] == ["23.07", "23.10", "24.05", "24.10"]
    assert "33 A" in texts(ax)  # median crash iteration of 23.10, and its signature
    assert signature_key(cells) == ["A  SIGSEGV in TRITONBACKEND_ResponseFactoryIsCancelled"]
    looks = {
        str(p.get_gid()): (p.get_hatch(), p.get_linestyle(), p.get_facecolor()) for p in ax.patches
    }
    assert len(set(looks.values())) == 4


def test_a_signature_has_the_same_letter_in_whatever_order_the_cells_come() -> None:
    rows = [("24.01", "a"), ("24.02", "b"), ("24.03", "b"), ("24.04", "c")]
    cells = pd.DataFrame(rows, columns=["release", "signature"])
    assert signature_key(cells) == signature_key(cells.iloc[::-1]) == ["A  b", "B  a", "C  c"]


def test_titles_are_computed_from_the_trials() -> None:
    line = ["23.10", "23.12", "24.01", "24.07", "24.08"]
    back = trial_rows(release=line, crashed=[True, False, False, False, True])
    assert crash_title(back) == "24.08 brings the crash back"
    assert crash_title(back.iloc[:4]) == "23.10 crashes, 23.12–24.07 survive"
    assert crash_title(back.iloc[[0]]) == "23.10 crashes"
    assert crash_title(back.iloc[1:4]) == "All 3 releases survive"
    assert crash_title(back.iloc[[0, 4]]) == "All 2 releases crash"
    assert crash_title(back.assign(counted=False)).startswith("No trial")
    assert ranges(["23.10", "24.01", "24.07"], line) == "23.10, 24.01 and 24.07"


def map_cells(*rows: tuple[str, str, int, int, str]) -> pd.DataFrame:
    """(release, scenario, died, trials, verdict) of each cell."""
    return pd.DataFrame(rows, columns=["release", "scenario", "died", "trials", "verdict"])


def test_the_map_title_says_what_is_surprising_only_if_it_is_true() -> None:
    line = ("23.10", "24.07", "24.08")

    def title(dying: dict[str, set[str]]) -> str:
        return map_title(
            map_cells(
                *(
                    (r, s, 9 * (r in dead), 9, "crashes" if r in dead else "survives")
                    for s, dead in dying.items()
                    for r in line
                )
            )
        )

    assert title({"a": {"23.10", "24.08"}, "b": {"24.07"}}) == (
        "24.08 brings a crash back; no release stands all traffic"
    )
    assert title({"a": {"23.10"}, "b": {"23.10"}}) == (
        "Only 24.07 and 24.08 survive all that was tried on them"
    )
    assert title({"a": set()}) == "No release crashes under this traffic"
    assert map_title(map_cells()) == "No cell is decided yet"


def test_a_return_that_rests_on_one_trial_each_is_not_claimed() -> None:
    once = [("23.10", 1, "crashes"), ("24.07", 0, "survives"), ("24.08", 1, "crashes")]
    said = map_title(map_cells(*((r, "a", d, 1 if d else 5, verdict) for r, d, verdict in once)))
    assert said == "Only 24.07 survives all that was tried on it"


def test_the_map_title_counts_what_is_undecided_and_hides_no_death() -> None:
    some = map_cells(("24.01", "a", 2, 12, "undecided"), ("24.02", "a", 0, 5, "survives"))
    assert map_title(some) == ("24.02 survives all that was tried on it; 1 of 2 cells undecided")
    none = map_cells(("24.01", "a", 2, 12, "undecided"), ("24.01", "b", 0, 5, "survives"))
    assert map_title(none) == (
        "No release is found to crash under this traffic; 2 of 17 servers died all the same; "
        "1 of 2 cells undecided"
    )
    seldom = map_cells(("24.01", "a", 1, 11, "survives"), ("24.02", "a", 0, 5, "survives"))
    assert "1 of 16 servers died all the same" in map_title(seldom)


def test_a_cell_that_survives_although_some_died_is_framed_and_the_key_says_so(ax: Axes) -> None:
    cells = map_cells(
        ("24.01", "cancel-race", 1, 11, "survives"), ("24.02", "cancel-race", 0, 5, "survives")
    ).assign(signature=None, median_iteration=5.0)
    plot_release_map(cells, ax, error=0.05)
    some, none = ax.patches
    assert to_rgb(some.get_edgecolor()[:3]) == to_rgb(DEATH)
    assert none.get_edgecolor()[3] == 0
    assert "blue: survives (5 % error)" in ax.get_xlabel()
    assert "red frame: some died" in ax.get_xlabel()


def test_the_kv_title_says_whether_the_cache_was_full(study: Path, trials: pd.DataFrame) -> None:
    samples = samples_frame(study)
    assert kv_title(samples, trials).startswith("23.10 and 24.10 die with the KV cache at most")
    full = samples.assign(value=1.0)
    assert kv_title(full, trials) == "23.10 and 24.10 die; the KV cache had been 100 % full"
    assert kv_title(full, trials.assign(crashed=False)).startswith("No server dies")


@pytest.mark.parametrize(
    ("value", "words"), [(0.25, "0.2 ms"), (48.4, "48 ms"), (1234, "1.2 s"), (np.inf, "never")]
)
def test_latencies_read_as_people_say_them(value: float, words: str) -> None:
    assert milliseconds(value) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "0 %"),
        (0.002, "under 1 %"),
        (0.0002, "under 0.1 %"),
        (0.47, "47 %"),
        (0.999, "over 99 %"),
    ],
)
def test_a_share_is_not_rounded_to_nothing_or_all(value: float, words: str) -> None:
    assert percent(value) == words


def test_labels_are_spread_in_order_and_within_bounds() -> None:
    heights = spread([0.0, 0.01, 1.0, 0.0], 0.1, 0.0, 1.0)
    assert min(heights) >= 0
    assert max(heights) <= 1.0
    assert min(abs(a - b) for a, b in combinations(heights, 2)) >= 0.099
    assert heights[2] == max(heights)


def test_provenance_says_live_or_recorded_and_what_was_real() -> None:
    line = provenance(source="recorded", run="map", triton=["2.39.0"], engines=["simulated"])
    assert line == "recorded · run map · real Triton 2.39.0 · engine simulated"


def test_every_release_has_a_colour_of_its_own_readable_on_light_and_dark() -> None:
    assert set(load_releases()) <= set(COLOURS)
    assert len(set(COLOURS.values())) == len(COLOURS)
    for release in COLOURS:
        assert contrast(colour(release), "white") >= 2.99
        assert contrast(colour(release), "#1a1a1a") >= 2.09
    assert colour("attached") not in COLOURS.values()


def test_embedded_releases_can_be_told_apart_with_any_colour_vision() -> None:
    """Smallest OKLab distance over full vision, protanopia and deuteranopia (Machado 2009)."""
    releases = [row.release for row in embedded_releases()]
    names = [release for release in releases if release >= "23.07"]
    views = (
        np.eye(3),
        np.array(
            [
                [0.152286, 1.052583, -0.204868],
                [0.114503, 0.786281, 0.099216],
                [-0.003882, -0.048116, 1.051998],
            ]
        ),
        np.array(
            [
                [0.367322, 0.860646, -0.227968],
                [0.280085, 0.672501, 0.047413],
                [-0.01182, 0.04294, 0.968881],
            ]
        ),
    )
    for a, b in combinations(names, 2):
        seen = min(np.linalg.norm(oklab(v @ linear(a)) - oklab(v @ linear(b))) for v in views)
        assert seen > 0.06, (a, b)  # 0.02 is about one just noticeable difference
    assert len(DASHES) > 1


def linear(release: str) -> np.ndarray:
    c = np.array(to_rgb(colour(release)))
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def oklab(rgb: np.ndarray) -> np.ndarray:
    lms = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    to_lab = np.array(
        [
            [0.2104542553, 0.793617785, -0.0040720468],
            [1.9779984951, -2.428592205, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.808675766],
        ]
    )
    return to_lab @ np.cbrt(np.clip(lms @ rgb, 0, None))


def test_timeouts_are_failures_in_the_latency_picture(tmp_path: Path, ax: Axes) -> None:
    folder = write_study(tmp_path / "s", ["24.05"], ["cancel-race"])
    write_trial(folder, "24.05", requests=100, outcomes=dict.fromkeys(range(10), Outcome.TIMEOUT))
    plot_latency(requests_frame(folder), ax)
    assert ax.get_title(loc="left") == "24.05 leaves 10\N{NO-BREAK SPACE}% unanswered"


def test_many_releases_over_concurrency_are_lines_with_failures_in_the_never_band(
    tmp_path: Path, ax: Axes
) -> None:
    folder = write_study(tmp_path / "s", ["23.10", "24.05"], ["cancel-race"])
    for release in folder.spec.releases:
        for concurrency in (1, 16):
            dies = release == "23.10" and concurrency == 16
            crash_after = 100 if dies else None
            write_trial(
                folder, release, requests=100, concurrency=concurrency, crash_after=crash_after
            )
    plot_latency_curve(requests_frame(folder), ax)
    curves = {line.get_label(): line for line in ax.get_lines()}
    ticks = dict(zip([t.get_text() for t in ax.get_yticklabels()], ax.get_yticks(), strict=True))
    assert [round(x) for x in curves["24.05"].get_xdata()] == [0, 1]
    assert curves["23.10"].get_ydata()[1] == ticks["never"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1", "16"]
    assert "23.10 (14 % failed)" in texts(ax)


def test_engines_are_never_pooled_in_a_latency(tmp_path: Path, ax: Axes) -> None:
    folder = write_study(tmp_path / "s", ["24.05"], ["cancel-race"])
    write_trial(folder, "24.05", repeat=0, requests=80)
    write_trial(
        folder, "24.05", repeat=1, requests=80, engine=Engine(kind=EngineKind.VLLM, version="0.5")
    )
    requests = requests_frame(folder)
    plot_latency(requests, ax)
    assert [t.get_text().split("\n")[0] for t in ax.get_xticklabels()] == ["simulated", "vllm 0.5"]
    with pytest.raises(SpecError, match="engine"):
        plot_latency_curve(requests, ax)
