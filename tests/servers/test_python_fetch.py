"""A Python that this machine lacks is fetched: told, checked by its hash, kept in the cache.

The archive is one of the test's own, in a folder that uv takes for its downloads' mirror.
"""

import platform
import shutil
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from python_mirror import ARCHIVE, list_downloads

from kit.errors import DownloadError, LibpythonMissingError, SpecError
from kit.servers import apt, python_apt, python_fetch
from kit.servers import python as python_module
from kit.servers.bundle.gather import bundle
from kit.servers.bundle.pins import target
from kit.servers.bundle.place import unbundle
from kit.servers.bundle.plan import BundleSpec
from kit.servers.cache import cache_root
from kit.servers.python import choose_python, running_python
from kit.servers.python_apt import Archive, python_archive
from kit.servers.python_fetch import fetch_python, fetched_python
from kit.study.releases import numpy_wheels

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with one archive: the running Python, as uv would unpack it."""
    root = tmp_path / "python"
    executable = root / f"bin/python{VERSION}"
    executable.parent.mkdir(parents=True)
    executable.write_text(f'#!/bin/sh\nexec {Path(sys.base_prefix)}/bin/python{VERSION} "$@"\n')
    executable.chmod(0o755)
    library = root / f"lib/python{VERSION}"
    library.mkdir(parents=True)
    (library / "_sysconfigdata__linux_x86_64-linux-gnu.py").write_text("build_time_vars = {}\n")
    archive = tmp_path / "mirror" / ARCHIVE
    archive.parent.mkdir(parents=True)
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(root, "python")
    monkeypatch.setenv("TRITON_CRASH_KIT_CACHE", str(tmp_path / "cache"))
    for name, value in list_downloads(tmp_path, VERSION).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(python_fetch, "python_archive", lambda: None)
    monkeypatch.setattr(python_module, "python_archive", lambda: None)
    python_fetch._failures.cache_clear()
    yield tmp_path / "mirror"
    python_fetch._failures.cache_clear()


def test_it_is_fetched_once_with_a_word_and_found_again(mirror: Path) -> None:
    assert fetched_python(VERSION) is None
    said: list[str] = []
    executable = fetch_python(VERSION, said.append)
    assert executable.is_relative_to(cache_root())
    assert len(said) == 1
    for word in (f"Python {VERSION}", "shared library", "this machine has none"):
        assert word in said[0]
    assert fetched_python(VERSION) == executable
    (mirror / ARCHIVE).unlink()
    assert fetch_python(VERSION, said.append) == executable, "from the cache"
    assert len(said) == 1


def test_one_with_another_hash_is_refused_and_not_kept(mirror: Path, tmp_path: Path) -> None:
    list_downloads(tmp_path, VERSION, "0" * 64)
    with pytest.raises(DownloadError, match="Computed") as caught:
        fetch_python(VERSION, lambda _: None)
    assert "UV_PYTHON_INSTALL_MIRROR" in caught.value.hint
    assert fetched_python(VERSION) is None
    assert [p.name for p in (cache_root() / "pythons").iterdir() if p.is_dir()] == []


def test_what_could_not_be_fetched_is_not_asked_for_again_and_is_said_with_the_rest(
    mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(python_module, "_candidates", lambda _: iter(()))
    monkeypatch.setattr(python_module, "PREFERRED", (VERSION,))
    (mirror / ARCHIVE).unlink()
    for _ in range(2):
        with pytest.raises(LibpythonMissingError, match=f"Python {VERSION}, which uv did not get"):
            choose_python([VERSION], fetch=True)
        monkeypatch.setattr(python_fetch, "_install", lambda *_: pytest.fail("asked again"))


def test_what_uv_does_not_get_comes_from_the_archive_of_the_systems_last_release(
    mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mirror / ARCHIVE).unlink()
    older = Archive(suite="older", python=VERSION, keys=mirror)

    def unpack(archive: Archive, folder: Path) -> None:
        assert archive == older
        (folder / "bin").mkdir(parents=True)
        (folder / f"bin/python{VERSION}").write_text("")

    monkeypatch.setattr(python_fetch, "python_archive", lambda: older)
    monkeypatch.setattr(python_fetch, "unpack_python", unpack)
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "never")
    with pytest.raises(DownloadError, match="which uv did not get"):
        fetch_python(VERSION, lambda _: None)
    monkeypatch.delenv("UV_PYTHON_DOWNLOADS")
    python_fetch._failures.cache_clear()
    said: list[str] = []
    assert fetch_python(VERSION, said.append) == fetched_python(VERSION)
    assert "older" in said[-1]
    assert "apt-get" in said[-1]


def test_both_that_brought_no_python_are_quoted(
    mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mirror / ARCHIVE).unlink()
    older = Archive(suite="older", python=VERSION, keys=mirror)
    monkeypatch.setattr(python_fetch, "python_archive", lambda: older)
    monkeypatch.setattr(
        apt, "run_program", lambda *_, **__: CompletedProcess("", 100, "", "E: no archive\n")
    )
    with pytest.raises(
        DownloadError, match=r"uv did not get: .*apt-get did not get: E: no archive"
    ):
        fetch_python(VERSION, lambda _: None)
    assert fetched_python(VERSION) is None


def test_a_system_has_an_archive_if_its_keys_and_apt_get_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert python_archive({"ID": "fedora"}) is None
    keys = tmp_path / "keys"
    archive = Archive(suite="bookworm", python="3.11", keys=keys)
    monkeypatch.setattr(python_apt, "_ARCHIVES", {"debian": archive})
    assert python_archive({"ID": "debian"}) is None, "no keys"
    keys.touch()
    for name in ("apt-get", "dpkg-deb"):
        monkeypatch.setenv("PATH", str(tmp_path))
        assert python_archive({"ID": "debian"}) is None
        (tmp_path / name).touch(0o755)
    assert python_archive({"ID": "debian"}) == archive


def test_a_machine_without_a_fitting_python_runs_the_fetched_one(
    mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = running_python()
    monkeypatch.setattr(python_module, "_candidates", lambda _: iter(()))
    monkeypatch.setattr(python_module, "PREFERRED", (VERSION,))
    python = choose_python([VERSION], brings_libpython=running is None, fetch=True)
    assert python.version == VERSION
    assert python.executable is not None
    assert python.executable.is_relative_to(cache_root())


def test_it_is_carried_in_a_bundle_and_unpacked_where_nothing_can_be_fetched(
    mirror: Path, tmp_path: Path
) -> None:
    if VERSION not in numpy_wheels():
        with pytest.raises(SpecError, match="numpy before 2"):
            BundleSpec(of=target(None, None), kit=False, pythons=(VERSION,), with_python=True)
        return
    spec = BundleSpec(of=target(None, None), kit=False, pythons=(VERSION,), with_python=True)
    object.__setattr__(spec, "wheels", ())  # the Python alone
    bundle(tmp_path / "bundle", spec, lambda _: None)
    [archive] = (tmp_path / f"bundle/files/python/{VERSION}").iterdir()
    assert archive.read_bytes() == (mirror / ARCHIVE).read_bytes()
    assert fetched_python(VERSION) is None
    shutil.rmtree(mirror)
    assert unbundle(tmp_path / "bundle", lambda _: None).pythons == (VERSION,)
    assert fetched_python(VERSION) is not None


def test_a_carried_python_of_another_hash_than_uv_knows_is_not_unpacked(
    mirror: Path, tmp_path: Path
) -> None:
    archives, unpacked = tmp_path / "archives", tmp_path / "unpacked"
    for folder in (archives, unpacked):
        folder.mkdir()
    python_fetch.fetch_archive(VERSION, platform.machine(), archives, unpacked)
    [archive] = archives.iterdir()
    python = archive.read_bytes()
    archive.write_bytes(python + b"x")
    with pytest.raises(DownloadError, match="Computed"):
        python_fetch.unpack_archive(VERSION, archives)
    assert fetched_python(VERSION) is None
    archive.write_bytes(python)
    assert python_fetch.unpack_archive(VERSION, archives) == fetched_python(VERSION)
