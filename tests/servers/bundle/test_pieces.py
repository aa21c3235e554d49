"""A bundle is taken as its manifest has it, byte for byte, or refused with what is wrong named."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.errors import BundleError, KitError, StoreError
from kit.servers.bundle import progress
from kit.servers.bundle.content import sha256_of
from kit.servers.bundle.manifest import (
    NAME,
    BundledFile,
    Manifest,
    piece_name,
    read_manifest,
    write_text,
)
from kit.servers.bundle.opened import open_bundle
from kit.servers.bundle.pieces import cut, join
from kit.servers.bundle.progress import ByteProgress
from kit.servers.bundle.starter import starter

CONTENT = {
    "servers/one.whl": b"1" * 70,
    "packages/two.whl": b"",
    "packages/three.whl": os.urandom(333),
    "models/tiny/config.json": b"{}",
}


def quiet(_: str) -> None: ...


def make(folder: Path, content: dict[str, bytes], piece_bytes: int | None = None) -> Manifest:
    """A bundle of that content in `folder`, in pieces or not."""
    listed = []
    for name, data in content.items():
        path = folder / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        sha256 = hashlib.sha256(data).hexdigest()
        listed.append(BundledFile(path=name, size_bytes=len(data), sha256=sha256))
    pieces = cut(folder, listed, piece_bytes, quiet) if piece_bytes else ()
    manifest = Manifest(
        kit="0.1.0",
        python="3.12",
        platform="manylinux_2_35_x86_64",
        files=tuple(listed),
        pieces=pieces,
    )
    (folder / NAME).write_bytes(write_text(manifest))
    if pieces:
        shutil.rmtree(folder / "files")
    return manifest


def held(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    manifest = make(tmp_path, CONTENT, piece_bytes=100)
    read, sha256 = read_manifest(tmp_path)
    assert read == manifest
    assert sha256 == sha256_of(tmp_path / NAME)
    assert [piece.size_bytes for piece in read.pieces] == [100, 100, 100, 100, 5]


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(0, 60), min_size=1, max_size=6), piece_bytes=st.integers(1, 90))
def test_what_was_cut_is_put_together_again(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], piece_bytes: int
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    content = {f"packages/{n}.whl": os.urandom(size) for n, size in enumerate(sizes)}
    manifest = make(folder, content, piece_bytes)
    join(folder, read_manifest(folder)[0], folder / "files", quiet)
    if manifest.pieces:
        assert held(folder / "files") == content


def test_missing_and_damaged_pieces_are_all_named_and_nothing_is_written(tmp_path: Path) -> None:
    manifest = make(tmp_path, CONTENT, piece_bytes=100)
    good = held(tmp_path / "pieces")
    (tmp_path / "pieces/piece-0002").unlink()
    (tmp_path / "pieces/piece-0003").write_bytes(good["piece-0003"][:-1])
    (tmp_path / "pieces/piece-0005").write_bytes(bytes(len(good["piece-0005"])))
    with pytest.raises(BundleError) as caught:
        join(tmp_path, manifest, tmp_path / "files", quiet)
    assert "1 missing: piece-0002; 2 damaged: piece-0003, piece-0005" in caught.value.given
    assert "all of its 5 pieces" in caught.value.expected
    assert not (tmp_path / "files").exists()
    for name in ("piece-0002", "piece-0003", "piece-0005"):
        (tmp_path / "pieces" / name).write_bytes(good[name])
    join(tmp_path, manifest, tmp_path / "files", quiet)
    assert held(tmp_path / "files") == CONTENT


def test_what_is_whole_is_not_written_again_and_needs_no_piece(tmp_path: Path) -> None:
    manifest = make(tmp_path, CONTENT, piece_bytes=100)
    join(tmp_path, manifest, tmp_path / "files", quiet)
    first, damaged = tmp_path / "files/servers/one.whl", tmp_path / "files/models/tiny/config.json"
    before = first.stat().st_ino
    damaged.write_bytes(b"[]")  # as a disk may: the size is right
    for piece in (tmp_path / "pieces").iterdir():
        if piece.name < "piece-0005":
            piece.unlink()
    join(tmp_path, manifest, tmp_path / "files", quiet)
    assert damaged.read_bytes() == b"{}"
    assert first.stat().st_ino == before


def test_cutting_again_writes_only_the_piece_that_is_not_whole(tmp_path: Path) -> None:
    manifest = make(tmp_path, CONTENT, piece_bytes=100)
    join(tmp_path, manifest, tmp_path / "files", quiet)
    pieces = tmp_path / "pieces"
    before = {path.name: path.stat().st_ino for path in pieces.iterdir()}
    good = (pieces / "piece-0002").read_bytes()
    (pieces / "piece-0002").write_bytes(bytes(100))
    (pieces / "piece-0006").write_bytes(b"of an earlier, larger bundle")
    assert cut(tmp_path, manifest.files, 100, quiet) == manifest.pieces
    after = {path.name: path.stat().st_ino for path in pieces.iterdir()}
    assert (pieces / "piece-0002").read_bytes() == good
    assert {name for name in before if before[name] != after[name]} == {"piece-0002"}
    assert "piece-0006" not in after


def test_a_folder_of_files_is_checked_where_it_is(tmp_path: Path) -> None:
    make(tmp_path, CONTENT)
    said: list[str] = []
    assert open_bundle(tmp_path, None, None, said.append).files == tmp_path / "files"
    assert said[-1] == "every file is whole"
    (tmp_path / "files/servers/one.whl").unlink()
    (tmp_path / "files/packages/three.whl").write_bytes(b"3")
    with pytest.raises(BundleError, match=r"1 missing: servers/one\.whl; 1 damaged: packages/th"):
        open_bundle(tmp_path, None, None, quiet)


def test_another_manifest_than_the_one_that_was_meant_is_refused(tmp_path: Path) -> None:
    make(tmp_path, CONTENT)
    sha256 = sha256_of(tmp_path / NAME)
    open_bundle(tmp_path, None, sha256.upper(), quiet)
    with pytest.raises(BundleError, match=sha256):
        open_bundle(tmp_path, None, "0" * 64, quiet)


def test_a_file_that_no_manifest_lists_is_refused(tmp_path: Path) -> None:
    make(tmp_path, CONTENT)
    (tmp_path / "files/packages/.two.whl.part").write_bytes(b"of a try that was cut off")
    open_bundle(tmp_path, None, None, quiet)
    (tmp_path / "files/packages/evil-1-py3-none-any.whl").write_bytes(b"")
    with pytest.raises(BundleError, match=r"packages/evil-1-py3-none-any\.whl, which the bundle"):
        open_bundle(tmp_path, None, None, quiet)


@pytest.mark.parametrize("place", ["files", "files/models", "files/models/tiny/config.json"])
@pytest.mark.parametrize("piece_bytes", [None, 100])
def test_nothing_is_written_or_taken_through_a_link(
    tmp_path: Path, place: str, piece_bytes: int | None
) -> None:
    folder, outside = tmp_path / "bundle", tmp_path / "outside"
    folder.mkdir()
    manifest = make(folder, CONTENT, piece_bytes)
    if piece_bytes:
        join(folder, manifest, folder / "files", quiet)
    (folder / place).rename(outside)
    (folder / place).symlink_to(outside)
    before = held(tmp_path)
    with pytest.raises(BundleError, match="a link"):
        open_bundle(folder, None, None, quiet)
    assert held(tmp_path) == before


def test_a_link_or_a_pipe_for_a_piece_is_damaged(tmp_path: Path) -> None:
    manifest = make(tmp_path, CONTENT, piece_bytes=100)
    pieces = tmp_path / "pieces"
    (pieces / "piece-0001").rename(tmp_path / "elsewhere")
    (pieces / "piece-0001").symlink_to(tmp_path / "elsewhere")
    (pieces / "piece-0002").unlink()
    os.mkfifo(pieces / "piece-0002")
    with pytest.raises(BundleError, match="2 damaged: piece-0001, piece-0002"):
        join(tmp_path, manifest, tmp_path / "files", quiet)


def test_a_manifest_that_does_not_fit_its_whole_pieces_is_refused(tmp_path: Path) -> None:
    make(tmp_path, CONTENT, piece_bytes=100)
    rows = json.loads((tmp_path / NAME).read_bytes())
    rows["files"][0]["sha256"] = "0" * 64
    (tmp_path / NAME).write_text(json.dumps(rows))
    with pytest.raises(BundleError, match=r"servers/one\.whl with SHA-256"):
        open_bundle(tmp_path, None, None, quiet)
    assert held(tmp_path / "files") == {}


def test_a_full_disk_is_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = make(tmp_path, CONTENT, piece_bytes=100)
    monkeypatch.setattr(progress.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 8, 1))
    with pytest.raises(BundleError, match=r"1 bytes free at .* needs 405 bytes"):
        join(tmp_path, manifest, tmp_path / "files", quiet)
    assert not (tmp_path / "files").exists()


def changed(**changes: Any) -> bytes:
    """A good manifest of one file, with some of its values replaced, or dropped (...)."""
    file = {"path": "models/a/b", "size_bytes": 3, "sha256": "0" * 64}
    rows: dict[str, Any] = {
        "format": 1,
        "kit": "0.1.0",
        "python": "3.12",
        "platform": "manylinux_2_35_x86_64",
        "releases": [],
        "vllm": [],
        "left_out": [],
        "files": [file],
        "pieces": [],
    }
    for name, value in changes.items():
        if name in file:
            file[name] = value
        else:
            rows[name] = value
    return json.dumps({k: v for k, v in rows.items() if v is not ...}).encode()


HOSTILE = {
    "no JSON": b"{",
    "deep": b"[" * 100_000,
    "a huge number": b'{"format": ' + b"9" * 5000 + b"}",
    "no table": b"[]",
    "nothing": b"null",
    "not UTF-8": b'{"format": "\xff"}',
    "another format": changed(format=2),
    "a true format": changed(format=True),
    "a name too many": changed(more=1),
    "a name too few": changed(pieces=...),
    "files as a table": changed(files={}),
    "a file as a text": changed(files=["models/a/b"]),
    "a path as a number": changed(path=1),
    "an absolute path": changed(path="/models/a"),
    "a path out": changed(path="models/../../a"),
    "a path to the folder": changed(path="models/a/."),
    "an empty part": changed(path="models//a"),
    "a hidden part": changed(path="models/.ssh/a"),
    "a folder": changed(path="models/a/"),
    "a room of its own": changed(path="bin/a"),
    "no room": changed(path="models"),
    "a backslash": changed(path="models/a\\..\\b"),
    "a NUL": changed(path="models/a\0b"),
    "an escape": changed(path="models/\x1b[31ma"),
    "a turned name": changed(path="models/\u202ea"),
    "half a pair": changed(path="models/\ud800"),
    "a long name": changed(path="models/" + "a" * 300),
    "a long path": changed(path="models" + "/a" * 1000),
    "a size below 0": changed(size_bytes=-1),
    "a size of true": changed(size_bytes=True),
    "a size as a text": changed(size_bytes="3"),
    "a size with a point": changed(size_bytes=3.0),
    "a size without end": changed(size_bytes=10**30),
    "a short hash": changed(sha256="0" * 63),
    "a hash in capitals": changed(sha256="A" * 64),
    "a hash of nothing": changed(sha256=None),
    "pieces that do not add up": changed(pieces=[{"size_bytes": 2, "sha256": "0" * 64}]),
    "an empty piece": changed(pieces=[{"size_bytes": 0, "sha256": "0" * 64}] * 9),
    "a Python of words": changed(python="3.12; rm -rf"),
    "a platform of words": changed(platform="x86_64 && id"),
    "a release with a path": changed(releases=["../24.05"]),
    "a vLLM with a path": changed(vllm=[{"version": "../1", "device": "cuda"}]),
    "a device of its own": changed(vllm=[{"version": "1", "device": "tpu"}]),
    "options as packages": changed(left_out=["--index-url"]),
    "one file twice": changed(
        files=[{"path": "models/a/b", "size_bytes": 0, "sha256": "0" * 64}] * 2
    ),
    "a file that is a folder": changed(
        files=[
            {"path": path, "size_bytes": 0, "sha256": "0" * 64}
            for path in ("models/a/b", "models/a/b/c")
        ]
    ),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_manifest_is_refused_by_name(tmp_path: Path, text: bytes) -> None:
    (tmp_path / NAME).write_bytes(text)
    with pytest.raises(BundleError) as caught:
        read_manifest(tmp_path)
    assert len(str(caught.value)) < 1000
    assert str(caught.value).isprintable()


def test_the_good_manifest_that_those_were_made_from_is_read(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(changed())
    assert read_manifest(tmp_path)[0].size_bytes == 3


def test_a_manifest_that_is_no_file_or_has_no_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no manifest"):
        read_manifest(tmp_path)
    (tmp_path / NAME).symlink_to("/dev/zero")
    with pytest.raises(KitError):
        read_manifest(tmp_path)
    (tmp_path / NAME).unlink()
    with (tmp_path / NAME).open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(StoreError, match="more than"):
        read_manifest(tmp_path)


@pytest.mark.slow
def test_the_starter_needs_nothing_but_the_standard_library(tmp_path: Path) -> None:
    make(tmp_path, CONTENT, piece_bytes=100)
    (tmp_path / "unbundle.pyz").write_bytes(starter())
    # -I and -S: neither the caller's environment nor any installed package is seen.
    run = [sys.executable, "-I", "-S", str(tmp_path / "unbundle.pyz")]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert "every file is whole; python3" in done.stderr
    assert held(tmp_path / "files") == CONTENT
    (tmp_path / "files/servers/one.whl").unlink()
    (tmp_path / "pieces/piece-0001").unlink()
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "error: a bundle with 1 missing: piece-0001" in done.stderr
    done = subprocess.run(
        [*run, "--manifest-sha256", "0" * 64], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "another bundle" in done.stderr


def test_progress_is_said_at_times_and_not_for_every_block() -> None:
    said: list[str] = []
    now = iter([0.0, 0.5, 1.9, 2.1, 3.0, 4.2])
    work = ByteProgress(
        say=said.append, what="checking", total_bytes=5_000_000, clock=lambda: next(now)
    )
    for _ in range(5):
        work.add(1_000_000)
    assert said == ["checking: 3.0 MB of 5.0 MB", "checking: 5.0 MB of 5.0 MB"]


def test_pieces_are_named_in_order() -> None:
    assert [piece_name(number) for number in (0, 8, 99)] == [
        "piece-0001",
        "piece-0009",
        "piece-0100",
    ]
