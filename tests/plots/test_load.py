"""What the pictures of load, distributions, last seconds and comparisons contain."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from synthetic_studies import first_light, write_study, write_trial

from kit.errors import NotEnoughDataError, SpecError
from kit.plots.compare import compare_size_in, plot_compare
from kit.plots.distribution import plot_distribution, plot_itl, plot_ttft
from kit.plots.kv_panels import panel_size_in, plot_kv_panels
from kit.plots.last_seconds import plot_last_seconds
from kit.plots.latency import plot_latency
from kit.plots.latency_curve import plot_latency_curve, plot_pareto
from kit.plots.queue import GPU_BUSY
from kit.plots.style import STYLE
from kit.servers.watch import names
from kit.stats.compare import compare
from kit.stats.frames import requests_frame, samples_frame, token_gaps_frame, trials_frame
from kit.stats.latency import latency_table
from kit.stats.throughput import offered_rate, throughput_table
from kit.study.paths import RECORDED
from kit.study.result import Outcome
from kit.study.spec import ArrivalKind, Arrivals

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def figure() -> Iterator[Figure]:
    with plt.style.context(STYLE):
        made = plt.figure(layout="constrained")
        yield made
        made.savefig(Path("/dev/null"), format="png")  # draws: layout and fonts warn here
        plt.close(made)


@pytest.fixture
def ax(figure: Figure) -> Axes:
    return figure.add_subplot()


@pytest.fixture(scope="module")
def loads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two releases at 4 and 16 clients; 23.10 dies at 16."""
    folder = write_study(tmp_path_factory.mktemp("s") / "s", ["23.10", "24.05"], ["cancel-race"])
    for release in folder.spec.releases:
        for concurrency in (4, 16):
            dies = release == "23.10" and concurrency == 16
            for repeat in range(2):
                write_trial(
                    folder,
                    release,
                    repeat=repeat,
                    requests=120,
                    concurrency=concurrency,
                    crash_after=100 if dies else None,
                )
    return folder.path


def texts(ax: Axes) -> str:
    return "\n".join([*(text.get_text() for text in ax.texts), ax.get_xlabel()])


def title(shown: Axes | Figure) -> str:
    text = shown.get_suptitle() if isinstance(shown, Figure) else shown.get_title(loc="left")
    return text.replace("\n", " ").replace("\xa0", " ")


def lines(ax: Axes) -> dict[str, object]:
    return {str(line.get_gid() or line.get_label()): line for line in ax.get_lines()}


@pytest.mark.slow
def test_latency_against_concurrency_has_intervals_n_and_hollow_marks_for_failures(
    loads: Path, ax: Axes
) -> None:
    plot_latency_curve(requests_frame(loads), ax)
    assert {c.get_gid() for c in ax.collections} == {"interval 23.10", "interval 24.05"}
    assert len(lines(ax)["some failed 23.10"].get_xdata()) == 1
    assert len(lines(ax)["some failed 24.05"].get_xdata()) == 0
    assert "n 472 to 480 requests a release" in texts(ax)
    assert "23.10 (14 % failed)" in texts(ax)


@pytest.mark.slow
def test_an_open_loop_is_drawn_against_the_rate_at_which_requests_were_due(
    tmp_path: Path, ax: Axes
) -> None:
    folder = write_study(tmp_path / "s", ["24.05"], ["cancel-race"])
    for repeat, service_ms in enumerate((40.0, 20.0)):
        write_trial(
            folder,
            "24.05",
            repeat=repeat,
            requests=120,
            service_ms=service_ms,
            arrivals=Arrivals(kind=ArrivalKind.POISSON, rate_per_s=50.0, concurrency=4),
        )
    requests = requests_frame(folder)
    plot_latency_curve(requests, ax)
    rates = sorted(offered_rate(requests).unique())
    assert rates[1] == pytest.approx(2 * rates[0], rel=0.05)
    assert [t.get_text() for t in ax.get_xticklabels()] == [f"{rate:g}" for rate in rates]
    assert ax.get_xlabel().startswith("requests a second that were due")


def test_throughput_is_right_answers_over_the_time_of_each_trial() -> None:
    frame = pd.DataFrame(
        {
            "release": "24.05",
            "concurrency": 2,
            "trial_id": ["a"] * 3 + ["b"] * 2,
            "judged": True,
            "ok": [True, True, False, True, True],
            "t_s": [0.0, 1.0, 2.0, 0.0, 0.5],
            "end_s": [1.0, 2.0, 4.0, 0.5, 1.0],
        }
    )
    [row] = throughput_table(frame).to_dict("records")
    assert row["answers_per_s"] == pytest.approx((2 / 4 + 2 / 1) / 2)
    assert row["low_per_s"] < row["answers_per_s"] < row["high_per_s"]
    assert (row["trials"], row["n"], row["failed_fraction"]) == (2, 5, pytest.approx(0.2))
    [alone] = throughput_table(frame[frame["trial_id"] == "b"]).to_dict("records")
    assert np.isnan(alone["low_per_s"])


