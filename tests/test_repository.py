"""Rules that the checkout as a whole keeps: layers, packaging, sizes, and what no file may say."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kit.study.releases import embedded_releases, numpy_wheels

ROOT = Path(__file__).resolve().parent.parent

#: The rooms of kit/, highest floor first. Imports point down only; rooms on one floor do not
#: import each other in a circle.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("__main__",),
    ("ui",),
    ("report", "checks"),
    ("reproduce", "kv"),
    ("runner", "plots"),
    ("stats",),
    ("crash", "load", "servers"),
    ("study",),
    ("errors",),
    ("cleaning",),
)
#: From this floor up, pandas and its kind may be imported. `runner` runs trials without them.
STATS = next(number for number, rooms in enumerate(FLOORS) if "stats" in rooms)
HEAVY = {"pandas", "matplotlib", "lifelines", "scipy", "IPython", "ipywidgets", "papermill"}
MOST_LINES = 400
#: The front door, whose names are loaded when they are first used.
DOOR = ROOT / "kit" / "__init__.py"
#: Triton models: they run inside Triton and import nothing of the kit.
MODELS = ROOT / "kit" / "servers" / "models"


def modules() -> list[Path]:
    kit = ROOT / "kit"
    found = [p for p in tracked_files() if p.suffix == ".py" and p.is_relative_to(kit)]
    return [path for path in found if not path.is_relative_to(MODELS)]


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room(module: str) -> str:
    """The first name behind `kit.`; the package itself has none and lies below all rooms."""
    return module.partition(".")[2].partition(".")[0]


def floor(module: str) -> int:
    """Number of the floor of `kit.<room>[.<module>]`, 0 the highest."""
    if not room(module) or (room(module).startswith("_") and room(module) != "__main__"):
        return len(FLOORS)
    for number, rooms in enumerate(FLOORS):
        if room(module) in rooms:
            return number
    raise AssertionError(f"{module} has no place in FLOORS of {Path(__file__).name}")


@cache
def imported_from_kit(path: Path) -> set[str]:
    """Names of the kit's modules that this file imports, at the top or inside functions."""
    found = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "kit"}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            if node.module == "kit":
                found |= {f"kit.{alias.name}" for alias in node.names}
            elif node.module and node.module.startswith("kit."):
                found.add(node.module)
    return found - {"kit.__version__"}


@cache
def tracked_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.slow
def test_imports_point_down_only() -> None:
    upward = [
        f"{dotted(path)} imports {name}"
        for path in modules()
        if path != DOOR  # it imports nothing before it is asked to; see the tests of the door
        for name in sorted(imported_from_kit(path))
        if floor(name) < floor(dotted(path))
    ]
    assert upward == []


@pytest.mark.slow
def test_rooms_on_one_floor_import_each_other_in_no_circle() -> None:
    pairs = {
        (room(dotted(path)), room(name))
        for path in modules()
        for name in imported_from_kit(path)
        if room(name) != room(dotted(path)) and floor(name) == floor(dotted(path))
    }
    sorter = TopologicalSorter[str]()
    for above, below in pairs:
        sorter.add(above, below)
    sorter.prepare()  # raises CycleError for a circle


def test_only_rooms_lie_at_the_root() -> None:
    named = {rest for rooms in FLOORS for rest in rooms} | {"__init__"}
    found = {path.relative_to(ROOT / "kit").parts[0].removesuffix(".py") for path in modules()}
    assert found == named


def test_server_models_import_nothing_of_the_kit() -> None:
    models = sorted(MODELS.rglob("*.py"))
    assert {str(p): imported_from_kit(p) for p in models if imported_from_kit(p)} == {}


def test_rooms_reexport_nothing() -> None:
    for path in set((ROOT / "kit").rglob("__init__.py")) - {DOOR}:
        for node in parsed(path).body:
            is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            assert is_docstring, f"{path} line {node.lineno}"


def test_modules_stay_small() -> None:
    lengths = {dotted(path): len(path.read_text("utf-8").splitlines()) for path in modules()}
    assert {name: n for name, n in lengths.items() if n > MOST_LINES} == {}


def test_a_public_name_of_a_class_stands_for_one_thing() -> None:
    where = defaultdict(list)
    for path in modules():
        for statement in parsed(path).body:
            if isinstance(statement, ast.ClassDef) and not statement.name.startswith("_"):
                where[statement.name].append(dotted(path))
    assert {name: sorted(found) for name, found in where.items() if len(found) > 1} == {}


def test_every_module_says_what_it_is() -> None:
    named = [path for path in modules() if path.read_text("utf-8").strip()]
    assert [dotted(p) for p in named if not ast.get_docstring(parsed(p))] == []


