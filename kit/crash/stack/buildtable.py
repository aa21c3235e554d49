"""Makes the row of data/builds.yaml for the binaries of one release.

`kit dev build RELEASE FOLDER FRAME0` prints the row of the unpacked wheel in
FOLDER, where FRAME0 are the last three hex digits of frame 0 in a crash of that release (send a
ready server SIGSEGV to see one).
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from kit.crash.stack.builds import SERVER, Build, Function, Part, frontend_of
from kit.crash.stack.site import short_name
from kit.crash.stack.symbols import SymbolTable, find_module
from kit.errors import CatalogError

_PAGE = 0xFFF
_HANDLER = "ErrorSignalHandler"
#: So few functions amid those of another component belong to it: helpers, templates, misnomers.
_FEW = 10
_FEW_BYTES = 0x4000
#: Between two functions that follow each other lies less than this.
_ALIGNED = 0x20
#: Functions that signs of the catalog name: the handlers of unary calls and of streams, and
#: the answers of HTTP generate.
_TELLING = re.compile(
    r"triton::server::grpc::Model(?:Stream)?InferHandler::[A-Z]"
    r"|triton::server::HTTPAPIServer::GenerateRequestClass::[A-Z]|evhtp_send_reply"
)


def describe_build(release: str, modules: Path, frame0: str) -> Build:
    """What tells this release's stacks, read from its binaries.

    Raises:
        CatalogError: the binaries lack what is needed.
    """
    server = find_module(modules, SERVER)
    table = SymbolTable.read(server) if server else SymbolTable([], 0)
    core = next((path.name for path in sorted(modules.rglob("libtritonserver*.so"))), None)
    offset = _frame0_offset(table, int(frame0, 16))
    if offset is None:
        raise CatalogError(
            f"no {_HANDLER} at …{frame0} in the binaries of {release} below {modules}",
            "an unpacked server with its symbol table",
            "check the folder and the digits",
        )
    return Build(
        release=release,
        frame0=frame0.upper(),
        evidence="measured",
        frame0_offset=offset,
        core_file=core,
        parts=tuple(_parts(table)),
        functions=tuple(_functions(table)),
    )


def _frame0_offset(table: SymbolTable, digits: int) -> int | None:
    """The one place within the handler that has these digits."""
    for start, size, name in table.functions():
        if _HANDLER in name:
            offset = (start & ~_PAGE) | digits
            offset += _PAGE + 1 if offset < start else 0
            if offset < start + size:
                return offset
    return None


def _parts(table: SymbolTable) -> list[Part]:
    """Stretches of code by component; what says nothing of itself belongs to its surroundings."""
    runs: list[list[int | str]] = []  # start, end, component, functions
    for start, size, name in table.functions(demangled=True):
        component = frontend_of(name)
        if component is None:
            continue
        if runs and runs[-1][2] == component:
            runs[-1][1] = start + size
            runs[-1][3] = int(runs[-1][3]) + 1
        else:
            runs.append([start, start + size, component, 1])
    kept: list[list[int | str]] = []
    for at, run in enumerate(runs):
        before, after = kept[-1] if kept else None, runs[at + 1 : at + 2]
        few = int(run[3]) <= _FEW and int(run[1]) - int(run[0]) < _FEW_BYTES
        if few and before and after and before[2] == after[0][2]:
            continue
        if before and before[2] == run[2]:
            before[1] = run[1]
        else:
            kept.append(list(run))
    return [Part(start=int(r[0]), end=int(r[1]), component=str(r[2])) for r in kept]


def _functions(table: SymbolTable) -> list[Function]:
    """The telling functions by address; what was split off one of them carries its name."""
    found: list[Function] = []
    for start, size, name in table.functions(demangled=True):
        short = short_name(name)
        if not size or not _TELLING.match(short):
            continue
        last = found[-1] if found else None
        if last and last.name == short and start - last.end < _ALIGNED:
            found[-1] = Function(last.start, max(last.end, start + size), short)
        else:
            found.append(Function(start, start + size, short))
    return found


def build_row(release: str, folder: Path, frame0: str) -> str:
    """The row as YAML text.

    Raises:
        CatalogError: the binaries lack what is needed.
    """
    build = describe_build(release, folder, frame0)
    row = {
        "release": build.release,
        "frame0": build.frame0,
        "evidence": build.evidence,
        "frame0_offset": build.frame0_offset,
        "core_file": build.core_file,
        "parts": [f"{p.start:x} {p.end:x} {p.component}" for p in build.parts],
        "functions": [f"{f.start:x} {f.end:x} {f.name}" for f in build.functions],
    }
    return yaml.safe_dump([row], sort_keys=False)
