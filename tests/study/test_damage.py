"""Damaged and hostile study folders: the reader lives, keeps what is sound and says what is not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from effort import many
from synthetic_studies import append, finish_study, write_study, write_trial

from kit.errors import DamagedStudyWarning, KitError, StoreError
from kit.report.page import write_report
from kit.stats.frames import requests_frame, samples_frame, trials_frame
from kit.study.arrow_file import ArrowAppender, read_rows, sums_of
from kit.study.files import read_file, write_whole
from kit.study.folder import REQUESTS, SCHEMAS, StudyFolder
from kit.study.pack import pack_trial
from kit.study.recorded import open_study, record_study

pytestmark = pytest.mark.filterwarnings("error")

FLIPS = many(60, 250)

#: Flips one bit after the other and reads the file: a dead reader is a dead process here. argv:
#: the file, the table's name, the number of flips. Prints what came of them.
CAMPAIGN = """
import json, random, sys
from pathlib import Path
from kit.errors import KitError
from kit.study import folder
from kit.study.arrow_file import read_rows

path, schema, flips = Path(sys.argv[1]), getattr(folder, sys.argv[2]), int(sys.argv[3])
data = path.read_bytes()
whole = read_rows(path, schema).table
rows = [str(row) for row in whole.to_pylist()]
count = {"same": 0, "lost_and_said": 0, "wrong": []}
rng = random.Random(7)
for _ in range(flips):
    bit = rng.randrange(8 * len(data))
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << bit % 8
    path.write_bytes(flipped)
    try:
        found = read_rows(path, schema)
    except KitError:  # the names of the columns
        count["lost_and_said"] += 1
        continue
    if found.table.equals(whole):
        count["same"] += 1
        continue
    kept = iter(rows)
    is_part = all(str(row) in kept for row in found.table.to_pylist())
    lost = [loss.rows for loss in found.losses]
    if is_part and lost and None not in lost and sum(lost) + found.table.num_rows == len(rows):
        count["lost_and_said"] += 1
    else:
        count["wrong"].append([bit, lost, found.table.num_rows])
path.write_bytes(data)
print(json.dumps(count))
"""


def flipped(script: str, *words: object) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, words)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "table"),
    [
        ("requests-0.arrows", "REQUESTS"),
        ("client-0.arrows", "CLIENT"),
        ("samples-watch.arrows", "SAMPLES"),
    ],
)
def test_no_flipped_bit_of_an_arrow_file_kills_the_reader_or_loses_rows_unsaid(
    tmp_path: Path, file: str, table: str
) -> None:
    study = write_study(tmp_path / "s", ["23.10"], ["cancel-race"])
    trial = write_trial(study, "23.10", crash_after=30)
    found = flipped(CAMPAIGN, trial.path / file, table, FLIPS)
    assert found["wrong"] == []
    assert found["lost_and_said"]


#: The same without checksums: values that were changed cannot be known, a dead reader can.
OLD_CAMPAIGN = CAMPAIGN.replace("if is_part and lost", "if True or lost")


@pytest.mark.slow
def test_no_flipped_bit_of_a_file_without_checksums_kills_the_reader(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ["23.10"], ["cancel-race"])
    trial = write_trial(study, "23.10", crash_after=30)
    path = trial.path / "requests-0.arrows"
    sums_of(path).unlink()
    assert read_rows(path, REQUESTS).table.num_rows == 34
    flipped(OLD_CAMPAIGN, path, "REQUESTS", FLIPS)


PARQUET_CAMPAIGN = """
import json, random, sys, warnings
from pathlib import Path
from kit.errors import KitError
from kit.stats.frames import requests_frame, trials_frame
from kit.study.recorded import RecordedStudy

warnings.simplefilter("ignore")
path, name, flips = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
file = path / name
data = file.read_bytes()
count = {"said": 0, "wrong": 0}
rng = random.Random(7)
for _ in range(flips):
    bit = rng.randrange(8 * len(data))
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    file.write_bytes(changed)
    study = RecordedStudy(path)
    try:
        trials_frame(study), requests_frame(study)
        count["said" if study.damage else "wrong"] += 1
    except KitError:
        count["said"] += 1
