"""A bundle is made in a folder of its own, goes on where it was cut off, and is put in place."""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
from pathlib import Path

import pytest

from kit.errors import (
    BundleError,
    HashMismatchError,
    SpecError,
    StoreError,
    UnknownReleaseError,
    UnsupportedPlatformError,
)
from kit.servers.bundle import gather, install, place
from kit.servers.bundle.gather import MadeBundle, bundle
from kit.servers.bundle.install import commands, install_kit
from kit.servers.bundle.manifest import BundledVllm, read_manifest
from kit.servers.bundle.pins import Target, target
from kit.servers.bundle.place import unbundle
from kit.servers.bundle.plan import BundleSpec, bytes_of, releases_named
from kit.servers.cache import cache_root
from kit.study.locks import lock
from kit.study.paths import ROOT
from kit.study.releases import Wheel, embedded_wheel, get_release
from kit.ui.cli import parser

OF = Target(python="3.12", glibc_minor=35, architecture="x86_64")


def quiet(_: str) -> None: ...


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRITON_CRASH_KIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    (folder / "sub").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / ".git/config").write_text("not for others")
    (folder / "config.json").write_text("{}")
    blob = tmp_path / "blob"  # as in a download of weights, where files are links
    blob.write_bytes(bytes(150_000))
    (folder / "sub/weights").symlink_to(blob)
    return folder


def of_models(*models: Path, piece_bytes: int | None = None) -> BundleSpec:
    return BundleSpec(of=OF, kit=False, models=models, piece_bytes=piece_bytes)


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir())


BESIDE = ["README.txt", "manifest.json", "unbundle.pyz"]


def test_a_model_is_carried_without_its_hidden_files_and_found_there(
    tmp_path: Path, model: Path
) -> None:
    made = bundle(tmp_path / "b", of_models(model), quiet)
    assert names(tmp_path / "b") == sorted(
        [*BESIDE, "files/models/tiny/config.json", "files/models/tiny/sub/weights"]
    )
    assert made == MadeBundle(
        folder=tmp_path / "b",
        files=2,
        pieces=0,
        size_bytes=150_002,
        manifest_sha256=hashlib.sha256((tmp_path / "b/manifest.json").read_bytes()).hexdigest(),
    )
    placed = unbundle(tmp_path / "b", quiet, manifest_sha256=made.manifest_sha256)
    assert placed.models == (tmp_path / "b/files/models/tiny",)
    assert not (placed.models[0] / "sub/weights").is_symlink()


def test_the_same_choice_gives_the_same_bundle_and_writes_no_file_again(
    tmp_path: Path, model: Path
) -> None:
    first = bundle(tmp_path / "b", of_models(model, piece_bytes=100_000), quiet)
    assert names(tmp_path / "b") == sorted([*BESIDE, "pieces/piece-0001", "pieces/piece-0002"])
    before = {path: path.stat().st_ino for path in (tmp_path / "b/pieces").iterdir()}
    assert bundle(tmp_path / "b", of_models(model, piece_bytes=100_000), quiet) == first
    assert {path: path.stat().st_ino for path in before} == before
    assert first.pieces == 2


def test_another_choice_takes_what_is_there_and_leaves_the_rest_out(
    tmp_path: Path, model: Path
) -> None:
    bundle(tmp_path / "b", of_models(model, piece_bytes=100_000), quiet)
    (model / "config.json").unlink()
    bundle(tmp_path / "b", of_models(model), quiet)
    assert names(tmp_path / "b") == sorted([*BESIDE, "files/models/tiny/sub/weights"])


