"""The cache holds whole folders or none, whatever happens while it is filled."""

import multiprocessing
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from kit.errors import DownloadError, HashMismatchError, StoreError
from kit.servers.cache import cache_root, cached, is_whole
from kit.servers.fetch import fetch
from kit.servers.traces import sweep
from kit.servers.wheels import package_folder, server_files
from kit.study.releases import Wheel, get_release, numpy_wheels


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRITON_CRASH_KIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fill(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "file").write_text("whole")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith(".lock"))


def test_an_entry_is_filled_once() -> None:
    calls = []
    for _ in range(2):
        folder = cached("things/one", lambda f: (calls.append(f), fill(f))[1])
    assert (folder / "sub" / "file").read_text() == "whole"
    assert len(calls) == 1
    assert folder == cache_root() / "things/one"


def test_a_failed_fill_leaves_nothing(own_cache: Path) -> None:
    def fail(folder: Path) -> None:
        fill(folder)
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        cached("things/one", fail)
    assert names(own_cache / "things") == []


@pytest.mark.parametrize("damage", ["truncate", "delete", "rewrite", "no stamp", "bad stamp"])
def test_a_damaged_entry_is_made_anew(own_cache: Path, damage: str) -> None:
    folder = cached("things/one", fill)
    file = folder / "sub" / "file"
    match damage:
        case "truncate":
            file.write_text("who")
        case "delete":
            file.unlink()
        case "rewrite":
            file.write_text("whale")
        case "no stamp":
            (folder / "whole.json").unlink()
        case "bad stamp":
            (folder / "whole.json").write_text('{"files": [')
    assert not is_whole(folder)
    assert (cached("things/one", fill) / "sub" / "file").read_text() == "whole"
    assert names(own_cache / "things") == ["one"]


def test_a_copied_cache_with_new_times_is_whole() -> None:
    folder = cached("things/one", fill)
    os.utime(folder / "sub" / "file", (1, 1))
    assert is_whole(folder)


def test_what_a_killed_process_left_half_filled_is_removed(own_cache: Path) -> None:
    half = own_cache / "things" / ".tck-new-one-12345678"
    half.mkdir(parents=True)
    (half / "part").write_text("half")
    cached("things/one", fill)
    assert names(own_cache / "things") == ["one"]


DOWNLOADER = """
import time
from kit.study.releases import get_release
from kit.servers.wheels import server_files
server_files(get_release("23.10"))
"""


def test_a_killed_download_is_swept_with_its_pip(tmp_path: Path, own_cache: Path) -> None:
    slow = tmp_path / "slow.py"  # stands in for pip on a slow line
    slow.write_text(
        "#!/bin/sh\n"
        'for word; do last2=$last; last=$word; [ "$last2" = --dest ] && dest=$word; done\n'
        'touch "$dest/half"; sleep 600\n'
    )
    slow.chmod(0o755)
    code = f"import sys; sys.executable = {str(slow)!r}\n" + DOWNLOADER
    with subprocess.Popen([sys.executable, "-c", code]) as owner:
        deadline = time.monotonic() + 30
        while not list(own_cache.glob("wheels/.tck-new-*/half")) and time.monotonic() < deadline:
            time.sleep(0.01)
        [half] = own_cache.glob("wheels/.tck-new-*")
        assert sweep() == []  # somebody is filling it
        owner.kill()
    traces = sweep()
    assert traces[-1].folders == (str(half),)
    assert traces[0].processes
    assert names(own_cache / "wheels") == []
    assert sweep() == []


def _fill_and_log(log: str, start: object) -> None:
    start.wait()  # type: ignore[attr-defined]

    def slow(folder: Path) -> None:
        with open(log, "a") as file:
            file.write("filled\n")
        fill(folder)

    assert is_whole(cached("things/one", slow))


@pytest.mark.slow
def test_of_several_processes_at_once_one_fills(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(3)
    log = tmp_path / "log"
    workers = [context.Process(target=_fill_and_log, args=(str(log), start)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert log.read_text() == "filled\n"


def test_a_cache_that_cannot_be_written_says_which_variable_moves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRITON_CRASH_KIT_CACHE", str(tmp_path / "file"))
    with pytest.raises(StoreError, match="TRITON_CRASH_KIT_CACHE"):
        cached("things/one", fill)


def make_wheel(folder: Path, wheel: Wheel) -> None:
    """A wheel that pip takes, of the right name and another content."""
    folder.mkdir()
    stem = f"{wheel.package.replace('-', '_')}-{wheel.version}"
    with zipfile.ZipFile(folder / wheel.filename["x86_64"], "w") as archive:
        for name, text in (
            (
                "METADATA",
                f"Metadata-Version: 2.1\nName: {wheel.package}\nVersion: {wheel.version}\n",
            ),
            ("WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: false\n"),
            ("RECORD", ""),
        ):
            archive.writestr(f"{stem}.dist-info/{name}", text)


@pytest.mark.slow
def test_a_file_with_another_hash_is_refused_and_not_kept(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = get_release("23.10").wheel
    assert wheel is not None
    make_wheel(tmp_path / "index", wheel)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setattr("kit.servers.wheels.architecture_for", lambda _: "x86_64")
    with pytest.raises(HashMismatchError, match=wheel.sha256["x86_64"]):
        server_files(get_release("23.10"))
    assert names(own_cache / "wheels") == []


@pytest.mark.slow
def test_without_network_and_cache_the_error_says_so(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(DownloadError, match=r"nvidia-pytriton 0\.4\.2 is not in .*offline"):
        server_files(get_release("23.10"))
    assert names(own_cache / "wheels") == []


def test_a_python_without_pip_is_told_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = numpy_wheels()["3.11"]
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho 'python: No module named pip' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(fake))
    with pytest.raises(DownloadError, match="ensurepip"):
        fetch(wheel, "x86_64", tmp_path)


@pytest.mark.slow
def test_what_is_cached_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = numpy_wheels()["3.11"]
    folder = package_folder(wheel)
    assert (folder / "numpy" / "__init__.py").exists()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr("kit.servers.wheels.fetch", lambda *_: pytest.fail("fetched again"))
    assert package_folder(wheel) == folder
