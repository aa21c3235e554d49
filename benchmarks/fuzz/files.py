"""Targets: files that a stranger may have written. Studies, records, traffic, bundles, settings."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
from synthetic_studies import write_study, write_trial

from benchmarks.fuzz.target import DEEP, ROOT, Drawn, Target, halves, is_named
from kit.errors import KitError
from kit.kv.seen import labels_of
from kit.load.http.target import HEADERS, credentials_from
from kit.load.traffic.traffic import Traffic
from kit.runner.place import told
from kit.servers.bundle.manifest import ROOMS, read_manifest
from kit.servers.bundle.pins import Target as Machine
from kit.servers.bundle.pins import read_pins
from kit.servers.owner_commands import (
    LOG_COMMAND,
    PRESETS_BY_URL,
    STATE_COMMAND,
    commands_from,
    preset,
    presets_by_url,
)
from kit.study.arrow_file import listed_rows, read_rows, stream_rows, sums_of
from kit.study.encoding import from_json, to_json
from kit.study.folder import REQUESTS, TrialFolder
from kit.study.hosts import HostList
from kit.study.pack import pack_trial
from kit.study.packed import LISTING, Packed
from kit.study.plan import most_trials, plan
from kit.study.records import read_records
from kit.study.result import TrialResult
from kit.study.spec import ArrivalKind, Arrivals, StudySpec, TrialSpec, Workload
from kit.study.traces.keep import FOLDER, keep, rows_of
from kit.study.traces.pinned import pinned
from kit.study.traces.read import FORMATS, read_trace

_FILES = ROOT / "tests/study/traffic_files"
_MOST_TRIALS = 2000  # of a plan that is made here
_LONGEST_TOKENS = 5000  # of prompts that are made here


@cache
def scratch() -> Path:
    """A folder of this process."""
    folder = tempfile.mkdtemp(prefix="fuzz-files-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@cache
def _study() -> Path:
    """A study of two trials, one of them packed."""
    study = write_study(scratch() / "whole", ["24.05"], ["cancel-race"])
    for repeat in range(2):
        write_trial(study, "24.05", repeat=repeat, requests=12, crash_after=8)
    return study.path


def _trial(number: int) -> Path:
    return sorted((_study() / "trials").iterdir())[number]


# --- traffic files


def traffic_file(data: bytes) -> None:
    """A traffic file of any format, its name in a spec, and what is kept of it."""
    path = scratch() / "traffic"
    path.write_bytes(data)
    try:
        trace = read_trace(path)
        file = pinned(str(path))
        assert pinned(str(file)) == file
        rows = trace.rows
        study = scratch() / "kept"
        shutil.rmtree(study, ignore_errors=True)
        study.mkdir()
        keep(study, str(file))
        assert rows_of(str(file), study) == rows
    except KitError as error:
        is_named(error)
        return
    assert trace.format in FORMATS
    assert file.requests == len(rows) > 0
    for row in rows:
        assert row.prompt_tokens is None or 0 <= row.prompt_tokens < 2**63
        assert row.output_tokens is None or 0 <= row.output_tokens < 2**63
        assert all(text.encode() is not None for text in row.dialogue)
    if trace.is_timed and file.longest_tokens < _LONGEST_TOKENS:
        _first_calls(str(file), study)


def _first_calls(file: str, study: Path) -> None:
    """The first requests of such traffic can be made."""
    arrivals = Arrivals(kind=ArrivalKind.TRACE, trace_file=file)
    workload = Workload(arrivals=arrivals, requests=3)
    traffic = Traffic(workload, within=study)
    for number in range(3):
        traffic.call(number).prompt.decode()


def kept_traffic(data: bytes) -> None:
    """What a stranger's study keeps of its traffic files."""
    sha256 = "0" * 64
    study = scratch() / "foreign"
    (study / FOLDER).mkdir(parents=True, exist_ok=True)
    path = study / FOLDER / f"{sha256[:16]}.jsonl"
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    name = f"x#format=azure&requests=1&longest_tokens=5&sha256={sha256}"
    try:
        rows = rows_of(name, study)
    except KitError as error:
        is_named(error)
    else:
        assert isinstance(rows, tuple)


def _kept_seeds() -> Iterator[bytes]:
    import hashlib

    lines = b'{"due_s":0.5,"prompt_tokens":7,"output_tokens":4}\n{"dialogue":["a"]}\n'
    head = {
        "source": "a.csv",
        "format": "azure",
        "sha256": "0" * 64,
        "requests": 2,
        "rows_sha256": hashlib.sha256(lines).hexdigest(),
    }
    yield json.dumps(head).encode() + b"\n" + lines
    yield DEEP + b"\n" + lines


# --- JSON of studies

NOUNS: tuple[type[Any], ...] = (StudySpec, TrialSpec, TrialResult, Workload, Packed, HostList)


