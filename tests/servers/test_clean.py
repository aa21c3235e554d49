"""Cleaning removes what the register proves to be the kit's, and touches nothing else."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kit.servers import remove as remove_module
from kit.servers.cache import cached
from kit.servers.containers_left import containers_of, note_container, remove_containers
from kit.servers.processes import MARKER, SHM
from kit.servers.python_env import note, noted, remove_noted
from kit.servers.remove import remove_folder
from kit.servers.runs import Run, register, registered
from kit.servers.traces import sweep
from kit.ui.cli import main

GONE = 2**22 + 1  # more than the largest process number


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRITON_CRASH_KIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def orphan(run: Run) -> Run:
    """The run as it is when its owner was killed."""
    content = json.loads(run.record.read_text())
    content["owner"]["pid"] = GONE
    run.record.write_text(json.dumps(content))
    return run


def snapshot(folder: Path) -> dict[str, str]:
    return {
        str(path): path.read_text() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
        if path.name != ".triton-crash-kit"
    }


#: Files that lie in folders of people who name one with other things in it, or that hope to be
#: taken for the kit's.
FOREIGN = [
    "runs/notes.json",
    "runs/*.json",
    "runs/...json",
    "runs/0123456789ab.json",  # of that form, and no record
    "runs/0123456789AB.json",
    "projects/.old-notes-2020/a.txt",
    "projects/.new-notes-12345678/a.txt",
    "projects/.tck-old-notes-2020/a.txt",
    "projects/.tck-new-notes-12345678/a.txt",  # without the lock that the kit makes first
    "x/.npm-global/a",
]


def fill(folder: Path) -> None:
    for name in FOREIGN:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"mine": true}')
        os.utime(path, (1, 1))


@pytest.mark.parametrize("used", [False, True], ids=["never used", "used by the kit"])
def test_a_cache_folder_with_other_things_in_it_loses_nothing(cache: Path, used: bool) -> None:
    fill(cache)
    if used:
        register().forget()
        cached("projects/one", lambda folder: (folder / "f").touch())
        cached("x/one", lambda folder: (folder / "f").touch())
    before = snapshot(cache)
    assert sweep() == []
    assert main(["clean"]) == 0
    assert snapshot(cache) == before


@pytest.mark.parametrize("name", ["*", "..", "[0-9a-f]*", "?" * 12])
def test_a_record_of_a_hostile_name_removes_nothing_of_other_runs(cache: Path, name: str) -> None:
    live = register()
    region = SHM / f"{live.shm_prefix}x"
    region.touch()
    try:
        content = json.loads(live.record.read_text())
        content["owner"]["pid"] = GONE
        (live.record.parent / f"{name}.json").write_text(json.dumps(content))
        assert sweep() == []
        assert region.exists()
        assert live.folder.is_dir()
    finally:
        region.unlink()
        live.forget()


@pytest.mark.parametrize(
    "change",
    [
        {"folder": "/"},
        {"folder": ""},
        {"folder": "/tmp/x/../tck-"},
        {"folder": ["a"]},
        {"owner": {"pid": "1"}},
        {"owner": []},
        {"owner": None},
    ],
)
def test_a_record_with_hostile_content_is_no_record(
    tmp_path: Path, change: dict[str, object]
) -> None:
    run = orphan(register())
    record = json.loads(run.record.read_text()) | change
    if isinstance(change.get("folder"), str) and str(change["folder"]).endswith("tck-"):
        record["folder"] += run.name
    run.record.write_text(json.dumps(record))
    os.utime(run.record, (1, 1))
    assert sweep() == []
    assert run.folder.is_dir()
    run.forget()


def test_a_container_of_a_run_whose_folder_went_meanwhile_does_no_harm() -> None:
    run = orphan(register())  # as two that clean at the same time see it
    note_container(run.record, "ssh://nobody@127.0.0.1:1")
    shutil.rmtree(run.folder)
    assert containers_of(run) == []
    assert remove_containers(run) is None
    run.forget()


def test_a_record_that_nests_without_end_is_no_record() -> None:
    run = register()
    run.record.write_text("[" * 200_000)
    assert registered() == []
    assert sweep() == []
    run.forget()


def test_a_link_in_place_of_a_record_or_folder_is_not_followed(tmp_path: Path) -> None:
    run = orphan(register())
    kept = tmp_path / "kept"
    kept.mkdir()
    run.folder.rmdir()
    run.folder.symlink_to(kept)
    elsewhere = tmp_path / "record.json"
    run.record.rename(elsewhere)
    run.record.symlink_to(elsewhere)
    assert sweep() == []
    run.record.unlink()
    elsewhere.rename(run.record)
    assert [trace.folders for trace in sweep()] == [()]
    assert kept.is_dir()
    run.folder.unlink()


def test_regions_whose_names_only_begin_alike_stay() -> None:
    run = orphan(register())
    names = [f"tck-{run.name}x", f"tck-{run.name[:-1]}-y", f"{run.shm_prefix}own"]
    for name in names:
        (SHM / name).touch()
    try:
        [trace] = sweep()
        assert trace.shared_memory == (f"{run.shm_prefix}own",)
        assert [(SHM / name).exists() for name in names] == [True, True, False]
    finally:
        for name in names[:2]:
            (SHM / name).unlink()


def test_a_noted_folder_that_was_made_anew_by_another_server_stays(tmp_path: Path) -> None:
    folder = Path("/tmp", f"python_env_{os.urandom(3).hex()}")
    folder.mkdir()
    record = tmp_path / "r.json"
    record.write_text("{}")
    try:
        note(record, [folder])
        assert noted(record) == [folder]
        folder.rename(f"{folder}x")  # keeps its number from being used again
        folder.mkdir()
        assert remove_noted(record) == []
        assert folder.is_dir()
    finally:
        folder.rmdir()
        Path(f"{folder}x").rmdir()


def test_nothing_that_is_mounted_in_a_folder_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a b"
    (folder / "in").mkdir(parents=True)
    mounts = tmp_path / "mountinfo"
    escaped = str(folder / "in").replace(" ", "\\040")
    mounts.write_text(f"36 35 98:0 /mnt1 {escaped} rw,noatime - ext3 /dev/root rw\n")
    monkeypatch.setattr(remove_module, "MOUNTS", mounts)
    assert not remove_folder(folder)
    assert (folder / "in").is_dir()
    mounts.write_text("")
    assert remove_folder(folder)


def test_a_foreign_process_and_one_of_another_run_live_on() -> None:
    run = orphan(register())
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    environments = {
        "own": {MARKER: run.name},
        "longer": {MARKER: f"{run.name}0"},
        "other": {MARKER: "0" * 12},
        "foreign": {"X": run.name},
    }
    started = {name: subprocess.Popen(sleep, env=env) for name, env in environments.items()}
    try:
        [trace] = sweep()
        assert trace.processes == (started["own"].pid,)
        assert started["own"].wait(30) == -9
        assert [p.poll() for name, p in started.items() if name != "own"] == [None] * 3
    finally:
        for process in started.values():
            process.kill()
            process.wait()


def test_a_dry_run_lists_what_would_go_and_why_and_removes_nothing(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = orphan(register())
    region = SHM / f"{run.shm_prefix}x"
    region.touch()
    assert main(["clean", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    for words in (run.name, str(region), str(run.folder), f"its owner, process {GONE}, is gone"):
        assert words in printed
    assert region.exists()
    assert run.folder.is_dir()
    assert main(["clean", "--dry-run", "--json"]) == 0
    [trace] = json.loads(capsys.readouterr().out)
    assert trace["shared_memory"] == [region.name]
    assert main(["clean"]) == 0
    assert not region.exists()
    assert not run.folder.exists()
    assert main(["clean", "--dry-run"]) == 0
    assert "nothing was left behind" in capsys.readouterr().out.splitlines()[-1]
