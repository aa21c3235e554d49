"""SQL over a study with DuckDB: tables of trials, requests, tokens and samples, and nothing else.

    trials     kit.stats.frames.trials_frame, one row a trial
    requests   kit.stats.frames.requests_frame, one row a request, and the raw times: scheduled_ns,
               sent_ns, first_ns, end_ns (CLOCK_MONOTONIC) and token_gap_ns (kit.study.packed)
    tokens     kit.stats.frames.token_gaps_frame, one row a gap between two token events
    samples    kit.stats.frames.samples_frame, one row a value that a watcher saw

Units are in the names: `_ms`, `_s`, `_ns`, `_fraction`, `_bytes`. Requests of packed trials are
read from their Parquet parts by DuckDB itself, after the checksum of each was compared, so that a
query takes little memory; those of other trials are loaded first.

A query is one statement that reads these tables, no file and no setting: a study folder, or the SQL
in a notebook, may come from a stranger.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

from kit.errors import MissingPackageError, QueryError, StoreError, TooLargeError
from kit.stats.frames import samples_frame, trials_frame, zero_ns
from kit.stats.size import MOST_ROWS
from kit.stats.trial_keys import trial_columns
from kit.study.folder import REQUESTS, StudyFolder, TrialFolder
from kit.study.packed import GAPS, TOKENS, packed_schema, part_bytes, read_listing, with_gaps
from kit.study.recorded import open_study
from kit.study.records import is_packed
from kit.study.result import Outcome
from kit.study.spec import ArrivalKind

if TYPE_CHECKING:
    import duckdb

#: Kinds of statements that only read.
READING = ("SELECT", "EXPLAIN")
#: What DuckDB holds in memory at the most; a query that needs more is an error.
MEMORY_LIMIT = "1GB"
_NAMES = ", ".join(f.name if f.name != TOKENS else GAPS for f in REQUESTS)


def query(study: StudyFolder | Path, sql: str) -> pd.DataFrame:
    """The result of one SELECT over the tables of a study.

    Raises:
        MissingPackageError: duckdb is not installed.
        QueryError: SQL that cannot be run, reads a file or writes; more memory than MEMORY_LIMIT.
        TooLargeError: more than MOST_ROWS requests that are not packed.
        StoreError: a packed part that is damaged.
    """
    duckdb = _duckdb()
    with duckdb.connect(":memory:") as connection:
        _tables(connection, open_study(study))
        try:
            statements = connection.extract_statements(sql)
            kinds = [statement.type.name.removesuffix("_STATEMENT") for statement in statements]
            if len(kinds) != 1 or kinds[0] not in READING:
                raise QueryError(
                    f"SQL with {', '.join(kinds) or 'no statement'}",
                    "one SELECT, DESCRIBE or EXPLAIN",
                    "a study is only read; make a frame of the result and work on that",
                )
            frame: pd.DataFrame = connection.execute(statements[0]).fetch_df()
        except duckdb.OutOfMemoryException as error:
            raise QueryError(
                f"SQL that needs more memory than {MEMORY_LIMIT}",
                "a SELECT that holds less at a time",
                "an exact quantile holds every value that it is over: ask for one release or trial "
                "at a time (where release = '24.05'), or take approx_quantile; the latencies of "
                "study.plot_latency() and of the report are counted, in constant memory",
            ) from error
        except duckdb.Error as error:
            raise QueryError(
                f"SQL that cannot be run: {str(error).strip()}",
                "a SELECT over trials, requests, tokens or samples",
                'study.sql("describe requests") lists the columns',
            ) from error
    return frame


def _duckdb() -> Any:
    try:
        import duckdb
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            "duckdb, which is not installed",
            "duckdb 1.2 or newer for study.sql",
            'install it: pip install ".[duckdb]", or conda install python-duckdb',
        ) from error
    return duckdb


def _tables(connection: duckdb.DuckDBPyConnection, study: StudyFolder) -> None:
    """Make the tables, then take from the connection all that leads out of them."""
    folders = study.trials()
    packed = [number for number, folder in enumerate(folders) if is_packed(folder.path)]
    loose = [number for number in range(len(folders)) if number not in set(packed)]
    parts = _parts(folders, packed, study.path)
    connection.execute(f"SET memory_limit='{MEMORY_LIMIT}'")
    connection.execute("SET temp_directory=''")
    connection.execute("SET autoinstall_known_extensions=false")
    connection.execute("SET autoload_known_extensions=false")
    if parts:
        connection.execute(f"SET allowed_paths=[{', '.join(_quoted(name) for name in parts)}]")
    connection.execute("SET enable_external_access=false")
    for name, frame in {
        "trials": trials_frame(study),
        "samples": samples_frame(study),
        "_heads": _heads(study, folders),
        "_parts": pd.DataFrame({"file": list(parts), "_trial": list(parts.values())}).astype(
            {"file": "string", "_trial": "int64"}
        ),
    }.items():
        _load(connection, name, pa.Table.from_pandas(_plain(frame), preserve_index=False))
    _load(connection, "_loose", _loose(folders, loose))
    connection.execute(_raw(list(parts)))
    connection.execute(_requests(list(_heads(study, folders).columns)))
    connection.execute(_TOKENS.format(keys=_keys(study, folders)))
    connection.execute("SET python_enable_replacements=false")
    connection.execute("SET lock_configuration=true")


def _load(connection: duckdb.DuckDBPyConnection, name: str, table: pa.Table) -> None:
    connection.register("_given", table)
    connection.execute(f'CREATE TABLE "{name}" AS SELECT * FROM _given')  # noqa: S608 - ours
    connection.unregister("_given")


def _parts(folders: list[TrialFolder], packed: list[int], within: Path) -> dict[str, int]:
    """The Parquet files of the packed trials, whose checksums are right, and whose each is.

    Raises:
        StoreError: one is damaged.
    """
    found = {}
    for number in packed:
        folder = folders[number].path
        for part in read_listing(folder, within=within).tables.get("requests", ()):
            part_bytes(folder, part, within=within)
            path = str((folder / part.file).resolve())
            if any(sign in path for sign in "*?[{"):  # DuckDB takes them for a pattern
                raise StoreError(
                    f"the path {path!r}", "one without * ? [ and {", "rename or move the folder"
                )
            found[path] = number
    return found


def _loose(folders: list[TrialFolder], loose: Iterable[int]) -> pa.Table:
    """The requests of trials that are not packed, with `_trial` in front.

    Raises:
        TooLargeError: there are too many.
    """
    own = [folders[number] for number in loose]
    schema = pa.schema([("_trial", pa.int64()), *packed_schema(REQUESTS)])
    if sum(folder.rows("requests") for folder in own) > MOST_ROWS:
        raise TooLargeError(
            f"more than {MOST_ROWS:,} requests that are not packed",
            "a packed study, or a smaller one",
            "pack it: study.pack(), or kit pack STUDY",
        )
    tables = [schema.empty_table()]
    for number, folder in zip(loose, own, strict=True):
        rows = with_gaps(folder.requests())
        trial = pa.repeat(pa.scalar(number, pa.int64()), rows.num_rows)
        tables.append(rows.add_column(0, "_trial", trial).cast(schema))
    return pa.concat_tables(tables)


def _heads(study: StudyFolder, folders: list[TrialFolder]) -> pd.DataFrame:
    """The columns that stand in every table, of each trial, and what its times are taken from."""
    which = pd.RangeIndex(len(folders)).to_numpy()
    return trial_columns(study, folders, which).assign(
        _trial=which,
        _zero_ns=[zero_ns(folder) for folder in folders],
        _streamed=[folder.spec.workload.protocol.is_streamed for folder in folders],
        _open=[folder.spec.workload.arrivals.kind is not ArrivalKind.CLOSED for folder in folders],
    )


def _keys(study: StudyFolder, folders: list[TrialFolder]) -> str:
    names = [name for name in _heads(study, folders).columns if not name.startswith("_")]
    return ", ".join(f'"{name}"' for name in names)


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Text in the place of categories, which would be ENUMs that cannot be compared."""
    categories = frame.select_dtypes("category").columns
    return frame.astype(dict.fromkeys(categories, "string"))


