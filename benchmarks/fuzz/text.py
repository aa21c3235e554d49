"""Targets: text that is read or shown. Logs, stacks, packed logs, secrets, what a terminal gets."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import re
import unicodedata
from collections.abc import Iterator

from benchmarks.fuzz.target import LARGEST_BYTES, ROOT, Drawn, Target, halves, is_named
from kit.checks.gpu import _major
from kit.cleaning import clean_json, clean_text, safe_html
from kit.crash.diagnose import Diagnosis, diagnose_chunks, diagnose_stream
from kit.crash.log.lines import LONGEST_LINE
from kit.crash.log.prefix import message_starts
from kit.crash.log.records import documents, messages
from kit.crash.stack.maps import MemoryMap
from kit.crash.verdict import Evidence, judge
from kit.errors import KitError
from kit.load.answers import clipped
from kit.load.worker.redact import MARK, forms, redacted
from kit.servers.startlog import decisive_lines, failed_to_bind, was_too_slow
from kit.study.result import Verdict

STACKS = ROOT / "tests/crash/stacks"
ALIVE = "I0101 10:00:00.000000 1 grpc_server.cc:2513] Started GRPCInferenceService at 0.0.0.0:1\n"
ASKED = "I0101 10:00:01.000000 1 model.py:20] request: "
#: As a person may have given it, with all that an encoder changes.
SECRET = "0s/e same1+öpen2&says3"
_EVERY = 4  # of the stacks, so many in one; a fuzzer needs kinds, not numbers


def _stacks() -> Iterator[bytes]:
    for number, path in enumerate(sorted(STACKS.glob("*.log"))):
        if number % _EVERY == 0 or path.name.startswith(("alive", "measured")):
            yield path.read_bytes()


# --- logs


def log_records(data: bytes) -> None:
    """One line of a log, in whatever a collector put around it."""
    line = data.decode("utf-8", "replace").replace("\n", "")[:LONGEST_LINE]
    for part in messages(line):
        assert "\n" not in part
        starts = message_starts(part)
        assert starts == sorted(starts)
        assert starts[-1] <= len(part)
    found = documents(line)
    assert found is None or all(isinstance(one, str) for one in found)


def _wrapped() -> Iterator[bytes]:
    said = "Signal (11) received.\n 0# 0x000055 in tritonserver\\bin"
    rows = [{"log": f"{said}\n", "stream": "stderr"}, {"message": said, "kubernetes": {"a": [1]}}]
    yield from (json.dumps(row).encode() for row in rows)
    yield json.dumps({"data": {"result": [{"values": [["1", said], ["2", said]]}]}}).encode()
    yield json.dumps([said, said]).encode()
    yield json.dumps({"hits": {"hits": [{"_source": {"message": said}}]}}).encode()
    yield b'ts=1 level=error msg="Signal (11) received.\\n" pod=a'
    yield b'2026-01-01T00:00:00Z,a,"Signal ""11"" received",b'
    yield b"<134>1 2026-01-01T00:00:00Z h a[1]: #011Signal (11)#012 received &lt;x&gt; \x1b[31m"
    yield b'    "message" : "Signal (11) received.",'
    yield b"Jan  1 00:00:00 host-1 triton[12]: [host:123] I0101 00:00:00.1 1 a.cc:2] Signal (11)"
    yield b"MESSAGE=Signal (11) received"
    yield b"[" * 3000 + b"]" * 3000
    yield b'{"log":' * 2000 + b'"x"' + b"}" * 2000


def _diagnosed(text: str, pieces: int) -> Diagnosis:
    """What a log tells, read in pieces that end where its lines do."""
    lines = text.splitlines(keepends=True) if "\r" not in text else [text]
    size = max(1, len(lines) // pieces)
    chunks = ["".join(lines[at : at + size]) for at in range(0, len(lines), size)]
    return diagnose_chunks(chunks)


def diagnosis(data: bytes) -> None:
    """A whole log: stacks, notices, releases, and what came of it."""
    pieces = 1 + Drawn(data).below(7)
    text = data[1:].decode("utf-8", "replace")
    found = diagnose_chunks([text])
    json.dumps(found.to_json()).encode()
    assert found.summary
    assert found.advice
    assert found.died == (found.deaths > 0)
    assert len(found.stack) < 10_000
    if text.isascii() and not _TELLS_LATE.search(text):
        assert _diagnosed(text, pieces).to_json() == found.to_json(), f"other in {pieces} pieces"


#: What ends a line for Python but in no log, and what may stand within a telling word, so that a
#: piece of the log is passed over in which nothing is telling until that is taken off.
_TELLS_LATE = re.compile(r"[\x0b\x0c\x1b-\x1e\\&]|#0[13]|\^\[|\[[0-9;]*m")


def quoted_request(data: bytes) -> None:
    """Whatever a client sends: a server that prints it as JSON has not died of it."""
    text = data.decode("utf-8", "replace")
    for asked in ({"text_input": text}, {"messages": [{"role": "user", "content": text}]}):
        log = f"{ALIVE}{ASKED}{json.dumps(asked)}\n"
        found = diagnose_chunks([log])
        assert not found.died, f"words of a client were believed: {found.summary[:200]}"
        evidence = Evidence(ended=9, ok=9, load_finished=True, ready=True, log=log)
        verdict, reason = judge(evidence)
        assert verdict is Verdict.SURVIVED, f"words of a client were believed: {reason[:200]}"


def verdict(data: bytes) -> None:
    """A trial's verdict over any log, with the process in every state."""
    drawn = Drawn(data)
    code = (None, 0, 1, -11, -9, 137, 139, -15)[drawn.below(8)]
    asked, seen, ok = drawn.below(2), drawn.below(2), drawn.below(3)
    log = drawn.rest.decode("utf-8", "replace")
    evidence = Evidence(
        exit_code=code,
        is_process_seen=bool(seen),
        stop_requested=bool(asked),
        ok=ok,
        ended=ok,
        load_finished=True,
        ready=True,
        log=log,
    )
    found, reason = judge(evidence)
    assert reason
    if code in (-11, 139) and not asked:
        assert found in (Verdict.CRASHED, Verdict.INTERRUPTED), f"{found} of {code}"


