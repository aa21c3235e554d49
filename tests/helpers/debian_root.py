"""A bare root of Debian 13 for the tests, in which commands run as on a machine of its own.

It holds Debian's packages alone, fetched by apt-get with their signatures checked, and unpacked;
their scripts are not run, so what those would have set up is done here, as far as it is needed.
Commands run in it under chroot, with their own mounts and processes, which end with them.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from debian_packages import missing_for_packages, unpack_packages

from kit.servers.apt import system_mirror

ROOT = Path(__file__).resolve().parents[2]
SUITE = "trixie"
#: What debootstrap's smallest root has and the kit or a shell needs; then what the README asks for.
PACKAGES = (
    *("base-files", "base-passwd", "bash", "coreutils", "dash", "debian-archive-keyring", "dpkg"),
    *("apt", "findutils", "grep", "gzip", "libc-bin", "mawk", "sed", "tar", "util-linux"),
    *("make", "python3", "python3-venv"),
)
CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"
KIT = Path("/home/kit")
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
#: Arguments: the root, folders that it shares with this machine (the first one to be written in),
#: `--`, the command.
_ENTER = """
root=$1; shift
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/tmp"
mkdir -p "$root/dev/shm"
mount -t tmpfs -o size=1g tmpfs "$root/dev/shm"
for device in DEVICES; do
    [ -e "$root/dev/$device" ] || : > "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
access=rw
while [ "$1" != -- ]; do
    mkdir -p "$root$1"
    mount --bind -o "$access" "$1" "$root$1"
    access=ro
    shift
done
shift
exec chroot "$root" "$@"
""".replace("DEVICES", " ".join(_DEVICES))


def missing() -> str | None:
    """What this machine lacks for such a root; None: nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "root on Linux, for a root of Debian 13"
    lacking = missing_for_packages("unshare", "chroot", "mount", "git")
    return f"{', '.join(lacking)} for a root of Debian 13" if lacking else None


@dataclass(frozen=True, slots=True, kw_only=True)
class DebianRoot:
    """The folder that is its `/`, with a copy of the kit in `KIT`."""

    folder: Path

    def run(
        self,
        *command: str,
        home: str,
        path: Iterable[Path] = (),
        shared: Iterable[Path] = (),
        env: Mapping[str, str] | None = None,
        timeout_s: float = 400.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the kit's folder there, and end all that it leaves.

        home: its home directory, which a test has for itself. path: folders that come last on the
        PATH. shared: folders of this machine that it sees at their own place, to read.
        """
        (self.folder / home.lstrip("/")).mkdir(parents=True, exist_ok=True)
        folders = ["/usr/local/bin", "/usr/bin", "/bin", *map(str, path)]
        settings = {
            **_network(),
            "HOME": home,
            "LANG": "C.UTF-8",
            "PATH": ":".join(folders),
            "MPLCONFIGDIR": "/home/matplotlib",  # else each home looks at every font
            "UV_CACHE_DIR": str(_uv_cache()),
            "UV_LINK_MODE": "symlink",
            **(env or {}),
        }
        enter = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
        places = map(str, (_uv_cache(), *shared))
        inside = (
            *("env", "--ignore-environment", f"--chdir={KIT}"),
            *(f"{k}={v}" for k, v in settings.items()),
        )
        return subprocess.run(
            [*enter, "bash", "-euc", _ENTER, "bash", self.folder, *places, "--", *inside, *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )


def debian_root(run: Path) -> DebianRoot:
    """The root of this run of pytest, with `make setup` done in it; made if nobody has made it.

    run: a folder that the run's processes share, and that goes with the run.

    Raises:
        RuntimeError: it could not be made; quotes what was said.
    """
    folder, made = run / "debian13", run / "debian13.made"
    with (run / "debian13.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        root = DebianRoot(folder=folder)
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)
            shutil.rmtree(folder.with_name("debian13.apt"), ignore_errors=True)
            unpack_packages(PACKAGES, folder, suite=SUITE)
            _set_up(folder)
            _copy_kit(folder / KIT.relative_to("/"))
            done = root.run("make", "setup", home="/root")
            if done.returncode != 0:
                raise RuntimeError(f"make setup in Debian 13:\n{done.stdout}{done.stderr}")
            made.touch()
        return root


def _set_up(folder: Path) -> None:
    """What the packages' scripts do, as far as it is needed."""
    (folder / "usr/bin/awk").symlink_to("mawk")
    subprocess.run(["ldconfig", "-r", folder], check=True, env={"PATH": "/usr/sbin:/sbin"})
    for name in ("passwd", "group"):
        shutil.copy(folder / f"usr/share/base-passwd/{name}.master", folder / "etc" / name)
    (folder / "etc/apt/sources.list").write_text(f"deb {system_mirror()} {SUITE} main\n")
    for name in (CERTIFICATES, "etc/resolv.conf", "etc/hosts"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(f"/{name}", folder / name)
    for name in ("proc", "tmp", "dev"):
        (folder / name).mkdir(exist_ok=True)


def _copy_kit(folder: Path) -> None:
    """The files of this checkout, as they are now."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, done.stdout.split("\0")):
        source = ROOT / name
        if source.is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, folder / name)


def _network() -> dict[str, str]:
    """How this machine reaches its package index: a proxy, and an index of its own."""
    names = ("http_proxy", "https_proxy", "no_proxy", "PIP_INDEX_URL", "UV_DEFAULT_INDEX")
    found = {n: os.environ[n] for name in names for n in (name, name.upper()) if n in os.environ}
    command = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return {"PIP_INDEX_URL": said, **found} if said else found


def _uv_cache() -> Path:
    command = [sys.executable, "-m", "uv", "cache", "dir"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    folder = Path(said)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