def study_json(data: bytes) -> None:
    """A JSON file of a study: read, written again, and planned."""
    drawn = Drawn(data)
    noun = NOUNS[drawn.below(len(NOUNS))]
    try:
        read = from_json(drawn.rest, noun)
    except KitError as error:
        is_named(error)
        return
    assert from_json(to_json(read), noun) == read, "written and read it is another"
    if isinstance(read, StudySpec):
        try:
            if most_trials(read) <= _MOST_TRIALS:
                trials = plan(read)
                assert len({trial.trial_id for trial in trials}) == len(trials)
                assert all("/" not in trial.trial_id for trial in trials)
        except KitError as error:
            is_named(error)


def _nouns() -> Iterator[bytes]:
    trial = TrialFolder(_trial(0))
    compact = msgspec.json.encode
    spec = from_json((_study() / "study.json").read_bytes(), StudySpec)
    yield b"\0" + compact(spec)
    yield b"\1" + compact(trial.spec)
    yield b"\2" + compact(trial.result)
    yield b"\3" + compact(trial.spec.workload)
    yield b"\4" + (_packed_trial() / LISTING).read_bytes()
    yield b"\5" + b'{"hosts":[{"machine":"a","kit":"1","source":"f","python":"3.11","libc":"g",'
    old = {"schema": 1, "name": "a", "releases": ["24.05"], "scenarios": ["control"]}
    yield b"\0" + json.dumps(old).encode()
    for number in range(len(NOUNS)):
        yield bytes([number]) + DEEP


@cache
def _packed_trial() -> Path:
    folder = scratch() / "packed"
    shutil.copytree(_trial(0), folder)
    pack_trial(TrialFolder(folder))
    return folder


# --- records


def arrow_records(data: bytes) -> None:
    """A file of records and its checksums, both by a stranger."""
    sums, rows = Drawn(data).half()
    path = scratch() / "requests-0.arrows"
    path.write_bytes(rows)
    sums_of(path).write_bytes(sums)
    try:
        found = read_rows(path, REQUESTS)
        found.table.validate(full=True)
        assert found.table.schema.equals(REQUESTS)
        assert found.table.num_rows <= 8 * len(rows)
        found.table.to_pylist()
        assert all(loss.rows is None or loss.rows >= 0 for loss in found.losses)
        assert listed_rows(path) is None or listed_rows(path) >= 0  # type: ignore[operator]
        whole = pa.concat_tables([found.table.slice(0, 0), *stream_rows(path, REQUESTS)])
        if not found.losses:
            assert whole.equals(found.table), "other rows one batch at a time"
    except KitError as error:
        is_named(error)


def _arrows() -> Iterator[bytes]:
    for path in sorted(_trial(0).glob("requests-*.arrows")):
        data = path.read_bytes()
        yield halves(sums_of(path).read_bytes(), data)
        yield halves(b"", data)


def packed_records(data: bytes) -> None:
    """A packed trial of a stranger: the list of its parts, and one of them."""
    listing, part = Drawn(data).half()
    folder = scratch() / "parts"
    folder.mkdir(exist_ok=True)
    (folder / LISTING).write_bytes(listing)
    (folder / "requests-0.parquet").write_bytes(part)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table, damage = read_records(folder, "requests", REQUESTS, within=folder)
    assert table.schema.equals(REQUESTS)
    table.validate(full=True)
    table.to_pylist()
    assert all(damage)


def _parts() -> Iterator[bytes]:
    folder = _packed_trial()
    part = (folder / "requests-0.parquet").read_bytes()
    listing = json.loads((folder / LISTING).read_bytes())
    listing["tables"] = {"requests": listing["tables"]["requests"]}
    yield halves(json.dumps(listing).encode(), part)


def _reading_parts(data: bytes) -> None:
    """The same of a part whose checksum a stranger has made to fit."""
    from zlib import crc32

    drawn = Drawn(data)
    rows, part = 12 if drawn.below(2) else drawn.below(256), drawn.rest
    listed = {"file": "requests-0.parquet", "rows": rows, "size_bytes": max(1, len(part))}
    listing = {"tables": {"requests": [listed | {"crc32": crc32(part)}]}}
    packed_records(halves(json.dumps(listing).encode(), part))


def _fitting_parts() -> Iterator[bytes]:
    yield b"\1" + (_packed_trial() / "requests-0.parquet").read_bytes()


def sample_labels(data: bytes) -> None:
    """Labels of samples, and the progress of a trial, in a stranger's study."""
    text = data.decode("utf-8", "replace")
    assert all(isinstance(name, str) for name in labels_of(text))
    told(TrialFolder(_trial(0)).spec, data)


# --- bundles


def bundle_manifest(data: bytes) -> None:
    """The list of a bundle's files, and a list of packages in it."""
    folder = scratch() / "bundle"
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_bytes(data)
    try:
        found, digest = read_manifest(folder)
    except KitError as error:
        is_named(error)
    else:
        assert len(digest) == 64
        for file in found.files:
            assert file.room in ROOMS
            inside = (folder / "files" / file.path).resolve()
            assert inside.is_relative_to(folder.resolve() / "files" / file.room)
    try:
        pins = read_pins(data.decode("utf-8", "replace"), _HERE)
    except KitError as error:
        is_named(error)
    else:
        assert all(pin.name for pin in pins)


