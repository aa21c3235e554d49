"""Packed trials: small, read like the Arrow files, safe when killed, damaged or hostile."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_studies import append, first_light, write_study, write_trial

from kit.errors import DamagedStudyWarning, StoreError
from kit.stats.frames import (
    client_frame,
    requests_frame,
    samples_frame,
    token_gaps_frame,
    trials_frame,
)
from kit.study import pack as packing
from kit.study.folder import REQUESTS, SAMPLES, StudyFolder, TrialFolder
from kit.study.pack import pack_study
from kit.study.packed import LISTING, read_listing
from kit.study.recorded import record_study

pytestmark = pytest.mark.filterwarnings("error")
FRAMES = [trials_frame, requests_frame, samples_frame, client_frame, token_gaps_frame]


@pytest.fixture
def trial(tmp_path: Path) -> TrialFolder:
    study = write_study(tmp_path / "s", ["23.10"], ["cancel-race"])
    return write_trial(study, "23.10", crash_after=30)


def study_of(trial: TrialFolder) -> StudyFolder:
    return StudyFolder(trial.path.parents[1])


def arrows(trial: TrialFolder) -> list[str]:
    return sorted(path.name for path in trial.path.glob("*.arrows*"))


@pytest.mark.slow
@pytest.mark.parametrize("remove", [False, True])
def test_a_packed_study_reads_as_it_did_before(tmp_path: Path, remove: bool) -> None:
    study = first_light(tmp_path / "s", repeats=1)
    before = [frame(study.path) for frame in FRAMES]
    done = pack_study(study, remove=remove)
    assert [trial.left for trial in done] == [""] * 6
    assert all(trial.removed == remove for trial in done)
    assert bool(list(study.path.rglob("*.arrows"))) != remove
    for frame, was in zip(FRAMES, before, strict=True):
        pd.testing.assert_frame_equal(frame(study.path), was)


def test_requests_of_several_workers_are_packed_sorted_and_none_is_lost(trial: TrialFolder) -> None:
    more = [
        dict.fromkeys(REQUESTS.names)
        | {"request": number, "worker": 1, "outcome": "ok", "scheduled_ns": number}
        | {"token_ns": [5, 9] if number % 2 else [], "sent_ns": 3 if number % 3 else None}
        for number in (90, 50, 70, 60)
    ]
    append(trial, "requests-1.arrows", REQUESTS, more)
    was = trial.requests().sort_by("request")
    pack_study(study_of(trial), remove=True)
    assert TrialFolder(trial.path).requests().equals(was)


def test_a_value_that_is_no_number_is_kept(trial: TrialFolder) -> None:
    row = {"t_ns": 1, "source": "x", "name": "y", "value": float("nan"), "labels": ""}
    append(trial, "samples-other.arrows", SAMPLES, [row])
    assert pack_study(study_of(trial), remove=True)[0].left == ""
    packed = pq.read_table(trial.path / "samples-0.parquet")["value"]
    assert pd.isna(packed.to_pylist()).sum() == 1


def test_a_part_has_page_checksums_statistics_and_zstd(trial: TrialFolder) -> None:
    pack_study(study_of(trial))
    about = pq.ParquetFile(trial.path / "requests-0.parquet").metadata.row_group(0)
    columns = {about.column(i).path_in_schema: about.column(i) for i in range(about.num_columns)}
    assert {column.compression for column in columns.values()} == {"ZSTD"}
    assert columns["request"].statistics.max == 33
    assert "DELTA_BINARY_PACKED" in columns["end_ns"].encodings


def test_a_trial_of_many_parts_reads_part_by_part(
    trial: TrialFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    was = trial.requests()
    monkeypatch.setattr(packing, "PART_ROWS", 10)
    pack_study(study_of(trial))
    again = TrialFolder(trial.path)
    parts = list(again.parts("requests", ["request", "token_ns", "outcome"]))
    assert [part.num_rows for part in parts] == [10, 10, 10, 4]
    assert pa.concat_tables(parts).equals(was.select(["request", "token_ns", "outcome"]))
    assert again.rows("requests") == 34


def test_a_trial_without_a_result_and_one_that_is_damaged_are_left_and_named(
    tmp_path: Path, trial: TrialFolder
) -> None:
    study = study_of(trial)
    write_trial(study, "23.10", repeat=1, finished=False)
    broken = write_trial(study, "23.10", repeat=2).path / "requests-0.arrows"
    data = bytearray(broken.read_bytes())
    data[-200] ^= 1
    broken.write_bytes(data)
    done = {trial.trial_id[-2:]: trial.left for trial in pack_study(study, remove=True)}
    assert done["r0"] == ""
    assert done["r1"] == "it has no result"
    assert "the checksum of a batch differs" in done["r2"]
    assert broken.exists()


class Killed(BaseException):
    pass


@pytest.mark.parametrize("write", range(4))
def test_killed_at_any_write_it_loses_nothing_and_goes_on(
    trial: TrialFolder, monkeypatch: pytest.MonkeyPatch, write: int
) -> None:
    was, real, writes = trial.requests(), packing.write_whole, iter(range(9))

    def dies(path: Path, data: bytes) -> None:
        if next(writes) == write:
            raise Killed
        real(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(packing, "write_whole", dies)
        with pytest.raises(Killed):
            pack_study(study_of(trial), remove=True)
    assert not (trial.path / LISTING).exists()
    assert TrialFolder(trial.path).requests().equals(was)
    assert pack_study(study_of(trial), remove=True)[0].removed
    assert TrialFolder(trial.path).requests().equals(was)


@pytest.mark.parametrize("is_changed", [False, True])
def test_killed_while_it_removes_it_removes_the_rest_if_that_is_what_was_packed(
    trial: TrialFolder, is_changed: bool
) -> None:
    was = trial.requests()
    pack_study(study_of(trial))
    (trial.path / "client-0.arrows").unlink()  # as if killed behind the first
    if is_changed:
        with (trial.path / "requests-0.arrows").open("ab") as file:
            file.write(b"more")
    (done,) = pack_study(study_of(trial), remove=True)
    assert done.removed != is_changed
    assert ("kept" in done.left) == is_changed
    assert bool(arrows(trial)) == is_changed
    assert TrialFolder(trial.path).requests().equals(was)


def test_the_arrow_files_stay_if_the_copy_read_back_is_another(
    trial: TrialFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = packing.read_part

    def wrong(*of: Any, **how: Any) -> pa.Table:
        table = real(*of, **how)
        return table.slice(1) if "outcome" in table.column_names else table

    monkeypatch.setattr(packing, "read_part", wrong)
    (done,) = pack_study(study_of(trial), remove=True)
    assert "differs" in done.left
    assert "requests-0.arrows" in arrows(trial)
    assert not (trial.path / LISTING).exists()


def test_a_damaged_part_costs_its_rows_and_is_packed_again_from_the_arrow_files(
    trial: TrialFolder,
) -> None:
    was = trial.requests()
    pack_study(study_of(trial))
    part = trial.path / "requests-0.parquet"
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.warns(DamagedStudyWarning, match="34 rows lost: .*requests-0.parquet is damaged"):
        assert not TrialFolder(trial.path).requests().num_rows
    assert pack_study(study_of(trial))[0].left == ""
    assert TrialFolder(trial.path).requests().equals(was)


CAMPAIGN = """
import json, random, sys, warnings
from pathlib import Path
from zlib import crc32
from kit.study.folder import TrialFolder