file.write_bytes(data)
print(json.dumps(count))
"""


@pytest.mark.slow
@pytest.mark.parametrize("summed", [True, False])
@pytest.mark.parametrize("name", ["trials.parquet", "requests.parquet"])
def test_no_flipped_bit_of_a_recorded_study_kills_the_reader(
    tmp_path: Path, name: str, summed: bool
) -> None:
    study = write_study(tmp_path / "s", ["23.10"], ["cancel-race"])
    write_trial(study, "23.10", crash_after=30)
    recorded = record_study(study, tmp_path / "recorded", about="A test.").path
    if not summed:
        (recorded / "SHA256SUMS").unlink()
    found = flipped(PARQUET_CAMPAIGN, recorded, name, 60)
    if summed:
        assert found == {"said": 60, "wrong": 0}


@pytest.mark.slow
def test_the_loss_of_a_batch_names_the_file_the_rows_and_the_reason(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ["24.05"], ["cancel-race"])
    trial = write_trial(study, "24.05", requests=60)
    path = trial.path / "requests-0.arrows"
    data = bytearray(path.read_bytes())
    data[-200] ^= 1
    path.write_bytes(data)
    with pytest.warns(DamagedStudyWarning, match=r"12 rows of .*requests-0.arrows lost"):
        frame = requests_frame(study)
    assert len(frame) == 48
    assert "the checksum of a batch differs" in study.damage[0]
    page = write_report(study, tmp_path / "reports").read_text()
    assert "12 rows of" in page


def test_a_file_that_is_cut_short_says_how_many_rows_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "x.arrows"
    with ArrowAppender(path, pa.schema([("n", pa.int64())])) as file:
        for number in range(4):
            file.append({"n": [number] * 10})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    found = read_rows(path, pa.schema([("n", pa.int64())]))
    assert found.table.num_rows + sum(loss.rows or 0 for loss in found.losses) == 40


def test_the_last_batch_of_a_killed_writer_is_no_damage(tmp_path: Path) -> None:
    path, schema = tmp_path / "x.arrows", pa.schema([("n", pa.int64())])
    file = ArrowAppender(path, schema)
    file.append({"n": [1] * 10})
    whole = path.read_bytes()
    file.append({"n": [2] * 10})
    lines = sums_of(path).read_bytes().splitlines(keepends=True)
    path.write_bytes(path.read_bytes()[:-24])
    sums_of(path).write_bytes(b"".join(lines[:-1]))  # a batch's line is written after the batch
    found = read_rows(path, schema)
    assert (found.table.num_rows, found.losses) == (10, ())
    assert path.read_bytes().startswith(whole)
    file.close()


BROKEN: list[tuple[str, bytes]] = [
    ("empty", b""),
    ("half", b'{"trial_id": "x'),
    ("no UTF-8", b'{"trial_id": "\xff\xfe"}'),
    ("deep", b"[" * 200_000 + b"]" * 200_000),
    ("huge", b'{"trial_id": "x", "verdict": "survived", "reason": "", "completed": 1' + b"0" * 300
     + b"}"),
    ("wrong type", b'{"trial_id": 3}'),
    ("not an object", b"null"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("data", [data for _, data in BROKEN], ids=[name for name, _ in BROKEN])
@pytest.mark.parametrize("name", ["spec.json", "result.json"])
def test_one_broken_file_costs_one_trial_and_is_named(
    tmp_path: Path, name: str, data: bytes
) -> None:
    study = write_study(tmp_path / "s", ["24.05"], ["cancel-race"])
    broken = write_trial(study, "24.05", repeat=0).path / name
    write_trial(study, "24.05", repeat=1)
    broken.write_bytes(data)
    with pytest.warns(DamagedStudyWarning, match=name):
        frame = trials_frame(open_study(tmp_path / "s"))
    verdicts = sorted(frame["verdict"])
    assert verdicts == (["survived"] if name == "spec.json" else ["interrupted", "survived"])


@pytest.mark.parametrize("data", [data for _, data in BROKEN], ids=[name for name, _ in BROKEN])
def test_a_broken_study_file_is_a_named_error_that_names_it(tmp_path: Path, data: bytes) -> None:
    study = write_study(tmp_path / "s", ["24.05"], ["cancel-race"])
    (study.path / "study.json").write_bytes(data)
    with pytest.raises(StoreError, match=r"study\.json"):
        _ = StudyFolder(study.path).spec


def into_folder(path: Path) -> None:
    path.mkdir()


def into_pipe(path: Path) -> None:
    os.mkfifo(path)


def into_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def into_link_out(path: Path) -> None:
    outside = path.parents[3] / "outside"
    outside.write_text("secret of another folder")
    path.symlink_to(outside)


def into_circle(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.slow
@pytest.mark.parametrize("make", [into_folder, into_pipe, into_device, into_link_out, into_circle])
@pytest.mark.parametrize(
    "name", ["result.json", "requests-0.arrows", "samples-watch.arrows", "server.log"]
)
def test_only_regular_files_of_the_folder_itself_are_read(
    tmp_path: Path, name: str, make: Callable[[Path], None]
) -> None:
    study = write_study(tmp_path / "s", ["24.05"], ["cancel-race"])
    trial = write_trial(study, "24.05")
    (trial.path / name).unlink(missing_ok=True)
    make(trial.path / name)
    again = StudyFolder(study.path)
    with pytest.warns(DamagedStudyWarning):  # noqa: PT031 - which of them it is goes by the file
        frames = trials_frame(again), requests_frame(again), samples_frame(again)
        text = again.trials()[0].log_text()
    assert len(frames[0]) == 1
    assert "secret" not in (text or "")


def test_records_that_are_gone_are_missed_where_their_checksums_are(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ["24.05"], ["cancel-race"])
    (write_trial(study, "24.05").path / "requests-0.arrows").unlink()
    with pytest.warns(DamagedStudyWarning, match="requests-0.arrows is missing"):
        assert requests_frame(StudyFolder(study.path)).empty


def test_a_trial_is_no_way_out_of_the_folder(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ["24.05"], ["cancel-race"])
    with pytest.raises(StoreError, match="without folders"):
        study.trial("../../outside")


def test_a_study_may_itself_be_reached_through_a_link(tmp_path: Path) -> None:
    write_trial(write_study(tmp_path / "s", ["24.05"], ["cancel-race"]), "24.05")
    (tmp_path / "link").symlink_to(tmp_path / "s")
    assert len(requests_frame(tmp_path / "link")) == 60


def test_a_file_is_not_read_beyond_its_limit(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b" " * 101)
    with pytest.raises(StoreError, match="more than 100 bytes"):
        read_file(tmp_path / "x.json", limit=100)


@pytest.mark.parametrize(
    ("table", "column", "values"),
    [
        ("requests", "outcome", [None, "\x1b[2J", ""]),
        ("requests", "request", [None]),
        ("samples", "t_ns", [None]),
        ("samples", "value", [None, float("nan"), float("inf")]),
    ],
)
@pytest.mark.parametrize("form", ["arrow", "packed", "recorded"])
def test_rows_without_what_every_row_has_are_lost_with_a_word(
    tmp_path: Path, table: str, column: str, values: list[Any], form: str
) -> None:
    study = write_study(tmp_path / "s", ["24.05"], ["cancel-race"])
    trial = write_trial(study, "24.05", requests=20, crash_after=12)
    rows = getattr(trial, table)().to_pylist()
    if form == "recorded":
        study = open_study(record_study(finish_study(study), tmp_path / "r", about="a test"))
        (study.path / "SHA256SUMS").unlink()
        rows = [{"trial": 0, **row} for row in rows]
    for number, value in enumerate(values):
        rows[number][column] = value
    if form == "recorded":
        schema = pa.schema([("trial", pa.int32()), *SCHEMAS[table]])
        pq.write_table(pa.Table.from_pylist(rows, schema), study.path / f"{table}.parquet")
    else:
        for path in trial.path.glob(f"{table}-*"):
            path.unlink()
        append(trial, f"{table}-0.arrows", SCHEMAS[table], rows)
    if form == "packed":
        pack_trial(trial)
    (trial,) = study.trials()
    with pytest.warns(
        DamagedStudyWarning, match=f"{len(values)} row.* lost: they have no sound {column}"
    ):
        assert len(getattr(trial, table)()) == len(rows) - len(values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert len(requests_frame(study)) > 0


def test_columns_of_another_kit_cost_only_their_file(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ["24.05"], ["cancel-race"])
    trial = write_trial(study, "24.05")
    file = trial.path / "samples-watch.arrows"
    file.unlink()
    with ArrowAppender(file, pa.schema([("other", pa.int64())])) as appender:
        appender.append({"other": [1]})
    with pytest.warns(DamagedStudyWarning, match="holds columns other"):
        assert samples_frame(study).empty
    assert len(requests_frame(study)) == 60


@pytest.mark.slow
@pytest.mark.parametrize("name", ["$x_{$ \\frac", "a</svg><script>", "\x1b[31m\u202e", "%s {0}"])
def test_a_name_is_shown_and_not_obeyed(tmp_path: Path, name: str) -> None:
    study = write_study(tmp_path / "s", ["24.05"], ["cancel-race"])
    write_trial(study, "24.05", triton=name, crash_after=5)
    spec = study.trials()[0].path / "spec.json"
    text = json.loads(spec.read_text())
    text["scenario"] = name
    spec.write_text(json.dumps(text))
    page = write_report(study.path, tmp_path / "reports").read_text()
    assert "<script>alert" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page


def test_a_file_is_replaced_whole_and_leaves_no_scratch(tmp_path: Path) -> None:
    write_whole(tmp_path / "x", b"old")
    write_whole(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    with pytest.raises(KitError, match="cannot be written"):
        write_whole(tmp_path / "none" / "x", b"")


def test_a_folder_object_reads_again_what_has_changed(tmp_path: Path) -> None:
    study = write_study(tmp_path / "s", ["24.05"], ["cancel-race"])
    write_trial(study, "24.05", finished=False, requests=30)
    assert trials_frame(study)["verdict"].tolist() == ["interrupted"]
    assert len(requests_frame(study)) == 30
    shutil.rmtree(study.trials()[0].path)
    write_trial(study, "24.05", requests=60)
    write_trial(study, "24.05", repeat=1)
    assert trials_frame(study)["verdict"].tolist() == ["survived", "survived"]
    assert len(requests_frame(study)) == 120


def test_rows_that_are_written_while_one_reads_are_not_called_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = pa.schema([("n", pa.int64())])

    def reading(path: Path, **how: object) -> bytes:
        data = read_file(path, **how)  # type: ignore[arg-type]
        writer.append({"n": [2]})
        return data

    monkeypatch.setattr("kit.study.arrow_file.read_file", reading)
    with ArrowAppender(tmp_path / "x.arrows", schema) as writer:
        writer.append({"n": [1]})
        rows = read_rows(tmp_path / "x.arrows", schema)
    assert rows.losses == ()
    assert rows.table["n"].to_pylist()[0] == 1


@pytest.mark.slow
def test_one_study_object_reads_each_file_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = write_study(tmp_path / "s", ["23.10", "24.05"], ["cancel-race"])
    for release in study.spec.releases:
        for repeat in range(3):
            write_trial(study, release, repeat=repeat, crash_after=7)
    seen: list[Path] = []

    def counted(path: Path, **how: object) -> bytes:
        seen.append(path)
        return read_file(path, **how)  # type: ignore[arg-type]

    monkeypatch.setattr("kit.study.records.read_file", counted)
    monkeypatch.setattr("kit.study.arrow_file.read_file", counted)
    write_report(StudyFolder(study.path), tmp_path / "reports")
    assert {path.name for path in seen} >= {"spec.json", "result.json", "requests-0.arrows"}
    assert len(seen) == len(set(seen))