@pytest.mark.slow
def test_modules_below_the_statistics_import_no_heavy_library() -> None:
    cheap = [
        dotted(path)
        for path in modules()
        if (floor(dotted(path)) > STATS or room(dotted(path)) == "runner")
        and path.name != "__main__.py"
    ]
    script = (
        "import importlib, sys\n"
        f"for name in {cheap!r}:\n"
        "    importlib.import_module(name)\n"
        f"    heavy = {HEAVY!r} & set(sys.modules)\n"
        "    assert not heavy, f'{name} imports {heavy}'\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def declared() -> dict[str, Requirement]:
    """Every dependency that pyproject.toml declares, extras included, by canonical name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = project["dependencies"] + [
        line for extra in project["optional-dependencies"].values() for line in extra
    ]
    return {canonicalize_name(r.name): r for r in map(Requirement, lines)}


def test_the_lock_pins_what_pyproject_declares(declared: dict[str, Requirement]) -> None:
    locked: dict[str, str] = {}
    direct = set()
    for block in re.split(r"\n(?=\S)", (ROOT / "requirements.lock").read_text("utf-8")):
        if block.startswith("#"):
            continue
        pin, _, rest = block.partition(" \\\n")
        requirement = Requirement(pin)
        assert "--hash=sha256:" in rest, f"{pin} has no hash"
        if requirement.marker is None or requirement.marker.evaluate(
            {**default_environment(), "extra": ""}
        ):
            name = canonicalize_name(requirement.name)
            locked[name] = next(iter(requirement.specifier)).version
            if "triton-crash-kit" in rest:
                direct.add(name)
    unmet = {n: str(r) for n, r in declared.items() if not r.specifier.contains(locked.get(n, "0"))}
    assert unmet == {}
    assert direct == set(declared), "run `make lock`"


#: conda-forge's names where they differ from the index's.
CONDA_NAMES = {
    "docker": "docker-py",
    "duckdb": "python-duckdb",
    "matplotlib": "matplotlib-base",
    "prometheus-client": "prometheus_client",
}


#: As environment.yml has it; conda's "=3.11" is a prefix.
PYTHON = "python==3.11"


def test_the_python_of_the_conda_environment_can_run_the_servers() -> None:
    version = PYTHON.partition("==")[2]
    wheels = {r.release: r.wheel for r in embedded_releases() if r.wheel}
    without = {name for name, wheel in wheels.items() if version not in wheel.python}
    assert without == {"23.04"}, "whose only stub is for Python 3.8"
    assert version in numpy_wheels()


def test_the_conda_environment_has_what_pyproject_declares(
    declared: dict[str, Requirement],
) -> None:
    listed = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))["dependencies"]
    from_pip = next(entry["pip"] for entry in listed if isinstance(entry, dict))
    assert from_pip[-1] == "--editable ."
    conda = {
        Requirement(re.sub(r"(?<![<>=])=(?!=)", "==", entry))
        for entry in listed
        if isinstance(entry, str)
    }
    conda -= {Requirement(PYTHON), Requirement("make")}
    given = {(r.name, r.specifier) for r in conda | set(map(Requirement, from_pip[:-1]))}
    asked = {(CONDA_NAMES.get(r.name, r.name), r.specifier) for r in declared.values()}
    assert given == asked


@pytest.mark.slow
def test_no_file_names_an_index_host_or_a_machine_path() -> None:
    hosts = (
        rb"pypi\.o"
        + rb"rg|pythonhosted\.o"
        + rb"rg|npmjs\.(com|o"
        + rb"rg)|deb\.debian\.o"
        + rb"rg"
    )
    paths = rb"(?<![\w.-])/(?:wo" + rb"rk|ro" + rb"ot|home/[a-z]+)/"
    forbidden = re.compile(hosts + rb"|" + paths)
    quoted = (
        ROOT / "tests" / "crash" / "stacks"
    )  # public logs, with the paths of other people's machines
    found = {
        str(path.relative_to(ROOT)): sorted({m.group() for m in forbidden.finditer(data)})
        for path in tracked_files()
        if not path.is_relative_to(quoted) and forbidden.search(data := path.read_bytes())
    }
    assert found == {}


def test_committed_files_are_small() -> None:
    sizes = {str(p.relative_to(ROOT)): p.stat().st_size for p in tracked_files()}
    assert {name: size for name, size in sizes.items() if size > 1 << 20} == {}


def make(*words: str) -> str:
    # A make that runs the tests must not hand its own flags to the one under test.
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    return subprocess.run(
        ["make", *words], cwd=ROOT, env=env, capture_output=True, text=True, check=True
    ).stdout


def test_make_alone_lists_every_target() -> None:
    text = (ROOT / "Makefile").read_text("utf-8")
    targets = re.search(r"^\.PHONY: (.*)", text, re.MULTILINE)
    assert targets is not None
    listed = re.findall(r"^  make ([a-z-]+) +\S", make(), re.MULTILINE)
    assert sorted([*listed, "help"]) == sorted(targets.group(1).split())


def test_make_test_runs_every_check() -> None:
    steps = make("--dry-run", "--assume-old=.venv/.made-from-lock", "test")
    for check in ("ruff format --check", "ruff check", "codespell", "mypy", "pytest"):
        assert check in steps


def test_every_way_to_set_up_checks_the_hashes() -> None:
    steps = make("--dry-run", "--always-make", "setup")
    commands = re.split(r"\n|\|\||&&|;", steps.replace("\\\n", " "))
    installs = [command for command in commands if " pip install " in command]
    editable = [line for line in installs if "--editable ." in line]
    assert len(editable) == 1
    assert "--no-deps" in editable[0]
    others = [line for line in installs if line not in editable]
    assert len(others) == 3, "uv by pip, the rest by uv, or all of it by pip"
    assert [line for line in others if "--require-hashes" not in line] == []


def test_ci_runs_the_test_command_of_the_readme() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    assert "make test" in script.read_text("utf-8").splitlines()[-1]


def test_the_hooks_are_local() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    assert {repo["repo"] for repo in config["repos"]} == {"local"}
