"""The list of what a bundle holds: `manifest.json`, read as what a stranger may have written.

    {"format": 1, "kit": "0.1.0", "python": "3.12", "platform": "manylinux_2_35_x86_64",
     "releases": ["24.05"], "vllm": [{"version": "0.26.0", "device": "cuda"}], "left_out": [],
     "files": [{"path": "servers/numpy-….whl", "size_bytes": 18226517, "sha256": "…"}],
     "pieces": [{"size_bytes": 90000000, "sha256": "…"}]}

A bundle is a folder with this file. Its files lie in `files/`, or they lie one behind another, in
the manifest's order, in `pieces/piece-0001`, `piece-0002` and so on: there is no archive format,
so no links, no names but those of the manifest and nothing that unpacks to more than it is.

Uses the standard library alone, since a machine that has no kit yet reads it, too
(kit.servers.bundle.bootstrap).
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from kit.cleaning import clean_text
from kit.errors import BundleError
from kit.study.files import read_file

FORMAT: Final = 1
NAME: Final = "manifest.json"
#: The first folder of a file's path, and what lies there.
ROOMS: Final = {
    "servers": "wheels of data/releases.yaml: Triton servers, and numpy for their models",
    "packages": "wheels of Python packages, for the kit and for vLLM",
    "lists": "which of those packages belong together, with their hashes, as pip reads it",
    "kit": "the kit's checkout",
    "python": "a Python with a shared library, as uv fetches it",
    "models": "models, a folder each",
}
#: Far more than any study needs, and few enough to be listed in memory.
MOST_FILES: Final = 100_000
MOST_FILE_BYTES: Final = 2**40
_MOST_NAME_BYTES: Final = 240  # a scratch file's name is a little longer, and must fit as well
_MOST_PATH_BYTES: Final = 1024
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}")
_PACKAGES: Final = re.compile(r"[A-Za-z0-9*?][A-Za-z0-9*?_.-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BundledFile:
    """One file of a bundle; its path begins with one of ROOMS."""

    path: str
    size_bytes: int
    sha256: str

    @property
    def room(self) -> str:
        return self.path.partition("/")[0]

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class BundlePiece:
    """One piece of a bundle that was cut."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BundledVllm:
    """A vLLM whose packages are in the bundle; device: "cpu" or "cuda"."""

    version: str
    device: str

    @property
    def list_path(self) -> str:
        return f"lists/vllm-{self.version}-{self.device}.txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a bundle holds and for which machine.

    >>> Manifest(kit="0.1.0", python="3.12", platform="manylinux_2_35_x86_64").size_bytes
    0
    """

    kit: str  # the kit's version
    python: str  # "3.12", which the packages are for
    platform: str  # a tag as in wheels' names, for the packages
    releases: tuple[str, ...] = ()
    vllm: tuple[BundledVllm, ...] = ()
    left_out: tuple[str, ...] = ()  # packages that the other machine has, as patterns
    files: tuple[BundledFile, ...] = ()
    pieces: tuple[BundlePiece, ...] = ()

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    def in_room(self, room: str) -> list[BundledFile]:
        return [file for file in self.files if file.room == room]

    def has(self, path: str) -> bool:
        return any(file.path == path for file in self.files)


#: The list of the packages that the kit needs.
KIT_LIST: Final = "lists/kit.txt"


def write_text(manifest: Manifest) -> bytes:
    return json.dumps({"format": FORMAT, **asdict(manifest)}, indent=1).encode() + b"\n"


def read_manifest(folder: Path) -> tuple[Manifest, str]:
    """The manifest of the bundle in `folder`, checked, and its SHA-256.

    Raises:
        BundleError: it is not what the kit writes; says what in it is not.
        StoreError: there is none, or it is no regular file.
    """
    data = read_file(folder / NAME, within=folder)
    try:
        rows = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise bad(f"no JSON: {error}") from error
    return _manifest(rows), hashlib.sha256(data).hexdigest()


def piece_name(number: int) -> str:
    """The name of a bundle's piece; the first is number 0."""
    return f"piece-{number + 1:04}"


def path_parts(path: str) -> tuple[str, ...]:
    """The parts of a path that lies below some folder, whatever a stranger wrote.

    >>> path_parts("models/tiny/config.json")
    ('models', 'tiny', 'config.json')

    Raises:
        BundleError: it is absolute, leads out of its folder, or has a part that is hidden, empty,
            too long or not fit to be shown.
    """
    parts = tuple(path.split("/"))
    if len(path.encode(errors="replace")) > _MOST_PATH_BYTES or not all(map(_is_name, parts)):
        raise bad(f"the path {path[:200]!r}")
    return parts


