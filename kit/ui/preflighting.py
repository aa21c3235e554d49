"""What `kit.preflight` does, and what is said by itself before a study."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from kit.errors import PreflightError
from kit.ui.choices import Servers

if TYPE_CHECKING:
    from kit.checks.finding import Finding
    from kit.study.spec import Engine, StudySpec, Workload
    from kit.ui.preflight_card import PreflightCard

#: Of warnings before a study; a map of all releases has dozens.
_MOST_LINES = 6


def preflight(
    servers: Servers,
    scenario: str | Iterable[str] | None = None,
    *,
    workload: Workload | None = None,
    engine: str | Engine | Iterable[str | Engine] | None = None,
    requests: int | Iterable[int] | None = None,
    parallel: int | None = None,
    **traffic: Any,
) -> PreflightCard:
    """Check servers, this machine and the traffic before anything is sent; nothing is started.

    Is the release known to crash under this traffic, which to move to and which not; is vLLM the
    image's own; does the KV cache hold the traffic; do metrics tell KV usage and GPU; driver and
    compute capability; limits, shared memory, ports, clock, and the head room of the client.
    Each finding has a severity, a reason and a hint; what cannot be seen is "not checked", with
    why. An attached server is asked for its health, versions, model and metrics, and nothing more.

    The arguments are those of kit.run; without scenario and workload it is kit.Workload().

    Raises:
        SpecError, UnknownReleaseError, UnknownScenarioError: it could not be run as written.

    >>> import kit
    >>> found = kit.preflight("24.10", "cancel-race")
    >>> [one.severity.value for one in found.findings if one.topic == "release"][0]
    'warns'
    """
    from kit.checks.run import preflight as check
    from kit.study.workload import Workload
    from kit.ui.choices import choose
    from kit.ui.preflight_card import PreflightCard

    own = Workload() if scenario is None and workload is None else workload
    spec = choose(
        servers,
        scenario,
        own,
        name="preflight",
        engine=engine,
        requests=requests,
        repeats=1,
        **traffic,
    )
    return PreflightCard.of(check(spec, parallel=parallel))


def beforehand(spec: StudySpec, *, parallel: int | None = None) -> list[str]:
    """What to say before a study: how recorded traffic is replayed, and a line for each warning
    of a quick preflight.

    Raises:
        PreflightError: a finding for which the study should not be begun.
    """
    from kit.checks.run import preflight as check
    from kit.study.plan import first_of_each_cell
    from kit.study.traces.notes import trace_notes

    found = check(spec, parallel=parallel, is_quick=True)
    if found.blocking:
        raise _blocked(found.blocking)
    lines = [f"warning: {one.line}" for one in found.warnings]
    more = len(lines) - _MOST_LINES
    if more > 0:
        lines[_MOST_LINES:] = [f"and {more} more warnings"]
    if lines:
        lines.append("`kit preflight` tells more, and what to do")
    return [*trace_notes(first_of_each_cell(spec)), *lines]


def _blocked(findings: Iterable[Finding]) -> PreflightError:
    first, *others = findings
    more = f"; and {len(others)} more, see kit.preflight" if others else ""
    return PreflightError(
        f"{first.topic} of {first.server}: {first.found}{more}"
        if first.server
        else f"{first.topic}: {first.found}{more}",
        first.reason or "a server that can answer this traffic",
        first.hint or "correct it",
    )