@pytest.mark.slow
def test_the_pareto_figure_labels_each_point_with_its_load(loads: Path, ax: Axes) -> None:
    requests = requests_frame(loads)
    plot_pareto(requests, ax)
    table = throughput_table(requests).set_index(["release", "concurrency"])
    curve = lines(ax)["24.05"]
    assert list(curve.get_xdata()) == [table.loc[("24.05", c), "answers_per_s"] for c in (4, 16)]
    named = {t.get_gid(): t.get_text() for t in ax.texts if str(t.get_gid()).startswith("load")}
    assert named == {f"load {r} {c}": str(c) for r in ("23.10", "24.05") for c in (4, 16)}
    assert title(ax).startswith("24.05 answers most")
    assert "n 952 requests" in texts(ax)


@pytest.mark.slow
def test_a_distribution_ends_below_all_by_the_share_never_answered(loads: Path, ax: Axes) -> None:
    requests = requests_frame(loads)
    plot_distribution(requests, ax)
    dying = lines(ax)["answered 23.10 at 16"]
    assert dying.get_ydata()[-1] == pytest.approx(200 / 232)
    assert lines(ax)["answered 24.05 at 4"].get_ydata()[-1] == 1.0
    assert "23.10 at 16 (n 232, 14 % never)" in texts(ax)
    assert title(ax) == "Never answered: 14 % on 23.10 at 16"


@pytest.mark.slow
def test_a_cell_that_never_answered_is_named_in_the_distribution(tmp_path: Path, ax: Axes) -> None:
    folder = write_study(tmp_path / "s", ["23.10"], ["cancel-race"])
    write_trial(folder, "23.10", crash_after=0)
    plot_distribution(requests_frame(folder), ax)
    assert "23.10 (n 4, 100 % never)" in texts(ax)
    with pytest.raises(NotEnoughDataError):
        plot_distribution(requests_frame(folder)[:0].assign(open_loop=False), ax)


@pytest.mark.slow
def test_the_first_token_and_the_gaps_between_tokens_are_drawn(loads: Path, ax: Axes) -> None:
    gaps = token_gaps_frame(loads)
    plot_itl(gaps, ax)
    own = gaps[(gaps["release"] == "24.05") & (gaps["concurrency"] == 4)]["itl_ms"]
    assert lines(ax)["longest 24.05 at 4"].get_ydata()[0] == own.max()
    assert lines(ax)["p50 24.05 at 4"].get_ydata()[0] == own.quantile(interpolation="lower")
    assert f"n {len(own):,}" in [t.get_text() for t in ax.get_xticklabels()][1].split("\n") or any(
        f"n {len(own):,}" in t.get_text() for t in ax.get_xticklabels()
    )
    ax.clear()
    plot_ttft(requests_frame(loads), ax)
    assert ax.get_ylabel().startswith("time to first token")
    with pytest.raises(NotEnoughDataError, match="first token"):
        plot_ttft(requests_frame(RECORDED / "first_light"), ax)
    with pytest.raises(NotEnoughDataError, match="gap"):
        plot_itl(gaps[:0], ax)


@pytest.mark.slow
def test_the_last_seconds_show_each_request_by_how_it_ended(loads: Path, ax: Axes) -> None:
    trials, requests = trials_frame(loads), requests_frame(loads)
    plot_last_seconds(requests, trials, ax, gaps=token_gaps_frame(loads), rows=30)
    drawn = lines(ax)
    rows = [gid for gid in drawn if gid.split()[0] in list(Outcome)]
    assert len(rows) == 30
    open_ = [gid for gid in rows if gid.startswith(Outcome.IN_FLIGHT)]
    assert len(open_) == 16
    assert all(drawn[gid].get_xdata()[1] == 0.0 for gid in open_)  # to the moment of death
    died = trials.loc[trials["crashed"].idxmax()]
    own = requests[(requests["trial_id"] == died["trial_id"]) & (requests["request"] == 99)].iloc[0]
    begin, end = drawn["ok 99"].get_xdata()
    assert begin == pytest.approx(own["t_s"] - died["time_to_death_s"])
    assert end == pytest.approx(own["end_s"] - died["time_to_death_s"])
    tokens = drawn["tokens ok 99"].get_xdata()
    assert len(tokens) == 4  # after the first of five
    assert tokens[-1] == pytest.approx(end)
    assert title(ax).startswith("16 requests were open when 23.10 died; the last answer came")
    assert "✕ open at death" in ax.get_xlabel()
    assert ax.get_ylabel() == "last 30 of 116 requests sent"


@pytest.mark.slow
def test_requests_after_the_death_have_no_row_and_are_counted(ax: Axes) -> None:
    folder = RECORDED / "first_light"
    plot_last_seconds(requests_frame(folder), trials_frame(folder), ax)
    assert "16 more could not be sent" in ax.get_xlabel().replace("\n", " ")
    assert not any(gid.startswith("refused") for gid in lines(ax))


