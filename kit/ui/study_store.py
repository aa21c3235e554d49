"""How a study is kept and asked: packed into Parquet, and queried in SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import pandas as pd

    from kit.study.pack import PackedTrial
    from kit.ui.study_view import Study


class StudyStore:
    """Methods of kit.Study about its folder."""

    def pack(self, *, remove: bool = False) -> pd.DataFrame:
        """Pack the records of finished trials into Parquet, about a tenth of their size.

        remove: remove a trial's Arrow files once its packed copy was read back and compared with
            them; False: they are kept beside it. Either way the study reads as before.

        Returns one row a trial: trial_id, requests, arrow_bytes (before), packed_bytes, removed,
        left (why it was left as it is, "" if it is packed). Packing again goes on from there.

        Raises:
            StoreError: trials are run into the folder now, it is recorded, or the disk is full.
        """
        from dataclasses import asdict

        import pandas as pd

        from kit.study.pack import PackedTrial, pack_study

        done: list[PackedTrial] = pack_study(cast("Study", self)._folder, remove=remove)
        return pd.DataFrame(
            [asdict(trial) for trial in done], columns=list(PackedTrial.__dataclass_fields__)
        )

    @property
    def hosts(self) -> pd.DataFrame:
        """One row a host of the cluster that ran trials of the study (kit.run(..., on=...)): label,
        what its machine is, why it was left out ("" if it was not), and `trials` that it ran.

        Empty for a study of one machine. In what hosts differ is kept here; columns:
        kit.study.hosts.HostFacts.
        """
        from dataclasses import asdict

        import pandas as pd

        from kit.study.hosts import HostFacts, read_hosts

        study = cast("Study", self)
        found = [asdict(host) for host in read_hosts(study.path)]
        frame = pd.DataFrame(found, columns=list(HostFacts.__dataclass_fields__)).set_index("label")
        frame["trials"] = study.trials["host"].value_counts().reindex(frame.index).fillna(0)
        return frame.astype({"trials": int})

    @property
    def load_hosts(self) -> pd.DataFrame:
        """One row a trial and host from which its load came (kit.run(..., load_hosts=...)): how far
        its clock was ahead and how surely, how late it began, what it did not send, and why it was
        lost ("" if it was not).

        Columns: trial_id and kit.study.load_hosts.LoadHost. Empty if load came from here.
        """
        from dataclasses import asdict

        import pandas as pd

        from kit.study.load_hosts import LoadHost

        results = [trial.result for trial in cast("Study", self)._folder.trials()]
        rows = [
            {"trial_id": result.trial_id, **asdict(host)}
            for result in results
            if result is not None
            for host in result.load_hosts
        ]
        return pd.DataFrame(rows, columns=["trial_id", *LoadHost.__dataclass_fields__])

    def sql(self, query: str) -> pd.DataFrame:
        """Ask the study in SQL (DuckDB), without loading it: trials, requests, tokens, samples.

        The tables have the columns of `study.trials` and so on (kit.stats.sql); units are in the
        names. A failed request has a latency, too, that until it failed: filter by `ok`, or let
        it count as never answered. The query reads no file and changes nothing of the study.

        Raises:
            MissingPackageError: duckdb is not installed. QueryError: SQL that cannot be run.
            TooLargeError: too many requests that are not packed; study.pack() first.

        Example, the median of all requests that were not made to fail on purpose:

            study.sql("select release, quantile_disc(if(ok, e2e_ms, 'inf'::double), 0.5) as p50_ms "
                      "from requests where judged group by release")
        """
        from kit.stats.sql import query as run

        return run(cast("Study", self)._folder, query)