warnings.simplefilter("ignore")
folder, forged, flips = Path(sys.argv[1]), sys.argv[2] == "True", int(sys.argv[3])
file, listing = folder / "requests-0.parquet", folder / "packed.json"
data, listed = file.read_bytes(), json.loads(listing.read_text())
count = {"said": 0, "same": 0, "wrong": 0}
whole = TrialFolder(folder).requests()
rng = random.Random(7)
for _ in range(flips):
    bit = rng.randrange(8 * len(data))
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    file.write_bytes(changed)
    if forged:
        listed["tables"]["requests"][0]["crc32"] = crc32(changed)
        listing.write_text(json.dumps(listed))
    trial = TrialFolder(folder)
    found = trial.requests()
    count["said" if trial.damage else "same" if found.equals(whole) else "wrong"] += 1
print(json.dumps(count))
"""


@pytest.mark.slow
@pytest.mark.parametrize("forged", [False, True])
def test_no_flipped_bit_of_a_part_kills_the_reader(trial: TrialFolder, forged: bool) -> None:
    """forged: the listing was made to fit, as a stranger can; page checksums find most of it."""
    pack_study(study_of(trial), remove=True)
    done = subprocess.run(
        [sys.executable, "-c", CAMPAIGN, str(trial.path), str(forged), "60"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    if not forged:
        assert found == {"said": 60, "same": 0, "wrong": 0}


def listing_of(trial: TrialFolder, **changes: object) -> None:
    text = json.loads((trial.path / LISTING).read_text())
    text["tables"]["requests"][0] |= changes
    (trial.path / LISTING).write_text(json.dumps(text))


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"file": "../../../outside.parquet"},
        {"file": "/etc/passwd"},
        {"file": "a\0.parquet"},
        {"rows": -1},
        {"rows": 10**12},
        {"size_bytes": 10**15},
        {"crc32": "x"},
    ],
    ids=str,
)
def test_a_hostile_listing_is_refused_and_named(
    trial: TrialFolder, changes: dict[str, object]
) -> None:
    pack_study(study_of(trial), remove=True)
    listing_of(trial, **changes)
    with pytest.raises(StoreError, match=r"packed\.json is damaged"):
        read_listing(trial.path)
    with pytest.warns(DamagedStudyWarning, match="the packed copy is lost"):
        assert not TrialFolder(trial.path).requests().num_rows
    (done,) = pack_study(study_of(trial), remove=True)
    assert "packed.json is damaged" in done.left


def into_link_out(path: Path) -> None:
    outside = path.parents[3] / "outside.parquet"
    shutil.copy(path, outside)
    path.unlink()
    path.symlink_to(outside)


def into_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("make", [into_link_out, into_pipe])
def test_only_regular_parts_of_the_study_itself_are_read(
    trial: TrialFolder, make: Callable[[Path], None]
) -> None:
    pack_study(study_of(trial), remove=True)
    make(trial.path / "requests-0.parquet")
    with pytest.warns(DamagedStudyWarning, match="34 rows lost"):
        assert not study_of(trial).trials()[0].requests().num_rows


def test_nothing_is_written_through_a_trial_that_is_a_link(
    tmp_path: Path, trial: TrialFolder
) -> None:
    outside = tmp_path / "outside"
    trial.path.rename(outside)
    trial.path.symlink_to(outside)
    with pytest.warns(DamagedStudyWarning, match="leads out"):
        assert pack_study(study_of(trial), remove=True) == []
    assert not (outside / LISTING).exists()


def test_a_recorded_study_is_not_packed(tmp_path: Path, trial: TrialFolder) -> None:
    recorded = record_study(study_of(trial), tmp_path / "recorded", about="A test.")
    with pytest.raises(StoreError, match="is a recorded study"):
        pack_study(recorded)


def test_a_packed_trial_can_be_sent_again(trial: TrialFolder) -> None:
    from kit.study.traces.read import read_trace

    was = read_trace(trial.path).rows
    pack_study(study_of(trial), remove=True)
    assert read_trace(trial.path).rows == was
