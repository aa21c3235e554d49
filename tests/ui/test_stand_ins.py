"""A machine that cannot run a notebook's releases runs the nearest that tell the same."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_studies import first_light

from kit.errors import LibpythonMissingError
from kit.report.page import write_report
from kit.report.sentences import command
from kit.servers import prepare
from kit.servers import python as python_module
from kit.servers.python import ServerPython, choose_python
from kit.study.encoding import to_json
from kit.study.folder import StudyFolder
from kit.study.releases import embedded_wheel, get_release, numpy_wheels
from kit.ui.stand_ins import best_here

WANTED = ["23.10", "24.05", "24.10"]
SCENARIOS = ["cancel-race", "control"]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets the only Python of this machine."""

    def has(version: str) -> None:
        one = ServerPython(version=version, home=Path("/opt/p"), libpython=Path("/l.so"))
        monkeypatch.setattr(python_module, "_candidates", lambda _: iter([one]))
        prepare._check_python.cache_clear()

    yield has
    prepare._check_python.cache_clear()


def need_python(name: str) -> None:
    """As preparing a release, without what it fetches."""
    choose_python([v for v in embedded_wheel(get_release(name)).python if v in numpy_wheels()])


def test_a_machine_that_runs_them_all_leaves_none_out(machine: Callable[[str], None]) -> None:
    machine("3.11")

    def fetch(name: str) -> None:
        pytest.fail(f"{name} is fetched before the study says that it fetches servers")

    assert best_here(WANTED, SCENARIOS, fetch) == (WANTED, {})


def test_with_3_12_alone_24_08_stands_in_for_23_10(machine: Callable[[str], None]) -> None:
    machine("3.12")
    releases, left_out = best_here(WANTED, SCENARIOS, need_python)
    assert releases == ["24.05", "24.08", "24.10"]
    assert list(left_out) == ["23.10"]
    assert "no Python on this machine" in left_out["23.10"]


def test_with_none_that_fits_it_is_said_what_is_missing(machine: Callable[[str], None]) -> None:
    machine("3.13")
    with pytest.raises(LibpythonMissingError, match=r"version 3\.11") as caught:
        best_here(WANTED, SCENARIOS, need_python)
    assert "kit doctor" in str(caught.value)


@pytest.mark.slow
def test_the_report_says_what_was_left_out_and_still_names_its_command(tmp_path: Path) -> None:
    study = first_light(tmp_path / "study", repeats=1)
    spec = replace(study.spec, left_out={"23.07": "no Python on this machine <that> fits"})
    (study.path / "study.json").write_bytes(to_json(spec))
    page = write_report(StudyFolder(study.path), tmp_path / "reports").read_text()
    assert "23.07 was left out: no Python on this machine &lt;that&gt; fits" in page
    assert "python -m kit doctor" in page
    assert "23.07 was left out" in (tmp_path / "reports/latest.md").read_text()
    assert command(spec) == command(study.spec)
