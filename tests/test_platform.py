"""macOS and Windows: what reads works there, as far as it can be seen without such a machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

#: Imports the kit as on this system, since libraries choose their own parts by the true one; then,
#: in a process for each other system, hides what only Linux has and imports the kit anew.
ELSEWHERE = """
import ctypes.util, importlib, os, signal, sys, traceback
from importlib.abc import MetaPathFinder

NAMES, HIDDEN, ABSENT = {names!r}, {hidden!r}, {absent!r}
for name in NAMES:
    importlib.import_module(name)

class Hidden(MetaPathFinder):
    def __init__(self, names, system):
        self.names, self.system = names, system

    def find_spec(self, name, path=None, target=None):
        if name in self.names:
            raise ModuleNotFoundError(f"no {{name}} on {{self.system}}", name=name)

def be_on(system):
    for name in list(sys.modules):
        if name in HIDDEN[system] or name.partition(".")[0] == "kit":
            del sys.modules[name]
    sys.meta_path.insert(0, Hidden(HIDDEN[system], system))
    sys.platform = system
    for name in ABSENT[system]:
        for module in (os, signal):
            if hasattr(module, name):
                delattr(module, name)
    if system == "win32":  # there it looks for c.dll on the PATH
        ctypes.util.find_library = lambda name: None
    for name in NAMES:
        try:
            importlib.import_module(name)
        except Exception as error:
            print("cannot import", name, type(error).__name__, error)

for system in HIDDEN:
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        print("@@", system)
        try:
            be_on(system)
            exec({read!r})
        except BaseException:
            traceback.print_exc(file=sys.stdout)
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(child, 0)
"""

HIDDEN = {
    "darwin": ("uvloop",),
    "win32": (
        *("uvloop", "fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix_ipc"),
        *("syslog", "spwd", "crypt", "_posixshmem"),
    ),
}

#: What `os` and `signal` have on Linux alone, or not on Windows.
LINUX = ("pidfd_open", "sched_getaffinity", "sched_setaffinity", "memfd_create", "eventfd")
POSIX = (
    *("getuid", "geteuid", "getgid", "getpgid", "setsid", "killpg", "uname", "mkfifo", "confstr"),
    *("sysconf", "getloadavg", "chown", "sched_yield", "set_blocking", "SIGKILL", "SIGHUP"),
    *("SIGUSR1", "SIGCHLD", "pidfd_send_signal", "setitimer"),
)
ABSENT = {"darwin": (*LINUX, "pidfd_send_signal"), "win32": (*LINUX, *POSIX)}

#: What a person without Linux does: read a study, its crash, its report, a log of their own and the
#: notebooks; look at the panel; send traffic to a server elsewhere.
READ = """
import contextlib, io, json, msgspec, os, sys
from pathlib import Path
import kit
import kit.__main__
folder = Path({folder!r}) / system
study = kit.recorded("first_light")
assert len(study.trials) and len(study.requests)
print(study.crashes[0])
print("report", Path(study.report(folder / "reports")).is_file())
log = folder / "server.log"
lines = ("Signal (11) received.", " 0# 0x1 in tritonserver", " 1# _ZN9turbomind3runEi in /l.so", "")
log.write_text(os.linesep.join(lines))
print("diagnosis", "SIGSEGV" in str(kit.diagnose(log)))
print("panel", kit.panel("24.05", "control").spec.releases)

from load_helpers import trial, workload
from scripted_server import ScriptedServer
from kit.load.worker import worker
from kit.study.folder import TrialFolder
from kit.study.spec import Endpoint
sent = TrialFolder.create(folder / "trial", trial(workload(requests=8)))
os.dup2(os.pipe()[0], 0)
with ScriptedServer() as server:
    endpoint = msgspec.json.encode(Endpoint(http_port=server.port))
    code = worker.main([str(sent.path), "0", endpoint.decode()])
print("load", code, [row["outcome"] for row in sent.requests().to_pylist()].count("ok"))

os.chdir("notebooks")
for path in sorted(Path().glob("0[15]_*.ipynb")):
    names = {{"__name__": "__main__", "display": lambda *_: None}}
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            with contextlib.redirect_stdout(io.StringIO()):
                exec("".join(cell["source"]), names)
    print("notebook", path.name)
"""

#: What each system prints.
DONE = (
    *("SIGSEGV", "report True", "diagnosis True", "panel ('24.05',)", "load 0 8"),
    *(f"notebook {path.name}" for path in sorted((ROOT / "notebooks").glob("0[15]_*.ipynb"))),
)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a process on each of the other systems printed."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for system in HIDDEN:
        (folder / system).mkdir()
    read = READ.format(folder=str(folder))
    script = ELSEWHERE.format(names=modules(), hidden=HIDDEN, absent=ABSENT, read=read)
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests/helpers"), "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    parts = done.stdout.split("@@ ")
    return {name: part for name in HIDDEN for part in parts if part.startswith(name)}


def modules() -> list[str]:
    return [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted((ROOT / "kit").rglob("*.py"))
        if not path.is_relative_to(ROOT / "kit/servers/models") and path.stem != "__main__"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("system", sorted(HIDDEN))
def test_every_module_is_imported_and_what_reads_works_on(
    system: str, told: dict[str, str]
) -> None:
    assert "cannot import" not in told[system]
    assert [line for line in DONE if line not in told[system]] == [], told[system]
