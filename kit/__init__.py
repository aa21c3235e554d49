"""The Triton crash kit: under this traffic, does this server crash, when, where, and what to do.

    import kit

    kit.releases()                                  # which there are, and which run here
    study = kit.run(["23.10", "24.05"], scenario="cancel-race", concurrency=[4, 16])
    study                                           # the answer, a table, where it comes from
    study.plot_crashes(); study.plot_latency()
    study.trials, study.requests, study.crashes     # data frames; deaths with their stacks

Without a server of your own: `kit.recorded("first_light")` is a study that was run before, and
`kit.diagnose("server.log")` reads the log of a server that crashed, and
`kit.advise("24.05", ["grpc-stream-cancel"])` says before an upgrade what is known to kill it;
`kit.preflight(server, ...)` checks server, machine and traffic before anything is sent.

Importing this package loads nothing else; each name below is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kit.study.workload import Workload
    from kit.ui.advising import advise
    from kit.ui.api import (
        attach,
        compare,
        container,
        diagnose,
        open,
        panel,
        recorded,
        run,
    )
    from kit.ui.experiments import bisect, kv_experiment
    from kit.ui.histories import history
    from kit.ui.limits import find_limit
    from kit.ui.listings import releases, scenarios
    from kit.ui.preflighting import preflight
    from kit.ui.soaking import soak
    from kit.ui.study_view import Study

__version__ = "0.1.0"

#: Public name -> the module that it lies in.
_HOMES = {
    **dict.fromkeys(("run", "open", "recorded", "diagnose", "compare"), "kit.ui.api"),
    **dict.fromkeys(("attach", "container", "panel"), "kit.ui.api"),
    **dict.fromkeys(("releases", "scenarios"), "kit.ui.listings"),
    **dict.fromkeys(("bisect", "kv_experiment"), "kit.ui.experiments"),
    "advise": "kit.ui.advising",
    "find_limit": "kit.ui.limits",
    "history": "kit.ui.histories",
    "preflight": "kit.ui.preflighting",
    "soak": "kit.ui.soaking",
    "Study": "kit.ui.study_view",
    "Workload": "kit.study.workload",
}

__all__ = [
    "Study",
    "Workload",
    "advise",
    "attach",
    "bisect",
    "compare",
    "container",
    "diagnose",
    "find_limit",
    "history",
    "kv_experiment",
    "open",
    "panel",
    "preflight",
    "recorded",
    "releases",
    "run",
    "scenarios",
    "soak",
]


def __getattr__(name: str) -> object:
    """Load a public name when it is first asked for (PEP 562)."""
    if name in _HOMES:
        globals()[name] = found = getattr(import_module(_HOMES[name]), name)
        return found
    if name.startswith("_"):  # what tools probe for
        raise AttributeError(f"module 'kit' has no attribute {name!r}")
    from difflib import get_close_matches

    near = get_close_matches(name, __all__, n=1)
    said = f"did you mean kit.{near[0]}?" if near else f"it has {', '.join(__all__)}"
    raise AttributeError(f"module 'kit' has no attribute {name!r}; {said}")


def __dir__() -> list[str]:
    return list(__all__)
