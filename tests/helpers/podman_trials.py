"""Trials in containers of a real podman, as a program in namespaces of its own: `python - FOLDER`.

Start it by `run_trials`, which gives it a network, mounts and process numbers of its own: podman
leaves bridges, rules of the firewall and its monitors behind, which then go with the namespaces.
It prints one JSON object. Needs root, and Debian's podman, conmon, netavark, aardvark-dns, runc,
iptables and catatonit.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PROGRAMS = ("podman", "conmon", "runc", "iptables", "catatonit", "ip", "unshare")
SEARCHED = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin:/usr/sbin:/sbin"])
START_S = 60.0
#: Podman's own limits are above what the processes of some machines may have.
CONFIG = """
[containers]
default_ulimits = ["nofile=8192:8192", "nproc=8192:8192"]
"""


def missing() -> str | None:
    """What this machine lacks; None: nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "root on Linux, for a podman of the tests' own"
    lacking = [name for name in PROGRAMS if shutil.which(name, path=SEARCHED) is None]
    if not Path("/usr/lib/podman/netavark").exists():
        lacking.append("netavark")
    if not lacking:
        return None
    return f"{', '.join(lacking)}, for a podman of the tests' own (Debian: apt-get install them)"


def run_trials(folder: Path) -> dict[str, Any]:
    """What the program says of its trials."""
    command = [
        *("unshare", "--mount", "--propagation", "private", "--net", "--pid", "--fork"),
        *("--kill-child=SIGKILL", "--mount-proc", sys.executable, __file__, str(folder)),
    ]
    done = subprocess.run(
        command,
        env={**os.environ, "PATH": SEARCHED},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    for top in Path("/sys/fs/cgroup").glob("**/libpod_parent"):  # empty now
        for path in sorted((p for p in (top, *top.rglob("*")) if p.is_dir()), reverse=True):
            with contextlib.suppress(OSError):
                path.rmdir()
    log = folder / "podman.log"
    said = log.read_text(errors="replace")[-2000:] if log.exists() else ""
    assert done.returncode == 0, f"{done.stderr[-3000:]}\n{said}"
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(folder: Path) -> None:
    from real_image import write_images

    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    # What podman keeps outside of its folders; its locks lie in shared memory.
    for place in ("/run", "/var/lib/containers", "/dev/shm"):
        Path(place).mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
    config = folder / "containers.conf"
    config.write_text(CONFIG)
    address = "unix:///run/podman.sock"  # below the tmpfs: short, and gone with it
    os.environ |= {"CONTAINERS_CONF": str(config), "DOCKER_HOST": address}
    command = ["podman", "--root", f"{folder}/root", "--runroot", "/run/podman"]
    command += ["--tmpdir", f"{folder}/tmp", "--storage-driver", "vfs", "--runtime", "runc"]
    command += ["--cgroup-manager", "cgroupfs", "--events-backend", "file"]
    with (folder / "podman.log").open("wb") as log:
        service = subprocess.Popen(
            [*command, "system", "service", "--time", "0", address], stdout=log, stderr=log
        )
    try:
        client = _client(address)
        write_images(("24.10",), folder / "image.tar")
        with (folder / "image.tar").open("rb") as archive:
            client.images.load(archive)
        (folder / "image.tar").unlink()
        print(json.dumps(_trials(folder) | {"left": _names(client)}))
    finally:
        service.terminate()
        service.wait()
        shutil.rmtree(folder / "root", ignore_errors=True)


def _trials(folder: Path) -> dict[str, Any]:
    import kit
    from kit.errors import KitError

    study = kit.run(
        kit.container("24.10"),
        scenario="cancel-race",
        requests=100,
        repeats=1,
        folder=folder / "study",
        progress=False,
    )
    row = study.trials.iloc[0]
    told: dict[str, Any] = {name: str(row[name]) for name in ("verdict", "signature", "reason")}
    for what, server in (
        ("gpus", kit.container("24.10", gpus="all")),
        ("no image", kit.container(image="localhost/none/such:1")),
    ):
        try:
            refused = kit.run(
                server,
                scenario="control",
                requests=4,
                repeats=1,
                folder=folder / what.replace(" ", "-"),
                progress=False,
            )
            told[what] = str(refused.trials.iloc[0]["reason"])
        except KitError as error:
            told[what] = str(error)
    return told


def _names(client: Any) -> list[str]:
    return [one.name for one in client.containers.list(all=True)]


def _client(address: str) -> Any:
    """Of the service, once it listens."""
    import docker

    deadline = time.monotonic() + START_S
    while True:
        try:
            return docker.DockerClient(base_url=address, timeout=300)
        except docker.errors.DockerException:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