_HERE = Machine(python="3.11", glibc_minor=36, architecture="x86_64")


def _manifests() -> Iterator[bytes]:
    file = {"path": "servers/a.whl", "size_bytes": 4, "sha256": "0" * 64}
    manifest = {
        **{"format": 1, "kit": "0.1.0", "python": "3.12", "platform": "manylinux_2_35_x86_64"},
        **{"releases": ["24.05"], "vllm": [{"version": "0.26.0", "device": "cuda"}]},
        **{"left_out": ["nvidia-*"], "files": [file, file | {"path": "models/t/c.json"}]},
        "pieces": [{"size_bytes": 8, "sha256": "0" * 64}],
    }
    yield json.dumps(manifest).encode()
    yield DEEP
    pin = b"numpy==1.26.4 ; python_version >= '3.9' \\\n    --hash=sha256:" + b"0" * 64
    yield pin + b"\n    # via\n    #   pandas\nuv==0.5 --hash=sha256:" + b"1" * 64 + b"\n"


# --- settings


def settings(data: bytes) -> None:
    """What the environment says of headers and of a server's owner's commands."""
    text = data.decode("utf-8", "replace")
    for ask in _SETTINGS:
        try:
            ask(text)
        except KitError as error:
            is_named(error)
    for value in presets_by_url({PRESETS_BY_URL: text}).values():
        assert isinstance(value, str)


_SETTINGS: tuple[Callable[[str], object], ...] = (
    lambda text: credentials_from({HEADERS: text}).secrets,
    lambda text: commands_from({LOG_COMMAND: text, STATE_COMMAND: text}),
    preset,
)

_JSON_WORDS = (b"null", b"true", b"1e400", b"-1", b'""', b"[]", b"{}", b'"\\ud800"', b"NaN")
_FIELDS = ("name", "servers", "kind", "release", "grid", "rate", "repeats", "schema", "arrivals")
_SPEC_WORDS = (
    *(f'"{name}":'.encode() for name in _FIELDS),
    *(b'"concurrency":[1,2]', b'"sequential":{', b'"limit":{', b'"soak":{'),
)

TARGETS = (
    Target(
        name="traffic-file",
        reads="Azure, BurstGPT, Mooncake, ShareGPT, OpenAI, perf_analyzer",
        check=traffic_file,
        seeds=lambda: [
            *(path.read_bytes() for path in sorted(_FILES.iterdir()) if path.suffix != ".md"),
            DEEP,
            b"t_s,prompt_tokens,output_tokens\n0.5,3,4\n1e3,,2\n",
        ],
        words=(
            *(b'"messages":[', b'"role":"user"', b'"content":', b'"hash_ids":[', b'"timestamp":'),
            *(b'"session_id":', b'"delay":', b'"input_length":', b'"data":[', b'"payload":'),
            *(b'"conversations":[{"from":"human","value":"', b"TIMESTAMP,ContextTokens\n"),
            *_JSON_WORDS,
        ),
        largest_bytes=4096,
    ),
    Target(
        name="kept-traffic",
        reads="the traffic that a study's folder keeps",
        check=kept_traffic,
        seeds=_kept_seeds,
        words=_JSON_WORDS,
    ),
    Target(
        name="study-json",
        reads="specs, results, lists of a study",
        check=study_json,
        seeds=_nouns,
        words=(*_SPEC_WORDS, *_JSON_WORDS),
        largest_bytes=8192,
    ),
    Target(
        name="arrow-records",
        reads="Arrow records with checksums",
        check=arrow_records,
        seeds=_arrows,
        words=(b"\xff\xff\xff\xff", bytes(8)),
        largest_bytes=32_768,
    ),
    Target(
        name="packed-records",
        reads="Parquet records and their list",
        check=_reading_parts,
        seeds=_fitting_parts,
        words=(b"PAR1", bytes(8)),
        largest_bytes=32_768,
    ),
    Target(
        name="packed-list",
        reads="packed.json beside its parts",
        check=packed_records,
        seeds=_parts,
        words=(b'"file":"../', b'"rows":', *_JSON_WORDS),
        largest_bytes=32_768,
    ),
    Target(
        name="sample-labels",
        reads="labels and progress in a study",
        check=sample_labels,
        seeds=lambda: [
            b'{"engine":"0","via":"hook","step":"3"}',
            b'{"phase":"load","sent":1,"ended":1,"in_flight":0}',
            DEEP,
        ],
        words=_JSON_WORDS,
        largest_bytes=1024,
    ),
    Target(
        name="bundle-manifest",
        reads="a bundle's manifest and its package lists",
        check=bundle_manifest,
        seeds=_manifests,
        words=(b'"../', b'"path":"', b" --hash=sha256:", b" ; python_version < '3'", *_JSON_WORDS),
    ),
    Target(
        name="settings",
        reads="headers and commands in the environment",
        check=settings,
        seeds=lambda: [b'{"a":"b"}', b"docker:triton", b"systemd:me@h/unit", b"sh -c 'x'", DEEP],
        words=_JSON_WORDS,
        largest_bytes=1024,
    ),
)
