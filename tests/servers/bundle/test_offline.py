"""From a bundle a study runs on a machine without a network: in a network namespace of its own.

The machine there has nothing of the kit's: an empty home and cache, and the loopback device alone.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from effort import many
from lacks import lacks

#: Runs a command where there is no network: nothing but a loopback device, with an empty home.
WITHOUT_A_NETWORK = """
ip link set lo up
test "$(ip -oneline link | wc -l)" = 1
exec "$@"
"""


class Offline:
    """A place without a network, in which commands run one after another."""

    def __init__(self, home: Path) -> None:
        path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
        for program in ("unshare", "ip"):
            if shutil.which(program, path=path) is None:
                lacks(f"no {program}: apt-get install iproute2 util-linux")
        home.mkdir()
        self.home = home
        self.environment = {"HOME": str(home), "PATH": path, "LANG": "C.UTF-8"}
        # Else matplotlib looks at every font of the machine again, some seconds.
        import matplotlib

        self.environment["MPLCONFIGDIR"] = matplotlib.get_configdir()
        probe = self.run("true", check=False)
        if probe.returncode != 0:
            lacks(f"no network namespace: {probe.stderr}")

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [
                *("unshare", "--net", *(() if os.geteuid() == 0 else ("--map-root-user",))),
                *("bash", "-euc", WITHOUT_A_NETWORK, "bash", *command),
            ],
            cwd=self.home,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if check:
            assert done.returncode == 0, done.stderr
        return done


@pytest.fixture
def offline(tmp_path: Path) -> Offline:
    return Offline(tmp_path / "home")


def bundle(folder: Path, *options: str) -> str:
    """Make a bundle of one release here, where there is a network; the manifest's SHA-256."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "kit", "bundle", str(folder), "--release", "24.05"),
            *("--piece-size", "20M", "--json", *options),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["manifest_sha256"])


#: A short study under traffic that kills no server.
STUDY = (
    *("run", "--release", "24.05", "--scenario", "control", "--concurrency", "2"),
    *("--requests", "6", "--repeats", "1", "--out", "study", "--json"),
)


@pytest.mark.timeout(many(600, 1800))  # all packages are fetched and installed in the long one
@pytest.mark.parametrize("kit", many(["of this machine"], ["of this machine", "of the bundle"]))
def test_a_study_runs_without_a_network_from_what_was_carried_over(
    tmp_path: Path, offline: Offline, kit: str
) -> None:
    if kit == "of this machine":  # installing all of its packages is for `make test-long`
        program = [sys.executable, "-m", "kit"]
        sha256 = bundle(tmp_path / "bundle", "--no-kit")
        before = offline.run(*program, *STUDY, check=False)
        assert before.returncode == 1
        assert "is not in" in before.stderr, "nothing of it is in the cache, nor can be fetched"
        command = [*program, "unbundle", str(tmp_path / "bundle")]
    else:
        program = ["env/bin/kit"]
        sha256 = bundle(tmp_path / "bundle")
        python = str(Path(sys.base_prefix) / f"bin/python3.{sys.version_info.minor}")
        command = [python, str(tmp_path / "bundle/unbundle.pyz"), "--venv", "env"]
    wrong = offline.run(*command, "--manifest-sha256", "0", check=False)
    assert wrong.returncode == 1
    assert not (offline.home / "env").exists()
    offline.run(*command, "--manifest-sha256", sha256)
    offline.run(*program, *STUDY)
    [result] = offline.home.glob("study/trials/*/result.json")
    assert json.loads(result.read_bytes())["verdict"] == "survived"
    cache = offline.home / ".cache/triton-crash-kit"
    assert {path.name.split("-")[0] for path in cache.glob("wheels/n*")} == {"numpy", "nvidia"}
    assert list((cache / "runs").iterdir()) == [], "and nothing is left of it"