def _is_name(part: str) -> bool:
    return (
        0 < len(part.encode(errors="replace")) <= _MOST_NAME_BYTES
        and not part.startswith((".", " "))  # "." and ".." are among them
        and not part.endswith(" ")
        and "\\" not in part
        and clean_text(part, lines=False) == part
    )


def bad(what: str) -> BundleError:
    return BundleError(
        f"a bundle's {NAME} with {what}",
        "what `kit bundle` writes",
        "use it no further; fetch it again from where it was made, and compare its SHA-256",
    )


def _manifest(rows: object) -> Manifest:
    given = _table(rows, {"format", "kit", "python", "platform", "releases"} | _LATER, "its table")
    if given["format"] != FORMAT or isinstance(given["format"], bool):
        raise bad(f"the format {str(given['format'])[:40]!r}, which this kit does not know")
    files = tuple(map(_file, _list(given["files"], "files")))
    _check_paths(files)
    pieces = tuple(_piece(row) for row in _list(given["pieces"], "pieces"))
    manifest = Manifest(
        kit=_word(given["kit"], "kit"),
        python=_word(given["python"], "python", re.compile(r"3\.\d{1,2}")),
        platform=_word(given["platform"], "platform", re.compile(r"[a-z0-9_]{1,64}")),
        releases=tuple(_word(one, "a release") for one in _list(given["releases"], "releases")),
        vllm=tuple(map(_vllm, _list(given["vllm"], "vllm"))),
        left_out=tuple(
            _word(one, "left_out", _PACKAGES) for one in _list(given["left_out"], "left_out")
        ),
        files=files,
        pieces=pieces,
    )
    if pieces and sum(piece.size_bytes for piece in pieces) != manifest.size_bytes:
        raise bad("pieces that are not as large as its files")
    return manifest


_LATER: Final = {"vllm", "left_out", "files", "pieces"}


def _check_paths(files: tuple[BundledFile, ...]) -> None:
    seen: set[str] = set()
    folders: set[str] = set()
    for file in files:
        if file.path in seen:
            raise bad(f"the path {file.path!r} twice")
        seen.add(file.path)
        parts = path_parts(file.path)
        folders.update("/".join(parts[:n]) for n in range(1, len(parts)))
    if both := sorted(seen & folders):
        raise bad(f"the path {both[0]!r} as a file and as a folder")


def _file(row: object) -> BundledFile:
    given = _table(row, {"path", "size_bytes", "sha256"}, "a file")
    path = given["path"]
    if not isinstance(path, str):
        raise bad(f"a path of type {type(path).__name__}")
    parts = path_parts(path)
    if parts[0] not in ROOMS or len(parts) < 2:
        raise bad(f"the path {path!r}, which is in none of {', '.join(ROOMS)}")
    return BundledFile(path=path, **_sized(given, f"of {path!r}"))


def _piece(row: object) -> BundlePiece:
    sized = _sized(_table(row, {"size_bytes", "sha256"}, "a piece"), "of a piece")
    if not sized["size_bytes"]:
        raise bad("an empty piece")
    return BundlePiece(**sized)


def _sized(given: dict[str, Any], what: str) -> dict[str, Any]:
    size, sha256 = given["size_bytes"], given["sha256"]
    if type(size) is not int or not 0 <= size <= MOST_FILE_BYTES:
        raise bad(f"the size {str(size)[:40]!r} {what}")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise bad(f"the SHA-256 {str(sha256)[:80]!r} {what}")
    return {"size_bytes": size, "sha256": sha256}


def _vllm(row: object) -> BundledVllm:
    given = _table(row, {"version", "device"}, "a vLLM")
    if given["device"] not in ("cpu", "cuda"):
        raise bad(f"the device {str(given['device'])[:40]!r}")
    return BundledVllm(version=_word(given["version"], "a vLLM"), device=given["device"])


def _table(row: object, names: set[str], what: str) -> dict[str, Any]:
    if not isinstance(row, dict) or set(row) != names:
        raise bad(f"{what} that does not have exactly {', '.join(sorted(names))}")
    return row


def _list(value: object, what: str) -> list[object]:
    if not isinstance(value, list) or len(value) > MOST_FILES:
        raise bad(f"{what} that are no list of at most {MOST_FILES:,}")
    return value


def _word(value: object, what: str, pattern: re.Pattern[str] = _WORD) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise bad(f"the value {str(value)[:80]!r} for {what}")
    return value
