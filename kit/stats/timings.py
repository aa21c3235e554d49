"""Computes latencies and token gaps of a trial's recorded requests.

The columns and the sources of their definitions: kit.stats.frames.requests_frame.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from kit.errors import SpecError
from kit.study.result import Outcome

#: Integers and booleans that can be missing stay integers and booleans.
DTYPES = {
    pa.bool_(): pd.BooleanDtype(),
    pa.int16(): pd.Int64Dtype(),
    pa.int32(): pd.Int64Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.string(): pd.ArrowDtype(pa.string()),
}


def measured(requests: pd.DataFrame) -> str:
    """The column with the end-to-end latency of these requests.

    In a closed loop it counts from the moment a request was sent, since its client sends when the
    last answer has come. In an open loop it counts from the moment the request was due: else a
    server that stalls would be spared the wait of all that could not be sent meanwhile.

    Raises:
        SpecError: requests of both kinds.
    """
    kinds = set(requests["open_loop"])
    if len(kinds) > 1:
        raise SpecError(
            "requests of a closed and of an open loop together",
            "one of the two, since their latencies do not mean the same",
            "draw a figure for each",
        )
    return "e2e_from_schedule_ms" if True in kinds else "e2e_ms"


def request_timings(
    table: pa.Table, *, zero_ns: np.ndarray, streamed: np.ndarray, open_loop: np.ndarray
) -> pd.DataFrame:
    """One row a request: the columns that are no raw times, and what the times say.

    Of each row: zero_ns (int64), CLOCK_MONOTONIC of `t_s` = 0. streamed (bool): tokens came one by
    one, so that the first one has a time of its own. open_loop (bool): requests had a schedule.
    """
    time = {
        name: ns_as_float(table[f"{name}_ns"]) for name in ("scheduled", "sent", "first", "end")
    }
    owner, gaps_ms = _gaps(table)
    counts = np.bincount(owner, minlength=table.num_rows)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(owner, weights=gaps_ms, minlength=table.num_rows) / counts
    longest = np.full(table.num_rows, np.nan)
    if gaps_ms.size:
        starts = np.flatnonzero(np.diff(owner, prepend=-1))
        longest[owner[starts]] = np.maximum.reduceat(gaps_ms, starts)
    first_ms = (time["first"] - time["sent"]) / 1e6
    plain = table.drop_columns([n for n in table.column_names if n.endswith("_ns")])
    frame: pd.DataFrame = plain.to_pandas(types_mapper=DTYPES.get)
    told = {
        "open_loop": open_loop,
        "ok": (frame["outcome"] == Outcome.OK.value).to_numpy(bool, na_value=False),
        "judged": _judged(frame),
        "t_s": (time["sent"] - zero_ns) / 1e9,
        "end_s": (time["end"] - zero_ns) / 1e9,
        "ttft_ms": np.where(streamed, first_ms, np.nan),
        "first_byte_ms": first_ms,
        "e2e_ms": (time["end"] - time["sent"]) / 1e6,
        "e2e_from_schedule_ms": (time["end"] - time["scheduled"]) / 1e6,
        "dispatch_ms": (time["sent"] - time["scheduled"]) / 1e6,
        "itl_ms_mean": mean,
        "itl_ms_max": longest,
    }
    for name, values in told.items():  # in place: assign() copies the frame
        frame[name] = values
    return frame


def token_gaps(table: pa.Table) -> tuple[pd.DataFrame, np.ndarray]:
    """One row a gap between consecutive token events of a judged request: request, gap, itl_ms.

    The second is the row of the table that each gap is of.
    """
    owner, gaps_ms = _gaps(table)
    judged = _judged(table.select(["warmup", "fault", "outcome"]).to_pandas())
    begins = np.searchsorted(owner, owner)
    frame = pd.DataFrame(
        {
            "request": table["request"].to_numpy()[owner],
            "gap": np.arange(owner.size) - begins + 1,
            "itl_ms": gaps_ms,
        }
    )
    kept = judged[owner]
    return frame.loc[kept].reset_index(drop=True), owner[kept]


def _gaps(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Row number and length (ms) of every gap between consecutive token events."""
    tokens = table["token_ns"].combine_chunks()
    owner = pc.list_parent_indices(tokens).to_numpy(zero_copy_only=False)
    times = pc.list_flatten(tokens).to_numpy(zero_copy_only=False)
    if times.size < 2:
        return np.empty(0, np.int64), np.empty(0)
    within = owner[1:] == owner[:-1]
    return owner[1:][within], np.diff(times)[within] / 1e6


def _judged(frame: pd.DataFrame) -> np.ndarray:
    left_on_purpose = frame["fault"].notna() | (frame["outcome"] == Outcome.DISCONNECTED.value)
    warmup = frame["warmup"].fillna(value=False).astype(bool)
    return np.asarray(~left_on_purpose.astype(bool) & ~warmup)


def ns_as_float(column: pa.ChunkedArray) -> np.ndarray:
    """Nanoseconds as float64, NaN for null.

    CLOCK_MONOTONIC counts from boot: below 2**53 ns = 104 days a float64 is exact, and later
    still good to a few nanoseconds.
    """
    return np.asarray(column.cast(pa.float64(), safe=False).to_numpy())