@pytest.mark.slow
def test_without_a_death_there_are_no_last_seconds(loads: Path, ax: Axes) -> None:
    trials = trials_frame(loads)
    with pytest.raises(SpecError, match="none died"):
        plot_last_seconds(requests_frame(loads), trials[~trials["crashed"]], ax)
    with pytest.raises(NotEnoughDataError, match="before its death"):
        plot_last_seconds(requests_frame(loads)[:0], trials, ax)


@pytest.mark.slow
def test_panels_of_a_release_share_the_time_and_say_what_is_not_exported(
    tmp_path: Path, figure: Figure
) -> None:
    study = first_light(tmp_path / "s")
    trials, samples = trials_frame(study), samples_frame(study)
    own = trials[trials["scenario"] == "cancel-race"]
    axes = plot_kv_panels(samples, own, figure)
    assert axes.shape == (3, 3)
    assert len({ax.get_xlim() for ax in axes.flat}) == 1
    assert len({ax.get_ylim() for ax in axes[0]}) == 1
    assert [ax.get_title(loc="left") for ax in axes[0]] == [
        "23.10  3/3 died ✕",
        "24.05  0/3 died",
        "24.10  3/3 died ✕",
    ]
    assert texts(axes[0, 1]).startswith("not exported")
    deaths = [gid for gid in lines(axes[0, 0]) if gid.startswith("death")]
    assert len(deaths) == 3
    assert all(texts(ax).startswith("not exported") for ax in axes[2])  # preemptions
    assert title(figure).startswith("23.10 and 24.10 die with the KV cache at most")


@pytest.mark.slow
def test_the_gpu_has_panels_of_its_own_where_it_is_exported(figure: Figure) -> None:
    folder = RECORDED / "kv_real_and_simulated"
    trials, samples = trials_frame(folder), samples_frame(folder)
    assert panel_size_in(samples, trials)[1] > 6
    gpu = samples[samples["name"] == names.KV_USAGE].assign(
        name=GPU_BUSY, source=names.TRITON_METRICS
    )
    axes = plot_kv_panels(pd.concat([samples, gpu]), trials, figure)
    assert axes.shape == (4, 8)
    assert [ax.get_title(loc="left").split("\n")[0] for ax in axes[0]][:2] == [
        "simulated at 1",
        "simulated at 4",
    ]
    assert all(len(ax.get_lines()) for ax in axes[3])
    assert "up to 71 preemptions a trial" in title(figure)


@pytest.mark.slow
def test_a_comparison_shows_both_sides_of_each_traffic(tmp_path: Path, figure: Figure) -> None:
    study = first_light(tmp_path / "s", repeats=5)
    trials, requests = trials_frame(study), requests_frame(study)
    figure.set_size_inches(compare_size_in(2))
    left, right = plot_compare(compare(trials, requests, levels=["24.10", "24.05"]), figure)
    marks = lines(left)
    assert marks["died 24.10 cancel-race"].get_xdata()[0] == 1.0
    assert marks["died 24.05 cancel-race"].get_xdata()[0] == 0.0
    assert [t.get_text() for t in left.get_yticklabels()] == ["cancel-race", "control"]
    assert "5/5" in texts(left)
    assert marks["died 24.10 control"].get_marker() != marks["died 24.05 control"].get_marker()
    assert "ratio control" in lines(right)
    assert "ratio cancel-race" in lines(right)
    assert title(figure) == "24.10 dies more than 24.05 under cancel-race"


@pytest.mark.slow
def test_a_comparison_of_survivors_claims_no_difference(tmp_path: Path, figure: Figure) -> None:
    study = first_light(tmp_path / "s")
    trials, requests = trials_frame(study), requests_frame(study)
    control = trials[trials["scenario"] == "control"]
    plot_compare(compare(control, requests, levels=["24.10", "24.05"]), figure)
    assert title(figure) == "Neither 24.10 nor 24.05 died in 6 trials"


def test_an_interval_of_two_unlike_lives_is_cut_and_leaves_the_marks_their_room() -> None:
    ms = np.r_[np.linspace(100, 120, 100), np.linspace(900, 1000, 100)]
    frame = pd.DataFrame(
        {"release": "24.05", "scenario": "control", "engine": "simulated", "protocol": "http-infer",
         "concurrency": 4, "trial_id": ["a"] * 100 + ["b"] * 100, "judged": True, "ok": True,
         "e2e_ms": ms}
    )  # fmt: skip
    assert latency_table(frame, quantiles=[0.95])["high_ms"].item() > 1e5
    _, ax = plt.subplots()
    plot_latency(frame, ax, latency="e2e_ms")
    assert ax.get_ylim()[1] < 10 * ms.max()
    arrows = [line.get_marker() for line in ax.lines if line.get_xdata().size]
    assert arrows.count("^") == arrows.count("v") == 2  # of the median and of p95