def _raw(files: list[str]) -> str:
    """The view over the records of all trials."""
    loose = f"SELECT _trial, {_NAMES} FROM _loose"  # noqa: S608 - ours
    if not files:
        return f"CREATE VIEW _raw AS {loose}"
    listed = ", ".join(_quoted(name) for name in files)
    return (
        f"CREATE VIEW _raw AS {loose} UNION ALL SELECT p._trial, {_NAMES} "  # noqa: S608 - quoted
        f"FROM read_parquet([{listed}], filename='_file', hive_partitioning=false) r "
        "JOIN _parts p ON r._file = p.file"
    )


def _requests(heads: list[str]) -> str:
    keys = ", ".join(f'h."{name}"' for name in heads if not name.startswith("_"))
    plain = ", ".join(
        f"r.{f.name} AS prompt_tokens_sent" if f.name == "prompt_tokens" else f"r.{f.name}"
        for f in REQUESTS
        if not f.name.endswith("_ns")
    )
    return _REQUESTS.format(keys=keys, plain=plain, ok=Outcome.OK, left=Outcome.DISCONNECTED)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


#: As kit.stats.timings has it.
_REQUESTS = """
CREATE VIEW requests AS SELECT {keys}, {plain},
    h._open AS open_loop,
    coalesce(r.outcome = '{ok}', false) AS ok,
    r.fault IS NULL AND coalesce(r.outcome != '{left}', true)
        AND NOT coalesce(r.warmup, false) AS judged,
    (r.sent_ns - h._zero_ns) / 1e9 AS t_s,
    (r.end_ns - h._zero_ns) / 1e9 AS end_s,
    CASE WHEN h._streamed THEN (r.first_ns - r.sent_ns) / 1e6 END AS ttft_ms,
    (r.first_ns - r.sent_ns) / 1e6 AS first_byte_ms,
    (r.end_ns - r.sent_ns) / 1e6 AS e2e_ms,
    (r.end_ns - r.scheduled_ns) / 1e6 AS e2e_from_schedule_ms,
    (r.sent_ns - r.scheduled_ns) / 1e6 AS dispatch_ms,
    list_avg(r.token_gap_ns[2:]) / 1e6 AS itl_ms_mean,
    list_max(r.token_gap_ns[2:]) / 1e6 AS itl_ms_max,
    r.scheduled_ns, r.sent_ns, r.first_ns, r.end_ns, r.token_gap_ns
FROM _raw r JOIN _heads h ON r._trial = h._trial
"""
_TOKENS = """
CREATE VIEW tokens AS
SELECT * EXCLUDE (_gap), _gap / 1e6 AS itl_ms FROM (
    SELECT {keys}, request, unnest(range(1, len(token_gap_ns))) AS gap,
        unnest(token_gap_ns[2:]) AS _gap
    FROM requests WHERE judged AND len(token_gap_ns) > 1
)
"""
