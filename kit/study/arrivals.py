"""When requests are sent: by clients, at a rate, or at the times of a traffic file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from kit.errors import SpecError
from kit.study.arguments import as_member, as_number
from kit.study.traces.pinned import TraceFile, pinned


class ArrivalKind(StrEnum):
    CLOSED = "closed"  # `concurrency` clients, each sends when its last request ended
    CONSTANT = "constant"  # open loop, one every 1/rate seconds
    POISSON = "poisson"  # open loop, exponential gaps
    GAMMA = "gamma"  # open loop, bursty: gaps with coefficient of variation `burstiness_cv`
    TRACE = "trace"  # open loop, at the times of `trace_file`


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """From `after_s` on, this load: a concurrency (closed loop) or a rate (open loop).

    With `ramp` the value is reached linearly from the step before.
    """

    after_s: float
    concurrency: int | None = None
    rate_per_s: float | None = None
    ramp: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """When requests are sent. Closed loop and open loop are never mixed.

    A traffic file says how long requests and answers are, or what is asked; with kind TRACE also
    when.
    """

    kind: ArrivalKind = ArrivalKind.CLOSED
    concurrency: int | None = 16  # closed loop: clients; open loop: most in flight (None: no cap)
    rate_per_s: float | None = None
    burstiness_cv: float = 1.0
    steps: tuple[Step, ...] = ()
    trace_file: str | None = None  # a path, as kit.study.traces.pinned names it
    trace_speed: float = 1.0  # its times are gone through so much faster
    trace_lengths: float = 1.0  # its lengths are so much longer

    def __post_init__(self) -> None:
        if self.concurrency is not None and self.concurrency < 1:
            raise SpecError(
                f"concurrency {self.concurrency}", "1 or more", "give at least one client"
            )
        if self.kind is ArrivalKind.CLOSED and self.concurrency is None:
            raise SpecError("a closed loop without concurrency", "1 or more", "set concurrency")
        open_loop = {ArrivalKind.CONSTANT, ArrivalKind.POISSON, ArrivalKind.GAMMA}
        if self.kind in open_loop and not (self.rate_per_s and self.rate_per_s > 0):
            raise SpecError(
                f"{self.kind} arrivals at rate {self.rate_per_s}",
                "a rate above 0 requests/s",
                "give rate",
            )
        if self.kind is ArrivalKind.TRACE and not self.trace_file:
            raise SpecError("arrivals = 'trace' without a trace", "a traffic file", "give trace")


def changed_arrivals(
    base: Arrivals,
    *,
    arrivals: object = None,
    concurrency: object = None,
    rate: object = None,
    burstiness_cv: object = None,
    trace: object = None,
    trace_speed: object = None,
    trace_lengths: object = None,
) -> Arrivals:
    """`base` with what was given; a rate makes an open loop of a closed one.

    A trace with times is replayed at these, unless something else is said of when to send.

    Raises:
        SpecError: a value out of its range, or values that do not go together.
    """
    base = _with_trace(base, trace, trace_speed, trace_lengths)
    clients = base.concurrency
    if concurrency is not None:
        clients = int(as_number("concurrency", concurrency, low=1, whole=True))
    per_s = base.rate_per_s
    if rate is not None:
        per_s = as_number("rate", rate, low=0, above=True)
    cv = base.burstiness_cv
    if burstiness_cv is not None:
        cv = as_number("burstiness_cv", burstiness_cv, low=0, above=True)
    is_silent = all(word is None for word in (arrivals, concurrency, rate, burstiness_cv))
    file = None if base.trace_file is None else pinned(base.trace_file)
    is_timed = file is not None and file.span_s is not None
    was_closed = base.kind is ArrivalKind.CLOSED
    if arrivals is not None:
        new = as_member("arrivals", arrivals, ArrivalKind)
    elif rate is not None and base.kind in (ArrivalKind.CLOSED, ArrivalKind.TRACE):
        new = ArrivalKind.POISSON if burstiness_cv is None else ArrivalKind.GAMMA
    elif trace is not None and is_timed and is_silent:
        new = ArrivalKind.TRACE
    elif base.kind is ArrivalKind.TRACE and (not is_timed or trace is not None):
        new = ArrivalKind.CLOSED  # the clients that were given, or the usual number
    else:
        new = base.kind
    _check_together(new, rate, burstiness_cv, is_timed, file)
    is_closed = new is ArrivalKind.CLOSED
    if is_closed:
        per_s, clients = None, clients or Arrivals().concurrency
    elif was_closed and concurrency is None:
        clients = None  # the clients of a closed loop are no cap of an open one
    changed_loop = is_closed != was_closed or rate is not None
    return replace(
        base,
        kind=new,
        concurrency=clients,
        rate_per_s=None if new is ArrivalKind.TRACE else per_s,
        burstiness_cv=cv,
        steps=() if changed_loop else base.steps,
    )


def _check_together(
    new: ArrivalKind, rate: object, burstiness_cv: object, is_timed: bool, file: TraceFile | None
) -> None:
    if new is ArrivalKind.TRACE and not is_timed:
        raise SpecError(
            "arrivals = 'trace' with "
            + ("no trace" if file is None else f"{file.about}, which has no times"),
            "a traffic file that says when its requests came",
            "give trace, or concurrency or rate in place of arrivals",
        )
    if new in (ArrivalKind.CLOSED, ArrivalKind.TRACE) and rate is not None:
        raise SpecError(
            f"rate = {rate!r} with arrivals = {new.value!r}",
            "either concurrency (closed loop) or rate (open loop)",
            "leave out rate, or take arrivals 'poisson', 'constant' or 'gamma'",
        )
    if burstiness_cv is not None and new is not ArrivalKind.GAMMA:
        raise SpecError(
            f"burstiness_cv = {burstiness_cv!r} with arrivals = {new.value!r}",
            "arrivals = 'gamma' and a rate",
            "add arrivals='gamma' and rate, or leave out burstiness_cv",
        )


def _with_trace(base: Arrivals, trace: object, speed: object, lengths: object) -> Arrivals:
    text = base.trace_file if trace is None else as_trace(trace)
    if text is not None:
        text = str(pinned(text))
    faster, longer = base.trace_speed, base.trace_lengths
    if speed is not None:
        faster = as_number("trace_speed", speed, low=0, above=True)
    if lengths is not None:
        longer = as_number("trace_lengths", lengths, low=0, above=True)
    if text is None and (faster, longer) != (1.0, 1.0):
        raise SpecError(
            f"trace_speed = {faster:g} and trace_lengths = {longer:g} without a trace",
            "a traffic file whose times or lengths are to be scaled",
            "give trace, or leave them out",
        )
    return replace(base, trace_file=text, trace_speed=faster, trace_lengths=longer)


def as_trace(value: object) -> str:
    """The traffic file at a path, as a spec names it.

    Raises:
        SpecError: it cannot be read, or is none.
    """
    if not isinstance(value, str) and not hasattr(value, "__fspath__"):
        raise SpecError(f"trace = {value!r}", "the path of a traffic file", "give it as text")
    return str(pinned(str(value)))
