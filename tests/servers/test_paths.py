"""The kit runs from and into any folder: what a server is told is a path of the kit's own."""

import os
import shutil
from pathlib import Path

import pytest
from server_helpers import infer, traces_of, write_model

from kit.errors import StoreError
from kit.runner.agenda import FixedAgenda
from kit.runner.study import run_trials
from kit.servers.cache import cache_root
from kit.servers.embedded import EmbeddedServer
from kit.servers.plain import is_plain, plain, temp_roots
from kit.servers.runs import register, registered
from kit.servers.wheels import server_files
from kit.study.folder import StudyFolder, TrialFolder
from kit.study.plan import plan
from kit.study.releases import get_release
from kit.study.result import Verdict
from kit.study.spec import StudySpec, embedded

#: What shells, loaders, Triton, HTML and terminals read as their own.
HOSTILE = "a b $(touch PWNED) <b> $x `id` \u202e ; é : & ' \" * \\ #\n|"


def linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of that name with the cache and the temp folder inside it, and the current one."""
    server_files(get_release("24.10"))
    folder = tmp_path / HOSTILE
    (folder / "tmp").mkdir(parents=True)
    shutil.copytree(
        cache_root() / "wheels", folder / "cache/wheels", symlinks=True, copy_function=linked
    )
    monkeypatch.setenv("TRITON_CRASH_KIT_CACHE", str(folder / "cache"))
    monkeypatch.setenv("TMPDIR", str(folder / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.chdir(folder)
    return folder


def test_a_server_starts_from_and_in_folders_of_any_name(hostile: Path) -> None:
    (hostile / "trial").mkdir()
    folder = TrialFolder(hostile / "trial")
    server = EmbeddedServer(get_release("24.10"), write_model(hostile / "models"), folder)
    with server:
        assert infer(server.endpoint, "grüße") == "grüße"
    assert traces_of(server._run.name) == []
    assert list(hostile.rglob("PWNED")) == []


def test_a_study_runs_in_a_folder_of_any_name(hostile: Path) -> None:
    spec = StudySpec(
        name="t", servers=embedded("24.10"), scenarios=("control",), requests=20, repeats=1
    )
    folder = StudyFolder.create(hostile / "study", spec)
    [trial] = plan(spec)
    run_trials(FixedAgenda([trial]), folder, parallel=1)
    result = folder.trial(trial.trial_id).result
    assert result is not None
    assert (result.verdict, result.completed) == (Verdict.SURVIVED, 20), result.reason
    assert list(hostile.rglob("PWNED")) == []


def test_a_plain_path_is_taken_as_it_is_and_another_gets_a_link(tmp_path: Path) -> None:
    (tmp_path / HOSTILE).mkdir()
    assert plain(tmp_path, tmp_path / "links", "x") == tmp_path
    link = plain(tmp_path / HOSTILE, tmp_path / "links", "x")
    assert is_plain(link)
    assert link.samefile(tmp_path / HOSTILE)


@pytest.mark.parametrize("name", ["a b", "$x", "(a)", "é", "a:b", "a\nb", "\u202e", "a\n"])
def test_paths_that_programs_misread_are_not_plain(name: str) -> None:
    assert not is_plain(Path("/tmp", name))


def test_temp_files_go_where_the_user_says_if_programs_can_be_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CRASH_KIT_CACHE", str(tmp_path / "cache"))
    short = Path("/tmp", f"t{os.getpid()}")
    short.mkdir()
    try:
        monkeypatch.setattr("tempfile.tempdir", str(short))
        assert temp_roots()[0] == short
        run = register()
        assert run.folder.parent == short
        run.forget()
        monkeypatch.setattr("tempfile.tempdir", str(short / HOSTILE))
        assert all(is_plain(root) for root in temp_roots())
        run = register()
        assert run.folder.parent == Path("/tmp")
        run.forget()
    finally:
        short.rmdir()


def test_a_temp_folder_that_cannot_be_written_is_a_named_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CRASH_KIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("kit.servers.runs.temp_roots", lambda: [tmp_path / "gone"])
    with pytest.raises(StoreError, match=r"gone.*TMPDIR"):
        register()
    assert registered() == []
