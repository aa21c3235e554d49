"""The server's Python is one that a stub fits; where there is none, the error says what to get."""

import sys
from pathlib import Path

import pytest

from kit.errors import LibpythonMissingError, UnsupportedPlatformError
from kit.servers import python as python_module
from kit.servers.environment import numpy_folder, python_for, server_environment
from kit.servers.platform import architecture_for
from kit.servers.python import ServerPython, choose_python, python_at, running_python, ways_to_get
from kit.servers.wheels import ServerFiles
from kit.study.releases import embedded_wheel, get_release, numpy_wheels

RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def files(tmp_path: Path) -> ServerFiles:
    return ServerFiles(
        root=tmp_path / "root",
        stubs=("3.8", "3.9", "3.10", "3.11"),
        brings_libpython=False,
        has_metrics_address=True,
    )


def a_python(version: str = "3.11", *, libpython: Path | None = Path("/l.so")) -> ServerPython:
    return ServerPython(version=version, home=Path("/opt/p"), libpython=libpython)


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_module, "_candidates", lambda _: iter(()))


def test_a_fitting_python_of_this_machine_is_found() -> None:
    python = choose_python(["3.8", "3.9", "3.10", "3.11", "3.12"])
    assert python.libpython is not None
    assert python.libpython.name == f"libpython{python.version}.so.1.0"
    assert (python.home / f"lib/python{python.version}/os.py").exists()


def test_the_running_python_is_taken_before_others() -> None:
    running = running_python()
    if running is None:
        assert choose_python(["3.9", "3.10", "3.11", "3.12"]).libpython is not None
    else:
        assert choose_python(["3.8", RUNNING]) == running


def test_a_known_python_is_taken_before_the_running_one() -> None:
    assert choose_python(["3.9", RUNNING], known=[a_python("3.9")]).version == "3.9"


def test_a_python_without_a_stub_is_never_chosen(bare_machine: None) -> None:
    with pytest.raises(LibpythonMissingError):
        choose_python(["3.10"], known=[a_python("3.11")])


def test_a_missing_libpython_names_the_packages_that_bring_it(bare_machine: None) -> None:
    with pytest.raises(LibpythonMissingError) as caught:
        choose_python(["3.10", "3.11"])
    for package in ("python=3.11", "uv python install 3.11"):
        assert package in caught.value.hint
    assert "--enable-shared" in caught.value.hint


def test_a_hint_names_a_package_only_where_the_system_has_it() -> None:
    def ways(name: str, release: str) -> str:
        return ways_to_get("3.11", system={"ID": name, "VERSION_ID": release})

    assert ways("debian", "12").startswith("install the package libpython3.11, `conda")
    assert "package" not in ways("debian", "13") + ways("ubuntu", "24.04")
    assert ways("fedora", "43").startswith("install the package python3.11, ")
    assert "Debian's or Ubuntu's package libpython3.11" in ways("arch", "")


def test_a_stub_with_its_own_libpython_asks_for_a_standard_library_only(
    bare_machine: None,
) -> None:
    static = a_python("3.8", libpython=None)
    assert choose_python(["3.8"], brings_libpython=True, known=[static]) == static
    with pytest.raises(LibpythonMissingError, match=r"standard library of version 3\.8"):
        choose_python(["3.8"], brings_libpython=True)


def test_an_executable_that_is_no_python_is_told_apart(tmp_path: Path) -> None:
    for text in ("#!/bin/sh\nexit 3\n", "#!/bin/sh\necho hello\n"):
        fake = tmp_path / "python3"
        fake.write_text(text)
        fake.chmod(0o755)
        with pytest.raises(LibpythonMissingError, match="cannot be run as Python 3"):
            python_at(fake)


def test_an_environments_packages_come_with_its_python() -> None:
    running = running_python()
    if running is None:
        with pytest.raises(LibpythonMissingError, match="no shared libpython"):
            python_at(Path(sys.executable))
        return
    python = python_at(Path(sys.executable), paths=(Path("/before"),))
    assert python.version == RUNNING
    assert any(path.name == "site-packages" for path in python.packages)
    assert python.paths == (Path("/before"),)


def test_a_python_without_numpy_1_is_refused(files: ServerFiles) -> None:
    with pytest.raises(LibpythonMissingError, match="numpy 2 kills"):
        numpy_folder(a_python("3.13"))
    assert (
        numpy_folder(ServerPython(version="3.13", home=Path("/"), libpython=None, own_numpy=True))
        is None
    )
    with pytest.raises(LibpythonMissingError, match="no stub"):
        python_for(files, a_python("3.12"))
    with pytest.raises(LibpythonMissingError, match="without a shared library"):
        python_for(files, a_python("3.11", libpython=None))


def test_the_stub_sees_the_kits_numpy_and_nothing_of_the_callers_python(
    files: ServerFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("LD_PRELOAD", "/elsewhere.so")
    monkeypatch.setenv("OTHER", "kept")
    environment = server_environment(
        files, a_python(), Path("/cache/numpy"), tmp_path, {"EXTRA": "1"}
    )
    assert not [name for name in environment if name.startswith("PYTHON")]
    assert "LD_PRELOAD" not in environment
    assert (environment["OTHER"], environment["EXTRA"]) == ("kept", "1")
    assert (tmp_path / "lib/libpython3.11.so.1.0").readlink() == Path("/l.so")
    programs = Path(environment["PATH"].split(":")[0])
    assert "home = /opt/p/bin" in (programs.parent / "pyvenv.cfg").read_text()
    packages = programs.parent / "lib/python3.11/site-packages/kit.pth"
    assert packages.read_text().splitlines()[0] == "/cache/numpy"


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"system": "Darwin"}, "Linux binaries"),
        ({"machine": "ppc64le"}, "ppc64le processor"),
        ({"libc": "glibc 2.31"}, r"glibc 2\.31, too old.*glibc 2\.35 or later"),
        ({"libc": ""}, "other than glibc"),
    ],
)
def test_a_machine_that_cannot_run_it_is_told_why(facts: dict[str, str], words: str) -> None:
    machine = {"system": "Linux", "machine": "x86_64", "libc": "glibc 2.36", **facts}
    with pytest.raises(UnsupportedPlatformError, match=words) as caught:
        architecture_for(embedded_wheel(get_release("24.05")), **machine)
    assert "container" in caught.value.hint


def test_an_arm_machine_runs_what_has_arm_binaries() -> None:
    arm = {"system": "Linux", "machine": "aarch64", "libc": "glibc 2.39"}
    assert architecture_for(embedded_wheel(get_release("23.10")), **arm) == "aarch64"
    with pytest.raises(UnsupportedPlatformError, match="later release"):
        architecture_for(embedded_wheel(get_release("23.07")), **arm)


def test_an_older_glibc_is_enough_for_the_oldest_wheel() -> None:
    old = {"system": "Linux", "machine": "x86_64", "libc": "glibc 2.31"}
    assert architecture_for(embedded_wheel(get_release("23.04")), **old) == "x86_64"


def test_every_stub_with_a_numpy_is_in_the_catalog() -> None:
    for name in ("23.10", "24.10"):
        assert set(embedded_wheel(get_release(name)).python) & set(numpy_wheels())
