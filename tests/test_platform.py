"""macOS and Windows: what reads works there, as far as it can be seen without such a machine."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

#: Imports the kit as on this system, since libraries choose their own parts by the true one; then,
#: in a process for each other system, hides what only Linux has and imports the kit anew.
ELSEWHERE = """
import importlib, os, sys, traceback
from importlib.abc import MetaPathFinder

NAMES, HIDDEN = {names!r}, {hidden!r}
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
    "win32": ("uvloop", "fcntl", "resource", "pwd", "grp", "termios", "pty", "posix_ipc"),
}

READ = """
import kit
from pathlib import Path
import kit.__main__
study = kit.recorded("first_light")
assert len(study.trials) and len(study.requests)
print(study.crashes[0])
from kit.report.page import write_report
"""


@pytest.fixture(scope="module")
def told() -> dict[str, str]:
    """What a process on each of the other systems printed."""
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE.format(names=modules(), hidden=HIDDEN, read=READ)],
        cwd=ROOT,
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
def test_every_module_is_imported_and_a_recorded_study_read_on(
    system: str, told: dict[str, str]
) -> None:
    assert "cannot import" not in told[system]
    assert "SIGSEGV" in told[system], told[system]
