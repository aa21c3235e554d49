"""Files that are appended to: what a full disk or a short write leaves of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from kit.study.arrow_file import ArrowAppender, read_rows, stream_rows
from kit.study.folder import REQUESTS
from kit.study.packed import read_part, to_part

SCHEMA = pa.schema([("number", pa.int64())])
#: Appends batches of 100 numbers to a file of 5000 bytes at most, then some more when there is
#: room again; prints what it was told.
WRITER = """
import resource, sys
from pathlib import Path
import pyarrow as pa
from kit.errors import StoreError
from kit.study.arrow_file import ArrowAppender

schema = pa.schema([("number", pa.int64())])
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
with ArrowAppender(Path(sys.argv[1]), schema) as file:
    number = 0
    try:
        while True:
            file.append({"number": list(range(number, number + 100))})
            number += 100
    except StoreError as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    file.append({"number": [-1] * 100})
"""


@pytest.mark.slow
def test_a_full_disk_is_a_named_error_and_costs_only_the_batch_that_it_did_not_take(
    tmp_path: Path,
) -> None:
    path = tmp_path / "rows.arrows"
    done = subprocess.run(
        [sys.executable, "-c", WRITER, str(path)], capture_output=True, text=True, check=True
    )
    assert "rows.arrows cannot be written" in done.stdout
    assert "File too large" in done.stdout
    numbers = read_rows(path, SCHEMA).table["number"].to_pylist()
    whole = len(numbers) - 100
    assert whole >= 200
    assert numbers == [*range(whole), *[-1] * 100]


class Dribble:
    """A file that takes seven bytes at a time, as a raw file may."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.closed = False

    def write(self, data: bytes) -> int:
        count: int = self._file.write(data[:7])
        return count

    def tell(self) -> int:
        position: int = self._file.tell()
        return position

    def close(self) -> None:
        self._file.close()
        self.closed = True


def test_a_file_that_takes_a_batch_in_pieces_holds_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows.arrows"
    with ArrowAppender(path, SCHEMA) as file:
        file._file = Dribble(file._file)  # type: ignore[assignment]
        for number in range(3):
            file.append({"number": [number] * 10})
    assert read_rows(path, SCHEMA).table["number"].to_pylist() == [
        n for n in range(3) for _ in range(10)
    ]


OLDER = {
    "before tokens were counted": {"tokens_by", "tokens_in", "tokens_out"},
    "before the kernel's clock": {"clock", "tokens_by", "tokens_in", "tokens_out"},
}


@pytest.mark.parametrize("lacks", OLDER.values(), ids=OLDER)
def test_older_requests_are_read_with_what_their_later_columns_would_hold(
    lacks: set[str], tmp_path: Path
) -> None:
    older = pa.schema([field for field in REQUESTS if field.name not in lacks])
    columns: dict[str, list[Any]] = {field.name: [None, None] for field in older}
    with ArrowAppender(tmp_path / "requests-0.arrows", older) as file:
        file.append(columns | {"request": [0, 1]})
    table = read_rows(tmp_path / "requests-0.arrows", REQUESTS).table
    assert table.schema.equals(REQUESTS)
    assert table["request"].to_pylist() == [0, 1]
    assert table["clock"].to_pylist() == (["client"] * 2 if "clock" in lacks else [None, None])
    assert table["tokens_by"].to_pylist() == table["tokens_out"].to_pylist() == [None, None]
    (part,) = stream_rows(tmp_path / "requests-0.arrows", REQUESTS)
    assert part.equals(table)
    packed, data = to_part(pa.table(table).select(older.names), "requests-0.parquet")
    (tmp_path / packed.file).write_bytes(data)
    assert read_part(tmp_path, packed, REQUESTS).equals(table)
