"""The container image, the dev container and Binder: their files agree with what they build."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
#: How JupyterLab starts in `.venv`, for `make lab` and on Binder.
LAB_CONFIG = ROOT / "kit/ui/jupyter/jupyter_lab_config.json"
LAB = COMPOSE["services"]["lab"]
#: Debian's own Python 3 by its code name.
DEBIAN_PYTHON = {"bookworm": "3.11", "trixie": "3.13"}


def word(pattern: str) -> str:
    """What the Dockerfile says there, which it says once."""
    (found,) = re.findall(pattern, DOCKERFILE, re.MULTILINE)
    return str(found)


def test_its_python_runs_the_kit_and_the_servers() -> None:
    python = DEBIAN_PYTHON[word(r"^FROM debian:(\w+)-slim")]
    assert word(r" libpython(3\.\d+) ") == python
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    (asked,) = re.findall(r'^requires-python = "(.*)"', project, re.MULTILINE)
    assert Version(python) in SpecifierSet(asked)
    conda = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))["dependencies"]
    assert f"python={python}" in conda, "the version that the servers' stubs are for"


def test_one_port_is_served_published_on_loopback_and_forwarded() -> None:
    port = word(r"^EXPOSE (\d+)")
    command = json.loads(word(r"^CMD (.*)"))
    assert f"--port={port} " in command[-1]
    assert LAB["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert f"127.0.0.1:{port}:{port}" in DOCKERFILE
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text("utf-8"))
    assert container["forwardPorts"] == [int(port)]


def dry_make(*words: str, built: str = "--assume-old=.venv/.made-from-lock") -> str:
    """The commands that make would run, where .venv is built already."""
    return subprocess.run(
        ["make", "--dry-run", built, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin"},
    ).stdout


def test_its_command_opens_the_first_notebook() -> None:
    command = json.loads(word(r"^CMD (.*)"))
    dry = dry_make(*command[1:])
    assert "-m jupyterlab" in dry
    assert "--notebook-dir=notebooks" in dry
    assert "--ip=0.0.0.0" in dry
    (first,) = re.findall(r"default_url=/lab/tree/(\S+)", dry)
    assert (ROOT / "notebooks" / first).is_file()


def test_jupyter_lab_opens_the_first_notebook_without_news_however_it_is_started() -> None:
    config = json.loads(LAB_CONFIG.read_text("utf-8"))["LabApp"]
    assert (ROOT / config["default_url"].removeprefix("/lab/tree/")).is_file()
    assert config["news_url"] is None
    assert config["check_for_updates_class"] == "jupyterlab.NeverCheckForUpdate"
    name = str(LAB_CONFIG.relative_to(ROOT))
    assert f"--config={name}" in dry_make("lab")
    assert f"cp {name} .venv/etc/jupyter/" in dry_make("setup", built="--always-make")
    assert name in (ROOT / "binder/postBuild").read_text("utf-8")
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text("utf-8"))
    (opened,) = container["customizations"]["codespaces"]["openFiles"]
    assert (ROOT / opened).is_file()


def test_binder_builds_the_kit_from_the_lock_in_a_python_that_the_servers_know() -> None:
    script = ROOT / "binder" / "postBuild"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    steps = script.read_text("utf-8")
    assert "make setup" in steps
    assert "ipykernel install" in steps
    here, whole = (
        yaml.safe_load((ROOT / name).read_text("utf-8"))["dependencies"]
        for name in ("binder/environment.yml", "environment.yml")
    )
    assert set(here) <= {entry for entry in whole if isinstance(entry, str)}
    assert {"anywidget", "ipywidgets"} <= {entry.partition(">=")[0] for entry in here}


def test_it_runs_as_a_user_who_owns_what_it_writes() -> None:
    last = re.findall(r"^USER (.*)", DOCKERFILE, re.MULTILINE)[-1]
    assert last == "kit"
    workdir, cache = word(r"^WORKDIR (.*)"), word(r"TRITON_CRASH_KIT_CACHE=(\S+)")
    owned = word(r"--owner=kit --group=kit \\\n +(.*)$")
    assert {*owned.split()} == {workdir, cache}
    mounted = {volume.partition(":")[2] for volume in LAB["volumes"]}
    assert mounted == {f"{workdir}/studies", f"{workdir}/reports", cache}
    assert "mkdir --parents studies reports" in DOCKERFILE, "else a volume there is root's"


def test_servers_have_shared_memory_and_a_process_that_reaps() -> None:
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text("utf-8"))
    assert LAB["shm_size"] == "1gb"
    assert "init" not in LAB, "the image has one, and two warn of each other"
    assert {"--init", "--shm-size=1g"} <= {*container["runArgs"]}
    assert word(r"^ENTRYPOINT (.*)") == '["tini", "--"]'
    assert container["remoteUser"] == "kit"
    assert f" AS {container['build']['target']}\n" in DOCKERFILE


def test_what_is_built_here_does_not_go_into_the_image() -> None:
    left_out = (ROOT / ".dockerignore").read_text("utf-8").split()
    for line in (ROOT / ".gitignore").read_text("utf-8").split():
        name = line.rstrip("/")
        assert name in left_out or f"**/{name}" in left_out, name
    assert ".git" in left_out


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_make_image_takes_the_engine_that_is_there(engine: str, tmp_path: Path) -> None:
    program = tmp_path / engine
    program.write_text(f'#!/bin/sh\necho {engine} "$@"\n')
    program.chmod(0o755)

    def make(path: str) -> subprocess.CompletedProcess[str]:
        words = ["/usr/bin/make", "image"]
        env = {"PATH": path}
        return subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, check=False)

    tools = tmp_path / "tools"  # all that the Makefile itself needs, and no engine
    tools.mkdir()
    for tool in ("bash", "grep", "sh"):
        (tools / tool).symlink_to(f"/usr/bin/{tool}")
    assert make(f"{tmp_path}:{tools}").stdout == f"{engine} build --tag triton-crash-kit .\n"
    done = make(str(tools))
    assert done.returncode != 0
    assert "No docker and no podman" in done.stdout
