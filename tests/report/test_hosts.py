"""A study whose trials ran on several hosts says so wherever it shows latencies."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from synthetic_studies import finish_study, write_study, write_trial

import kit
from kit.report.sentences import hosts_sentence
from kit.study.folder import StudyFolder
from kit.study.hosts import HostFacts, note_host

SAID = "trials of 2 hosts, whose latencies differ by the host as well"


def study_on(path: Path, labels: Sequence[str | None]) -> StudyFolder:
    """A trial for each label, on hosts of 2, 4, 6, … cores."""
    study = write_study(path, ["23.10"], ["control"])
    for repeat, label in enumerate(labels):
        folder = write_trial(study, "23.10", scenario="control", repeat=repeat)
        assert folder.result is not None
        folder.finish(replace(folder.result, host=label))
    for number in range(len({label for label in labels if label})):
        note_host(
            path,
            HostFacts(
                machine=str(number),
                kit="1",
                source="f",
                python="3.11.2",
                libc="glibc 2.36",
                system="Linux x86_64",
                processor="P",
                cores=2 * number + 2,
                memory_gib=8,
            ),
        )
    return finish_study(study)


@pytest.fixture
def mixed(tmp_path: Path) -> kit.Study:
    return kit.Study(study_on(tmp_path / "s", ["host 1", "host 2", "host 1"]))


def test_the_frame_has_the_host_of_each_trial(mixed: kit.Study) -> None:
    assert mixed.trials["host"].tolist() == ["host 1", "host 2", "host 1"]
    assert mixed.hosts["trials"].to_dict() == {"host 1": 2, "host 2": 1}
    assert mixed.hosts["cores"].to_dict() == {"host 1": 2, "host 2": 4}


@pytest.mark.slow
def test_text_figures_and_page_say_that_latencies_are_of_several_hosts(
    mixed: kit.Study, tmp_path: Path
) -> None:
    assert SAID in " ".join(repr(mixed).split())
    assert SAID in mixed._repr_html_()
    ax = mixed.plot_latency()
    assert SAID in " ".join(ax.get_figure().get_supxlabel().split())
    plt.close(ax.get_figure())
    page = mixed.report(tmp_path / "reports").read_text()
    assert '<p class="note" id="hosts">The trials ran on 2 hosts' in page
    assert "The hosts differ in cores: 2 on host 1, 4 on host 2." in page
    assert [cell["hosts"] for cell in mixed._cells] == [2]


@pytest.mark.parametrize("labels", [[None, None], ["host 1", "host 1"]])
def test_a_study_of_one_host_says_nothing_of_it(tmp_path: Path, labels: list[str | None]) -> None:
    study = study_on(tmp_path / "s", labels)
    assert hosts_sentence(study) == ""
    assert "hosts" not in kit.Study(study).provenance
    assert kit.Study(study).hosts["trials"].sum() == len([label for label in labels if label])


def test_a_study_that_went_on_without_its_cluster_is_of_two_hosts(tmp_path: Path) -> None:
    study = study_on(tmp_path / "s", ["host 1", None])
    assert "1 on host 1 and 1 on the study's own machine" in hosts_sentence(study)
