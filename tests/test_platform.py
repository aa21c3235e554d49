"""macOS and Windows: what reads works there, as far as it can be seen without such a machine."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

#: Hides what only Linux has, or what macOS has as well, and says that this is another system.
ELSEWHERE = """
import sys
from importlib.abc import MetaPathFinder

class Hidden(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in {hidden!r}:
            raise ModuleNotFoundError(f"no {{name}} on {system}", name=name)

# Libraries choose their own parts by the true system, so they are imported first; then the kit
# is, anew, as it would be elsewhere.
import importlib
for name in {names!r}:
    importlib.import_module(name)
for name in list(sys.modules):
    if name in {hidden!r} or name.partition(".")[0] == "kit":
        del sys.modules[name]
sys.meta_path.insert(0, Hidden())
sys.platform = {system!r}
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


def python_elsewhere(system: str, code: str) -> subprocess.CompletedProcess[str]:
    head = ELSEWHERE.format(hidden=HIDDEN[system], system=system, names=modules())
    return subprocess.run(
        [sys.executable, "-c", head + code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


def modules() -> list[str]:
    return [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted((ROOT / "kit").rglob("*.py"))
        if not path.is_relative_to(ROOT / "kit/servers/models") and path.stem != "__main__"
    ]


@pytest.mark.parametrize("system", sorted(HIDDEN))
def test_every_module_is_imported_and_a_recorded_study_read_on(system: str) -> None:
    code = (
        f"for name in {modules()!r}:\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "    except Exception as error:\n"
        "        print('cannot import', name, type(error).__name__, error)\n"
    )
    done = python_elsewhere(system, code + READ)
    assert done.returncode == 0, done.stderr
    assert "cannot import" not in done.stdout
    assert "SIGSEGV" in done.stdout