def test_what_was_cut_off_is_no_bundle_and_goes_on(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> bytes:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(gather, "cut", interrupted)
        with pytest.raises(KeyboardInterrupt):
            bundle(tmp_path / "b", of_models(model, piece_bytes=100_000), quiet)
    with pytest.raises(StoreError, match="no manifest"):
        unbundle(tmp_path / "b", quiet)
    kept = tmp_path / "b/files/models/tiny/sub/weights"
    before = kept.stat().st_ino
    (tmp_path / "b/.bundle.new").mkdir()
    (tmp_path / "b/.bundle.new/half").write_text("left by a kill")
    bundle(tmp_path / "b", of_models(model), quiet)
    assert kept.stat().st_ino == before
    assert names(tmp_path / "b") == sorted(
        [*BESIDE, "files/models/tiny/config.json", "files/models/tiny/sub/weights"]
    )


def test_a_damaged_piece_is_made_again_from_what_can_be_had(tmp_path: Path, model: Path) -> None:
    first = bundle(tmp_path / "b", of_models(model, piece_bytes=100_000), quiet)
    (tmp_path / "b/pieces/piece-0001").write_bytes(b"damaged")
    assert bundle(tmp_path / "b", of_models(model, piece_bytes=100_000), quiet) == first
    unbundle(tmp_path / "b", quiet)


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path, model: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/thesis.txt").write_text("mine")
    with pytest.raises(SpecError, match=r"thesis\.txt in it"):
        bundle(tmp_path / "home", of_models(model), quiet)
    assert names(tmp_path / "home") == ["thesis.txt"]


def test_two_processes_do_not_make_a_bundle_in_one_folder(tmp_path: Path, model: Path) -> None:
    (tmp_path / "b").mkdir()
    with (tmp_path / "b/.bundle.lock").open("a") as other:
        lock(other, wait=False)
        with pytest.raises(StoreError, match="another process"):
            bundle(tmp_path / "b", of_models(model), quiet)


@pytest.mark.parametrize(
    ("text", "expected"), [("90M", 90e6), ("64MiB", 2**26), ("1.5 GB", 1.5e9), ("100000", 1e5)]
)
def test_sizes_are_read_as_people_write_them(text: str, expected: float) -> None:
    assert bytes_of(text) == expected


def test_a_choice_that_cannot_be_packed_is_refused_before_anything_is_fetched(
    tmp_path: Path, model: Path
) -> None:
    for text in ("90 pieces", "-1M", "1e9", ""):
        with pytest.raises(SpecError, match="90M, 64MiB"):
            bytes_of(text)
    with pytest.raises(SpecError, match="100 kB or more"):
        of_models(model, piece_bytes=10)
    with pytest.raises(SpecError, match="two models of one name"):
        of_models(model, tmp_path / "tiny")
    with pytest.raises(SpecError, match="a folder on this machine"):
        of_models(tmp_path / "none")
    for line in ("--index-url=http://elsewhere", "a b", "../a"):
        with pytest.raises(SpecError, match="such as transformers"):
            BundleSpec(of=OF, with_packages=(line,))
    with pytest.raises(UnknownReleaseError, match="hybrid"):
        releases_named(["frontend 26.09 on core 24.10"])
    with pytest.raises(UnknownReleaseError, match=r"25\.12"):
        releases_named(["25.12"])
    with pytest.raises(SpecError, match="numpy before 2"):
        BundleSpec(of=OF, releases=("24.05",), pythons=("3.13",))
    old = BundleSpec(of=target("3.12", "manylinux_2_31_x86_64"), releases=("24.05",))
    with pytest.raises(UnsupportedPlatformError, match=r"glibc 2\.35"):
        bundle(tmp_path / "b", old, quiet)
    assert not (tmp_path / "b").exists()


def test_each_release_gets_a_python_that_it_has_a_stub_for() -> None:
    every = BundleSpec(of=OF, releases=releases_named(["all"])).server_pythons()
    assert every == ("3.8", "3.11", "3.12")  # 23.04 has a stub for 3.8 alone
    for name in releases_named(["all"]):
        assert set(embedded_wheel(get_release(name)).python) & set(every), name
    assert BundleSpec(of=OF, releases=("24.05",)).server_pythons() == ("3.12",)
    newest = target("3.13", "manylinux_2_35_x86_64")
    assert BundleSpec(of=newest, releases=("24.05",)).server_pythons() == ("3.11",)


class _Fetched:
    """Stands in for pip: files of the right names, with content that no catalog has."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        monkeypatch.setattr(gather, "fetch", self.fetch)

    def fetch(self, wheel: Wheel, architecture: str, into: Path) -> Path:
        self.names.append(wheel.package)
        path = into / wheel.filename[architecture]
        path.write_bytes(b"not Triton")
        return path


def test_a_server_that_this_kit_s_catalog_does_not_name_is_left_out_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    fetched = _Fetched(monkeypatch)
    bundle(tmp_path / "b", BundleSpec(of=OF, kit=False, releases=("24.05",)), quiet)
    assert fetched.names == ["nvidia-pytriton", "numpy"]
    placed = unbundle(tmp_path / "b", quiet)
    assert placed.releases == ()
    assert len(placed.left) == 1, "both have the same content, so the same hash"
    assert "no wheel of that SHA-256" in placed.left[0]
    assert not (own_cache / "wheels").exists()


def test_a_server_is_compared_with_the_catalog_whatever_the_manifest_says(
    tmp_path: Path, own_cache: Path
) -> None:
    wheel = embedded_wheel(get_release("24.05"))
    file = tmp_path / "files/servers" / wheel.filename["x86_64"]
    file.parent.mkdir(parents=True)
    file.write_bytes(b"not Triton")
    (tmp_path / "scratch").mkdir()
    with pytest.raises(HashMismatchError, match=r"as data/releases\.yaml has it"):
        place._copied(tmp_path / "files", wheel, "x86_64", tmp_path / "scratch")


def test_an_environment_is_made_only_by_the_python_that_the_bundle_is_for(
    tmp_path: Path, model: Path
) -> None:
    for python, platform in (("3.8", OF.platform), (None, "manylinux_2_35_aarch64")):
        of = target(python, platform)
        bundle(tmp_path / "b", BundleSpec(of=of, kit=False, models=(model,)), quiet)
        manifest, _ = read_manifest(tmp_path / "b")
        with pytest.raises(BundleError, match=r"while this is (Python|x86_64)"):
            install_kit(tmp_path / "b/files", manifest, tmp_path / "env", quiet)
    bundle(tmp_path / "b", BundleSpec(of=target(None, None), kit=False, models=(model,)), quiet)
    with pytest.raises(BundleError, match="without the kit"):
        unbundle(tmp_path / "b", quiet, venv=tmp_path / "env")
    assert not (tmp_path / "env").exists()


def test_an_environment_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "pyvenv.cfg").write_text("home = /usr/bin")
    with pytest.raises(BundleError, match="other files in it"):
        install._take(theirs)
    assert names(theirs) == ["pyvenv.cfg"]
    for _ in range(2):  # one that was cut off goes on
        install._take(tmp_path / "new" / "env")


def test_the_commands_for_vllm_on_a_gpu_quote_what_a_shell_would_split(
    tmp_path: Path, model: Path
) -> None:
    bundle(tmp_path / "b", of_models(model), quiet)
    manifest, _ = read_manifest(tmp_path / "b")
    vllm = BundledVllm(version="0.26.0", device="cuda")
    spec = {"kit": "0.1.0", "python": "3.12", "platform": OF.platform, "vllm": (vllm,)}
    lines = commands(type(manifest)(**spec), Path("/mnt/my disk/$(id)"))  # type: ignore[arg-type]
    assert "--find-links '/mnt/my disk/$(id)/packages'" in lines[1]
    assert "--require-hashes" in lines[1]
    assert lines[0] == "uv venv --offline --python 3.12 vllm-0.26.0"


def test_a_full_disk_is_named_before_anything_is_fetched(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(BundleError, match="1 kB free"):
        bundle(tmp_path / "b", of_models(model), quiet)
    assert names(tmp_path / "b") == []
    assert cache_root().exists() is False


@pytest.mark.slow
def test_every_command_of_the_page_about_it_can_be_typed() -> None:
    text = (ROOT / "docs/offline.md").read_text("utf-8")
    found = re.findall(r"^(?:python -m kit|~/crash-kit/bin/kit) (.*)$", text, re.MULTILINE)
    assert len(found) >= 5
    for line in found:
        parser().parse_args(shlex.split(line))
