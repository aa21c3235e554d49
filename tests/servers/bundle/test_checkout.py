"""The kit's checkout is carried as it is; an archive that is none is refused before it is used."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import zipfile
from pathlib import Path

import pytest

from kit.errors import BundleError
from kit.servers.bundle import checkout
from kit.servers.bundle.checkout import pack_checkout, unpack_checkout
from kit.study.paths import ROOT


def tracked() -> set[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return {name for name in listed.split("\0") if name and (ROOT / name).is_file()}


@pytest.mark.slow
def test_this_checkout_is_carried_whole(tmp_path: Path) -> None:
    unpack_checkout(pack_checkout(ROOT), tmp_path)
    found = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert found == tracked()
    for name in ("kit/__init__.py", "data/releases.yaml", "requirements.lock"):
        assert (tmp_path / name).read_bytes() == (ROOT / name).read_bytes()
    assert (tmp_path / ".ci/run").stat().st_mode & stat.S_IXUSR
    assert not (tmp_path / "README.md").stat().st_mode & stat.S_IXUSR


def test_a_checkout_that_git_does_not_know_is_carried_without_by_products(tmp_path: Path) -> None:
    by_products = ("kit/__pycache__/a.pyc", ".venv/bin/python", "studies/s/study.json", "bundle/b")
    for name in ("kit/a.py", "README.md", *by_products):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "kit/out.py").symlink_to("/etc/hostname")
    data = pack_checkout(tmp_path)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.namelist() == ["README.md", "kit/a.py"]
    os.utime(tmp_path / "kit/a.py", (1, 1))
    assert pack_checkout(tmp_path) == data, "the time of day is not in it"


def zipped(*entries: tuple[str, bytes, int]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data, kind in entries:
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (kind | 0o644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return packed.getvalue()


GOOD = ("kit/a.py", b"good", stat.S_IFREG)


@pytest.mark.parametrize(
    "name", ["../a", "kit/../../a", "/a", "kit/..", "kit//a", "kit/\x1b[0m", "a\\..\\b", "k/..a/."]
)
def test_a_name_that_leads_elsewhere_is_refused_before_anything_is_written(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(BundleError):
        unpack_checkout(zipped(GOOD, (name, b"evil", stat.S_IFREG)), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_what_is_no_file_is_refused_before_anything_is_written(tmp_path: Path, kind: int) -> None:
    with pytest.raises(BundleError, match="link or a device"):
        unpack_checkout(zipped(GOOD, ("kit/link", b"/etc/passwd", kind)), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_bomb_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = zipped(*((f"kit/{n}", bytes(10_000_000), stat.S_IFREG) for n in range(3)))
    assert len(bomb) < 100_000
    monkeypatch.setattr(checkout, "MOST_BYTES", 25_000_000)
    with pytest.raises(BundleError, match="more than"):
        unpack_checkout(bomb, tmp_path)
    monkeypatch.setattr(checkout, "MOST_FILES", 2)
    with pytest.raises(BundleError, match="more than 2 files"):
        unpack_checkout(zipped(*((f"kit/{n}", b"", stat.S_IFREG) for n in range(3))), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_unpacks_to_more_than_it_says_is_refused(tmp_path: Path) -> None:
    data = bytearray(zipped(("kit/a.py", bytes(100_000), stat.S_IFREG)))
    at = data.index(b"PK\x01\x02") + 24  # the size in the directory at the end
    data[at : at + 4] = (10).to_bytes(4, "little")
    with pytest.raises(BundleError):
        unpack_checkout(bytes(data), tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "no zip"])
def test_a_damaged_archive_is_named(tmp_path: Path, damage: str) -> None:
    data = bytearray(zipped(("kit/a.py", bytes(range(256)) * 40, stat.S_IFREG)))
    match damage:
        case "cut":
            del data[-30:]
        case "flipped":
            data[60] ^= 0xFF
        case "empty":
            data.clear()
        case "no zip":
            data[:] = b"x" * 1000
    with pytest.raises(BundleError, match="a bundle whose kit holds"):
        unpack_checkout(bytes(data), tmp_path)


def test_a_link_that_lies_where_it_is_unpacked_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "into").mkdir()
    (tmp_path / "into/kit").symlink_to(outside)
    with pytest.raises(BundleError, match="a link"):
        unpack_checkout(zipped(GOOD), tmp_path / "into")
    assert list(outside.iterdir()) == []
