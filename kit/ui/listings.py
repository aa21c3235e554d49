"""What there is to choose from, as frames: releases, hybrids beside them, scenarios."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def releases(*, hybrids: bool = False) -> pd.DataFrame:
    """List the Triton releases that the kit knows, oldest first, and which run here.

    Columns: release; triton and vllm, their versions; date of the tag; runs ("here",
    "container", or "not here"); lacks, what this machine would need; image. Nothing is fetched.

    hybrids: list these in their place, none of which is a release: the compiled frontends of a
        newer one on the core and Python backend of an older one, which tell whether a fault of
        the frontends is still there. Columns: hybrid, its name, for kit.run; frontends and core,
        releases; frontends_triton and core_triton, their versions; runs; lacks.

    >>> import kit
    >>> frame = kit.releases()
    >>> frame.loc[frame["release"] == "24.05", "triton"].item()
    '2.46.0'
    >>> kit.releases(hybrids=True)["hybrid"].iloc[-1]
    'frontend 26.09 on core 24.10'
    """
    if hybrids:
        return _hybrids()
    import pandas as pd

    from kit.servers.prepare import lacks_here
    from kit.study.releases import load_releases

    rows = []
    for one in load_releases().values():
        lacks = lacks_here(one)
        runs = "here" if lacks is None else "container" if one.wheel is None else "not here"
        rows.append(
            {
                "release": one.release,
                "triton": one.triton,
                "vllm": one.vllm,
                "date": one.date,
                "runs": runs,
                "lacks": lacks,
                "image": one.image,
            }
        )
    return pd.DataFrame(rows)


def _hybrids() -> pd.DataFrame:
    import pandas as pd

    from kit.servers.hybrid.files import hybrid_lacks_here
    from kit.study.hybrids import load_hybrids
    from kit.study.releases import get_release

    rows = []
    for one in load_hybrids().values():
        lacks = hybrid_lacks_here(one)
        rows.append(
            {
                "hybrid": one.name,
                "frontends": one.frontends,
                "core": one.core,
                "frontends_triton": one.wheel.version,
                "core_triton": get_release(one.core).triton,
                "runs": "here" if lacks is None else "not here",
                "lacks": lacks,
            }
        )
    return pd.DataFrame(rows)


def scenarios() -> pd.DataFrame:
    """List the scenarios: named ways to use a server, each fault beside its control.

    Columns: scenario, kind ("fault" or "control"), title, protocol, control, crash (the entry of
    the crash catalog that it exercises), needs.

    >>> import kit
    >>> frame = kit.scenarios()
    >>> frame.loc[frame["scenario"] == "cancel-race", "control"].item()
    'control'
    """
    import pandas as pd

    from kit.study.scenarios import load_scenarios

    return pd.DataFrame(
        [
            {
                "scenario": one.name,
                "kind": one.kind,
                "title": one.title,
                "protocol": one.workload.protocol.value,
                "control": one.control,
                "crash": one.crash,
                "needs": ", ".join(one.needs),
            }
            for one in load_scenarios().values()
        ]
    )
