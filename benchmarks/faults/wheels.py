"""Package indexes and bundles that are wrong, hostile, slow or endless, through the kit's own ways.

The index is a server on 127.0.0.1 that pip is pointed at; the wheel is a small one of the batch's.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import platform
import random
import shutil
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from benchmarks.faults.batch import Fault
from kit.cleaning import clean_text
from kit.errors import KitError
from kit.servers import fetch
from kit.servers.bundle.gather import bundle
from kit.servers.bundle.pins import target
from kit.servers.bundle.place import unbundle
from kit.servers.bundle.plan import BundleSpec
from kit.servers.cache import cache_root
from kit.servers.wheels import package_folder
from kit.study.releases import Wheel

PACKAGE, VERSION = "tck-fault", "1.0"
FILE = "tck_fault-1.0-py3-none-any.whl"
#: The largest wheel in these batches, and where an endless answer ends all the same.
MOST_BYTES = 20_000_000
ENDLESS_BYTES = 200_000_000
SLOW_S = 150.0
METADATA = {
    "tck_fault-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tck-fault\nVersion: 1.0\n",
    "tck_fault-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nTag: py3-none-any\n",
}


def _zip(
    entries: Iterable[tuple[str | zipfile.ZipInfo, bytes]], packing: int = zipfile.ZIP_DEFLATED
) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", packing) as archive:
        for name, data in [*METADATA.items(), ("tck_fault/__init__.py", b"X = 1\n"), *entries]:
            archive.writestr(name, data)
    return held.getvalue()


def _link(name: str, to: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o120777 << 16
    info.comment = to.encode()
    return info


GOOD = _zip([])
#: Wheels whose hash is the catalog's: what is in them must not leave the entry's folder.
PINNED: dict[str, Callable[[random.Random], bytes]] = {
    "well": lambda rng: GOOD,
    "names that lead out": lambda rng: _zip(
        [("../../outside", b"x"), ("a/../../../outside", b"x")]
    ),
    "absolute names": lambda rng: _zip([("/tmp/faults-outside", b"x")]),
    "links out": lambda rng: _zip([(_link("tck_fault/l", "/etc"), b"/etc"), ("tck_fault/l2", b"")]),
    "a name of controls": lambda rng: _zip([("tck_fault/\x1b[2J\u202e", b"x")]),
    "no zip": lambda rng: rng.randbytes(5000),
    "a zip cut short": lambda rng: GOOD[: rng.randrange(1, len(GOOD))],
    "a bad checksum within": lambda rng: _zip([], zipfile.ZIP_STORED).replace(b"X = 1", b"X = 2"),
    "40 MB of zeros": lambda rng: _zip([("tck_fault/zeros", bytes(40_000_000))]),
}
Step = bytes | float | str
#: What the index answers to the request of the file.
SERVED: dict[str, Callable[[random.Random], Iterable[Step]]] = {
    "a wrong hash": lambda rng: [_ok(len(GOOD)), GOOD[:-30] + rng.randbytes(30)],
    "another wheel": lambda rng: [_ok(len(other := _zip([("a", b"x")]))), other],
    "cut short": lambda rng: [_ok(len(GOOD)), GOOD[: rng.randrange(len(GOOD))]],
    "reset": lambda rng: ["reset"],
    "404": lambda rng: [b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"],
    "500 with controls": lambda rng: [
        b"HTTP/1.1 500 \x1b[2J\r\nContent-Length: 9\r\n\r\n\x1b]0;x\x07\xe2\x80\xae"
    ],
    "silence": lambda rng: [30.0],
    "a slow drip": lambda rng: _drip(),
    "endless": lambda rng: _endless(),
    "a huge length": lambda rng: [_ok(10**15), GOOD],
    "garbage": lambda rng: [rng.randbytes(3000)],
    "a redirect to a file": lambda rng: [
        b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n"
    ],
}
#: What it answers to the request of the package's page.
PAGES: dict[str, Callable[[random.Random], bytes]] = {
    "no such file": lambda rng: b"<html></html>",
    "garbage": lambda rng: rng.randbytes(20_000),
    "a link out": lambda rng: f'<a href="file:///etc/passwd#{FILE}">{FILE}</a>'.encode(),
    "a name that leads out": lambda rng: (
        b'<a href="/f/..%2f..%2ftck_fault-1.0-py3-none-any.whl">'
        b"../../tck_fault-1.0-py3-none-any.whl</a>"
    ),
    "a million links": lambda rng: b'<a href="/f/x-1.0-py3-none-any.whl">x</a>' * 100_000,
}


def _ok(length: int) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode()


def _drip() -> Iterator[Step]:
    yield _ok(len(GOOD))
    for at in range(0, len(GOOD), 200):
        yield GOOD[at : at + 200]
        yield 0.3


def _endless() -> Iterator[Step]:
    yield b"HTTP/1.1 200 OK\r\n\r\n"
    for _ in range(ENDLESS_BYTES // 1_000_000):
        yield bytes(1_000_000)


class Sent:
    """How much of an answer was taken at most, in bytes."""

    most = 0


class _Index:
    """A package index that plays a script to whoever asks for the file."""

    def __init__(self, page: bytes, script: Callable[[], Iterable[Step]]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                sent = 0
                with contextlib.suppress(OSError):
                    if self.path.startswith("/simple/"):
                        self.wfile.write(
                            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
                            b"Content-Length: %d\r\n\r\n%s" % (len(page), page)
                        )
                        return
                    for step in script():
                        if isinstance(step, bytes):
                            self.wfile.write(step)
                            sent += len(step)
                            Sent.most = max(Sent.most, sent)
                        elif isinstance(step, float):
                            time.sleep(step)
                        else:
                            break
                self.close_connection = True

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True

    def __enter__(self) -> str:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}/simple/"

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def wheels(rng: random.Random, folder: Path) -> list[Fault]:
    """Three wheels from an index that does something else each time, and eight bundles."""
    os.environ["TMPDIR"] = str(folder)
    fetch.MOST_BYTES = MOST_BYTES
    found = []
    for _ in range(3):
        kind = rng.choice(["file", "file", "page", "content"])
        if kind == "content":
            name = rng.choice(list(PINNED))
            found.append((f"wheel: {name}, of the right hash", _pinned(name, PINNED[name](rng))))
        elif kind == "page":
            name = rng.choice(list(PAGES))
            page = PAGES[name](rng)
            found.append((f"wheel: an index's page: {name}", _fetched(page, lambda: [], GOOD)))
        else:
            name = rng.choice(list(SERVED))
            seeded = random.Random(rng.random())
            why = _fetched(_page(), partial(SERVED[name], seeded), GOOD)
            if name == "endless" and Sent.most > 2 * MOST_BYTES:
                why = f"{Sent.most} bytes were taken"
            found.append((f"wheel: {name}", why))
        shutil.rmtree(cache_root(), ignore_errors=True)
    return found + _bundles(rng, folder / "b")


def _page() -> bytes:
    return f'<a href="/f/{FILE}">{FILE}</a>'.encode()


def _wheel(data: bytes) -> Wheel:
    machine = platform.machine()
    return Wheel(
        package=PACKAGE,
        version=VERSION,
        python=("3",),
        sha256={machine: hashlib.sha256(data).hexdigest()},
        filename={machine: FILE},
    )


def _fetched(page: bytes, script: Callable[[], Iterable[Step]], pinned: bytes) -> str:
    """What is wrong after the kit asked for the wheel whose hash is that of `pinned`."""
    began, Sent.most = time.monotonic(), 0
    with _Index(page, script) as url:
        settings = {
            "PIP_INDEX_URL": url,
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_FIND_LINKS": "",
            "PIP_EXTRA_INDEX_URL": "",
            "PIP_DEFAULT_TIMEOUT": "3",
            "PIP_NO_INDEX": "",
            "NO_PROXY": "*",
        }
        kept = {name: os.environ.get(name) for name in settings}
        os.environ |= settings
        try:
            why = _of_entry(lambda: package_folder(_wheel(pinned)))
        finally:
            for name, value in kept.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
    return why or ("slow" if time.monotonic() - began > SLOW_S else "")


def _pinned(name: str, data: bytes) -> str:
    outside = Path("/tmp/faults-outside")
    outside.unlink(missing_ok=True)
    why = _fetched(_page(), lambda: [_ok(len(data)), data], data)
    entries = cache_root() / "wheels"
    found = cache_root().parent.rglob("outside")
    if outside.exists() or any(len(path.relative_to(entries).parts) < 2 for path in found):
        why = "wrote outside"
        outside.unlink(missing_ok=True)
    return why


def _of_entry(make: Callable[[], Path]) -> str:
    """What is wrong with the entry that `make` made, or with the error that it raised instead."""
    try:
        entry = make()
    except KitError as error:
        if clean_text(str(error)) != str(error):
            return "an error that is not clean"
        left = [path.name for path in cache_root().glob("wheels/*") if path.suffix != ".lock"]
        left = [name for name in left if not name.startswith(".lock-")]
        return f"left {left}" if left else ""
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        return f"{type(error).__name__}: {error}"
    links = [path.name for path in entry.rglob("*") if path.is_symlink()]
    if links:
        return f"links were unpacked: {links}"
    if (entry / "tck_fault/__init__.py").read_bytes() != b"X = 1\n":
        return "another file than the catalog names was unpacked"
    return ""


def _flip(rng: random.Random, path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def _renamed(rng: random.Random, manifest: Path) -> None:
    text = manifest.read_text()
    to = rng.choice(["../../outside", "/tmp/faults-outside", "a\\u0000b", "models/..", "\\u202e"])
    manifest.write_text(text.replace("models/tiny/config.json", to))


BUNDLE: dict[str, Callable[[random.Random, Path, Path], object]] = {
    "a flipped bit": lambda rng, path, root: _flip(rng, path),
    "cut short": lambda rng, path, root: os.truncate(path, rng.randrange(path.stat().st_size)),
    "gone": lambda rng, path, root: path.unlink(),
    "a link in its place": lambda rng, path, root: (path.unlink(), path.symlink_to("/etc/passwd")),
    "a pipe in its place": lambda rng, path, root: (path.unlink(), os.mkfifo(path)),
    "a device in its place": lambda rng, path, root: (path.unlink(), path.symlink_to("/dev/zero")),
    "a manifest of deep JSON": lambda rng, path, root: (root / "manifest.json").write_text(
        "[" * 300_000
    ),
    "a manifest of other paths": lambda rng, path, root: _renamed(rng, root / "manifest.json"),
    "a manifest of garbage": lambda rng, path, root: (root / "manifest.json").write_bytes(
        rng.randbytes(2000)
    ),
}


def _bundles(rng: random.Random, folder: Path) -> list[Fault]:
    model = folder / "tiny"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "weights").write_bytes(bytes(150_000))
    pieces = rng.choice([None, 100_000])
    spec = BundleSpec(of=target(None, None), kit=False, models=(model,), piece_bytes=pieces)
    bundle(folder / "whole", spec, lambda _: None)
    found = []
    for number in range(8):
        name, place = rng.choice(list(BUNDLE)), folder / f"b{number}"
        shutil.copytree(folder / "whole", place)
        paths = [path for path in sorted(place.rglob("*")) if path.is_file()]
        paths = [path for path in paths if path.name not in {"README.txt", "unbundle.pyz"}]
        path = rng.choice(paths)
        BUNDLE[name](rng, path, place)
        found.append((f"bundle: {name}", _unbundled(place, name, path)))
    return found


def _unbundled(place: Path, name: str, path: Path) -> str:
    began = time.monotonic()
    try:
        placed = unbundle(place, lambda _: None)
    except KitError as error:
        why = "" if clean_text(str(error)) == str(error) else "an error that is not clean"
    except Exception as error:  # noqa: BLE001
        why = f"{path.name}: {type(error).__name__}: {error}"
    else:
        [model] = placed.models
        data = (model / "config.json").read_bytes(), (model / "weights").read_bytes()
        manifest = json.loads((place / "manifest.json").read_bytes())
        named = {row["path"] for row in manifest["files"]}
        why = "" if data == (b"{}", bytes(150_000)) and len(named) == 2 else f"{path.name}: taken"
    if Path("/tmp/faults-outside").exists() or (place.parent.parent / "outside").exists():
        why = "wrote outside"
    return why or ("slow" if time.monotonic() - began > 30 else "")