def packed_log(data: bytes) -> None:
    """A log as bytes: packed or not, in any encoding."""
    try:
        found = diagnose_stream(io.BytesIO(data))
    except KitError as error:
        is_named(error)
    except OSError as error:
        if "broken packed data" not in str(error):
            raise
    else:
        assert found.lines >= 0


def _packed() -> Iterator[bytes]:
    text = (STACKS / "measured-23.10-1.log").read_bytes()[:1500]
    yield gzip.compress(text, mtime=0)
    yield gzip.compress(text[:500], mtime=0) + gzip.compress(text[500:], mtime=0) + bytes(20)
    yield bz2.compress(text)
    yield lzma.compress(text)
    yield from (text.decode().encode(name) for name in ("utf-16", "utf-32", "utf-8-sig"))
    yield text.decode().encode("utf-16-be")
    yield bytes(50) + text


def start_log(data: bytes) -> None:
    """The log of a server that did not start."""
    text = data.decode("utf-8", "replace")
    lines = decisive_lines(text)
    assert len(lines) <= 8
    assert all(len(line) <= 300 for line in lines)
    assert isinstance(failed_to_bind(text), bool)
    assert isinstance(was_too_slow(text), bool)
    assert _major(text) >= 0  # of the CUDA that an image says it has


def memory_map(data: bytes) -> None:
    """/proc/PID/maps of a server, and addresses in it."""
    text = data.decode("utf-8", "replace")
    found = MemoryMap.parse(text)
    for address in (0, 0x7F00_0000_1000, 2**64 - 1, *(ord(letter) for letter in text[:4])):
        region = found.find(address)
        assert region is None or address < region.end
        at = found.locate(address)
        assert at is None or isinstance(at[0], str)


# --- what is shown


def shown_text(data: bytes) -> None:
    """What a terminal, a page or a JSON document may hold of any text."""
    text = data.decode("utf-8", "surrogateescape")
    for lines in (True, False):
        clean = clean_text(text, lines=lines)
        assert clean_text(clean, lines=lines) == clean, "cleaned twice is another text"
        allowed = "\n\t" if lines else ""
        for letter in clean:
            kind = unicodedata.category(letter)
            assert letter in allowed or kind not in ("Cc", "Cs", "Zl", "Zp"), f"{letter!r}"
            assert unicodedata.bidirectional(letter) not in _TURNING, f"{letter!r}"
        clean.encode()
        assert not set("<>\"'") & set(safe_html(text, lines=lines)), "markup"
    document = json.dumps({text: [text, 1]}, ensure_ascii=False).encode("utf-8", "replace")
    assert json.loads(clean_json(document)) == json.loads(document), "other data"
    assert clean_text(clean_json(document)) == clean_json(document)
    assert str(KitError(text, text, text)) == clean_text(str(KitError(text, text, text)))


