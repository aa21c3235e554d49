"""The front door: what `import kit` gives, and what it says of a wrong argument."""

from __future__ import annotations

import doctest
import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import kit
from kit.errors import KitError, SpecError, StoreError, UnknownReleaseError, UnknownScenarioError

ROOT = Path(__file__).resolve().parents[2]
#: Third-party modules that `import kit` must not load, however fast the machine is.
HEAVY = {"numpy", "pandas", "matplotlib", "pyarrow", "scipy", "IPython", "msgspec", "yaml"}


def python(script: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout


def test_importing_the_kit_loads_no_room_and_no_library() -> None:
    loaded = set(python("import kit, sys; print(*sys.modules)").split())
    assert {name for name in loaded if name.split(".")[0] == "kit"} == {"kit"}
    assert loaded & HEAVY == set()


@pytest.mark.slow
def test_importing_the_kit_takes_under_100_ms_of_processor_time() -> None:
    script = "import time; t = time.process_time(); import kit; print(time.process_time() - t)"
    assert min(float(python(script)) for _ in range(5)) < 0.1


@pytest.mark.slow
def test_the_frames_of_a_study_load_neither_figures_nor_statistics() -> None:
    script = (
        "import kit, sys; len(kit.recorded('first_light').trials)\n"
        "print(*{name.split('.')[0] for name in sys.modules}, *sys.modules)"
    )
    loaded = set(python(script).split())
    assert "pandas" in loaded
    assert loaded & {"matplotlib", "scipy", "kit.crash.diagnose"} == set()


def test_completion_offers_the_public_names_only() -> None:
    assert dir(kit) == sorted(kit.__all__)
    assert len(kit.__all__) <= 19


@pytest.mark.parametrize("name", kit.__all__)
def test_every_public_name_has_a_docstring_with_an_example(name: str) -> None:
    text = inspect.getdoc(getattr(kit, name)) or ""
    assert ">>> " in text or f"kit.{name}(" in text


@pytest.mark.slow
@pytest.mark.parametrize("module", sorted({getattr(kit, name).__module__ for name in kit.__all__}))
def test_the_examples_of_the_front_door_run(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    failed, _ = doctest.testmod(import_module(module))
    assert failed == 0


def test_a_misspelt_public_name_names_the_nearest() -> None:
    with pytest.raises(AttributeError, match=r"did you mean kit\.recorded"):
        kit.recorde  # noqa: B018


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"releases": "24.05"}, SpecError, "argument 'releases'.*did you mean 'release'"),
        ({"servers": 24.05}, SpecError, 'servers = 24.05.*"24.05"'),
        ({"servers": 24.1}, SpecError, '"24.10"'),
        ({"servers": ["24.05", 24]}, SpecError, "servers = 24, of type int"),
        ({"servers": {"release": "24.05"}}, SpecError, r"of type dict.*the release alone"),
        ({"servers": "localhost:8000"}, SpecError, r'kit.attach\("http://localhost:8000"'),
        ({"servers": "https://llm.example"}, SpecError, r'kit.attach\("https://llm.example"'),
        ({"servers": "registry.example/triton:1"}, SpecError, r'image="registry.example/triton:1"'),
        ({"release": "24.05", "concurency": 4}, SpecError, "did you mean 'concurrency'"),
        ({"release": "24.05", "concurrency": "four"}, SpecError, "concurrency = 'four'.*number"),
        ({"release": "24.05", "concurrency": 0}, SpecError, "concurrency = 0.*1 or more"),
        ({"release": "24.05", "protocol": "gprc-stream"}, SpecError, "'grpc-stream'"),
        ({"release": "24.05", "repeats": "x"}, SpecError, "repeats = 'x'"),
        ({"release": "24.5"}, UnknownReleaseError, "'24.5'.*24.05"),
        ({}, SpecError, "no server.*kit.releases"),
    ],
)
def test_a_wrong_argument_of_run_names_it_and_what_was_expected(
    arguments: dict[str, object], error: type[KitError], said: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=f"(?s){said}"):
        kit.run(scenario="control", folder=tmp_path / "study", **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "study").exists()


def test_an_unknown_scenario_names_the_nearest() -> None:
    with pytest.raises(UnknownScenarioError, match="cancel-race"):
        kit.run("24.05", scenario="cancel-rase")


def test_a_folder_without_a_study_is_refused_with_the_nearest_that_has_one() -> None:
    recorded = ROOT / "data" / "recorded"
    with pytest.raises(StoreError, match=r"holds no study.*kit\.open\(.*recorded"):
        kit.open(recorded)
    with pytest.raises(StoreError, match=r"not there.*first_light"):
        kit.open(recorded / "first_ligt")
    with pytest.raises(SpecError, match="folder=3"):
        kit.open(3)  # type: ignore[arg-type]


def test_an_unknown_recorded_name_names_the_nearest() -> None:
    with pytest.raises(StoreError, match='did you mean "release_map"'):
        kit.recorded("release-map")


def test_a_text_is_diagnosed_as_well_as_a_file(tmp_path: Path) -> None:
    path = ROOT / "tests" / "crash" / "stacks" / "measured-23.10-1.log"
    of_file, of_text = kit.diagnose(str(path)), kit.diagnose(path.read_text("utf-8"))
    assert of_file.died
    assert of_file.summary == of_text.summary
    assert "what to do: Never ask" in repr(of_file)
    assert "is-cancelled-after-final" in of_file._repr_html_()
    with pytest.raises(StoreError, match=r"no\.log"):
        kit.diagnose(tmp_path / "no.log")