_TURNING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def secrets(data: bytes) -> None:
    """A secret in a text that is cut anywhere, in a form of its own."""
    drawn = Drawn(data)
    form = drawn.below(len(_FORMS))
    before, after = drawn.half()
    text = before.decode("utf-8", "replace") + _FORMS[form] + after.decode("utf-8", "replace")
    for told in (text, clipped(text) or "", clipped(text.encode()) or ""):
        seen = redacted(told, _FORMS)
        assert not any(one in seen for one in _FORMS if one not in MARK), "a secret is left"
    given = after.decode("utf-8", "replace")
    for one in forms([given]):
        assert len(one) >= 4 or one in given


_FORMS = forms([f"Bearer {SECRET}"])


def _secrets() -> Iterator[bytes]:
    for number in range(len(_FORMS)):
        yield bytes([number]) + halves(b"you sent " * (number * 9), b", which is wrong" * 40)
    yield b"\0" + halves(b"", b"Basic dTpodW50ZXIyL3g=")
    yield b"\0" + halves(b"", b'theme=dark; session="pa%2Fss"')


_LOG_WORDS = (
    *(b"Signal (11) received.\n", b" 0# 0x00007F in /opt/tritonserver/bin/tritonserver\n"),
    *(
        b"Traceback (most recent call last):\n",
        b'  File "a.py", line 1, in f\n',
        b"#0  0x1 in f ()",
    ),
    *(b"terminate called after throwing", b"Segmentation fault", b"CUDA error: ", b"Out of memory"),
    *(
        b'{"log":"',
        b'{"message":"',
        b'\\n", "',
        b"\x1b[31m",
        b"#012",
        b"&lt;",
        b'msg="',
        b"exit code",
    ),
    *(
        b"EngineCore pid=1",
        b"Aborted (core dumped)",
        b"Killed",
        b"*** ",
        b"@     0x",
        b"in request",
    ),
)

TARGETS = (
    Target(
        name="log-records",
        reads="a line of a log as collectors wrap it",
        check=log_records,
        seeds=_wrapped,
        words=_LOG_WORDS,
    ),
    Target(
        name="diagnosis",
        reads="logs and stacks of any kind",
        check=diagnosis,
        seeds=lambda: [b"\3" + text for text in (*_stacks(), *_wrapped())],
        words=_LOG_WORDS,
        largest_bytes=8192,
    ),
    Target(
        name="quoted-request",
        reads="logs that quote what clients sent",
        check=quoted_request,
        seeds=_stacks,
        words=_LOG_WORDS,
        largest_bytes=4096,
    ),
    Target(
        name="verdict",
        reads="a server's exit and its log's end",
        check=verdict,
        seeds=lambda: [bytes([n % 8, n % 2, 1, 1]) + t for n, t in enumerate(_stacks())],
        words=_LOG_WORDS,
        largest_bytes=8192,
    ),
    Target(
        name="packed-log",
        reads="logs by gzip, bzip2, xz, in UTF-8, 16 or 32",
        check=packed_log,
        seeds=_packed,
        words=(b"\x1f\x8b\x08", b"BZh9", b"\xfd7zXZ\0", b"\xff\xfe", b"\x28\xb5\x2f\xfd"),
        largest_bytes=4096,
    ),
    Target(
        name="start-log",
        reads="why a server did not start",
        check=start_log,
        seeds=lambda: [
            *_stacks(),
            b"| m | 1 | UNAVAILABLE: Internal: no |\nE0101 00:00:00.1 1 a.cc:2] failed to load\n",
            b"12.4.1",
        ],
        words=(b"UNAVAILABLE: ", b"E0101 ", b"already in use", b"what(): ", b"| m | 1 | "),
        largest_bytes=LARGEST_BYTES,
    ),
    Target(
        name="memory-map",
        reads="/proc/PID/maps",
        check=memory_map,
        seeds=lambda: [path.read_bytes()[:3000] for path in sorted(STACKS.glob("*.maps"))],
        words=(b" (deleted)", b"r-xp 00000000 08:01 7 /a/b", b"[vdso]", b"7f0000000000-"),
        largest_bytes=4096,
    ),
    Target(
        name="shown-text",
        reads="any text, for terminals and pages",
        check=shown_text,
        seeds=lambda: [
            "a\r\n\x1b[31m\u202e<b>\x9b\U000e0041&\ud800".encode("utf-8", "surrogatepass")
        ],
        words=("\u202e".encode(), "\u2066".encode(), b"\r\n", b"\x1b[", "\x85".encode()),
        largest_bytes=1024,
    ),
    Target(
        name="secrets",
        reads="texts in which a server repeats a secret",
        check=secrets,
        seeds=_secrets,
        words=(*(form.encode() for form in _FORMS), b"...", b"Basic ", b"; a="),
        largest_bytes=4096,
    ),
)
