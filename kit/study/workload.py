"""What one trial sends (Workload), and the words for it: protocol, arrivals, lengths, faults.

Plain frozen data that JSON holds unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from inspect import signature
from typing import Any, Final, Never

from kit.errors import SpecError
from kit.study.arguments import as_member, as_number, check_names
from kit.study.distribution import Distribution, as_distribution, fixed, uniform


class Protocol(StrEnum):
    """How a request travels."""

    HTTP_GENERATE = "http-generate"
    HTTP_GENERATE_STREAM = "http-generate-stream"
    HTTP_INFER = "http-infer"
    GRPC_STREAM = "grpc-stream"
    GRPC_INFER = "grpc-infer"
    OPENAI_COMPLETIONS = "openai-completions"
    OPENAI_COMPLETIONS_STREAM = "openai-completions-stream"
    OPENAI_CHAT = "openai-chat"
    OPENAI_CHAT_STREAM = "openai-chat-stream"

    @property
    def is_grpc(self) -> bool:
        return self in (Protocol.GRPC_STREAM, Protocol.GRPC_INFER)

    @property
    def is_streamed(self) -> bool:
        """True if tokens come one by one, so that a first token and gaps between tokens exist."""
        return self is Protocol.GRPC_STREAM or self.value.endswith("-stream")

    @property
    def is_generate(self) -> bool:
        """True over Triton's HTTP generate endpoints, which came with 23.10."""
        return self in (Protocol.HTTP_GENERATE, Protocol.HTTP_GENERATE_STREAM)

    @property
    def is_openai(self) -> bool:
        return self.value.startswith("openai-")


class ArrivalKind(StrEnum):
    CLOSED = "closed"  # `concurrency` clients, each sends when its last request ended
    CONSTANT = "constant"  # open loop, one every 1/rate seconds
    POISSON = "poisson"  # open loop, exponential gaps
    GAMMA = "gamma"  # open loop, bursty: gaps with coefficient of variation `burstiness_cv`
    TRACE = "trace"  # open loop, at the times in `trace_file`


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
    """When requests are sent. Closed loop and open loop are never mixed."""

    kind: ArrivalKind = ArrivalKind.CLOSED
    concurrency: int | None = 16  # closed loop: clients; open loop: most in flight (None: no cap)
    rate_per_s: float | None = None
    burstiness_cv: float = 1.0
    steps: tuple[Step, ...] = ()
    trace_file: str | None = None

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
            raise SpecError("trace arrivals without a trace", "a file", "set trace_file")


class FaultKind(StrEnum):
    """What a client does to a request on purpose."""

    DISCONNECT = "disconnect"  # close the connection after `after` tokens (or bytes)
    CANCEL = "cancel"  # gRPC cancellation after `after` tokens; over HTTP a disconnect
    DEADLINE = "deadline"  # a client deadline of `deadline_s`
    HALF_OPEN = "half_open"  # send part of the request, then nothing
    SLOW_READER = "slow_reader"  # read `bytes_per_s` only
    BAD_JSON = "bad_json"  # the server must refuse these three
    WRONG_TYPE = "wrong_type"
    OVER_LONG = "over_long"

    @property
    def is_leaving(self) -> bool:
        """True if the client goes away before the answer is whole."""
        return self in (FaultKind.DISCONNECT, FaultKind.CANCEL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A share of the requests, and what is done to them."""

    kind: FaultKind
    fraction: float = 1.0
    after: Distribution | None = None
    unit: str = "tokens"  # of `after`: tokens or bytes
    deadline_s: Distribution | None = None
    bytes_per_s: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.fraction <= 1.0:
            raise SpecError(f"a fault fraction of {self.fraction}", "0 to 1", "give a share")
        if self.unit not in ("tokens", "bytes"):
            raise SpecError(f"a fault unit {self.unit!r}", "tokens or bytes", "use one of the two")


class AnswerCheck(StrEnum):
    """How much of an answer the client can know beforehand."""

    EXACT = "exact"  # simulated engine: echo of the prompt, then the known continuation
    ECHO = "echo"  # a real engine that repeats the prompt: the nonce must come back
    NONE = "none"  # only the protocol is checked


#: After how many tokens a client leaves when nobody says: early, in the midst of the answer.
LEAVES_AFTER = uniform(1, 12)


#: Of a trial, when nobody says when it ends.
REQUESTS = 200


@dataclass(frozen=True, slots=True, kw_only=True, init=False)
class Workload:
    """What one trial sends: the shape of the traffic, not where it goes.

    The same workload (seed included) is the same traffic, request by request. Plain words and
    numbers do: a number of tokens is always that number, text such as "uniform(16,64)" a
    distribution. `rate` makes an open loop, in which `concurrency` is the most in flight. It ends
    after REQUESTS requests if neither `requests` nor `duration_s` is given.

    Example:
        >>> workload = Workload(protocol="grpc-stream", concurrency=8, output_tokens="16:64")
        >>> workload.concurrency
        8
        >>> Workload(rate=5).arrivals.kind.value
        'poisson'

    Raises:
        SpecError: a value is out of its range, or a word is not known; it names the argument.
    """

    protocol: Protocol = Protocol.HTTP_GENERATE
    arrivals: Arrivals = field(default_factory=Arrivals)
    requests: int | None = REQUESTS  # stop rules: whichever comes first; None = no such limit
    duration_s: float | None = None
    max_errors: int | None = None
    warmup_requests: int = 0  # sent first, counted for crashes, left out of latency
    prompt_tokens: Distribution = field(default_factory=lambda: fixed(32))
    output_tokens: Distribution = field(default_factory=lambda: fixed(32))
    prompt_set: str | None = None  # data/prompts/<name>.txt, or a file's path
    shared_prefix_tokens: int = 0
    turns: int = 1  # turns of a conversation, each with the answers before it in its prompt
    faults: tuple[Fault, ...] = ()
    answer_check: AnswerCheck = AnswerCheck.EXACT
    timeout_s: float = 30.0
    processes: int = 1
    seed: int = 0

    def __init__(
        self,
        *,
        protocol: Protocol | str = Protocol.HTTP_GENERATE,
        arrivals: Arrivals | ArrivalKind | str | None = None,
        concurrency: int | None = None,
        rate: float | None = None,
        burstiness_cv: float | None = None,
        requests: int | None = None,
        duration_s: float | None = None,
        max_errors: int | None = None,
        warmup_requests: int = 0,
        prompt_tokens: Distribution | float | str = 32,
        output_tokens: Distribution | float | str = 32,
        prompt_set: str | None = None,
        shared_prefix_tokens: int = 0,
        turns: int = 1,
        faults: Iterable[Fault] = (),
        disconnect: float | None = None,
        cancel: float | None = None,
        deadline_s: Distribution | float | str | None = None,
        answer_check: AnswerCheck | str = AnswerCheck.EXACT,
        timeout_s: float = 30.0,
        processes: int = 1,
        seed: int = 0,
        **unknown: Never,
    ) -> None:
        check_names(unknown, WORDS)
        base = arrivals if isinstance(arrivals, Arrivals) else Arrivals()
        kind = None if isinstance(arrivals, Arrivals) else arrivals
        if requests is None and duration_s is None:
            requests = REQUESTS
        values: dict[str, object] = {
            "protocol": as_member("protocol", protocol, Protocol),
            "arrivals": _arrivals(base, kind, concurrency, rate, burstiness_cv),
            "requests": _maybe("requests", requests, low=1, whole=True),
            "duration_s": _maybe("duration_s", duration_s, low=0, above=True),
            "max_errors": _maybe("max_errors", max_errors, low=1, whole=True),
            "warmup_requests": as_number("warmup_requests", warmup_requests, low=0, whole=True),
            "prompt_tokens": as_distribution("prompt_tokens", prompt_tokens, low=1),
            "output_tokens": as_distribution("output_tokens", output_tokens, low=1),
            "prompt_set": None if prompt_set is None else str(prompt_set),
            "shared_prefix_tokens": as_number(
                "shared_prefix_tokens", shared_prefix_tokens, low=0, whole=True
            ),
            "turns": as_number("turns", turns, low=1, whole=True),
            "faults": _faults(tuple(faults), disconnect, cancel, deadline_s),
            "answer_check": as_member("answer_check", answer_check, AnswerCheck),
            "timeout_s": as_number("timeout_s", timeout_s, low=0, above=True),
            "processes": as_number("processes", processes, low=1, whole=True),
            "seed": seed,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self.__post_init__()

    def __post_init__(self) -> None:
        if self.requests is None and self.duration_s is None:
            raise SpecError(
                "a workload without an end", "requests or duration_s", "set at least one"
            )
        for name in ("requests", "duration_s", "max_errors", "timeout_s"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise SpecError(f"{name} = {value}", "more than 0", f"raise {name}")
        for name in ("turns", "processes"):
            if getattr(self, name) < 1:
                raise SpecError(f"{name} = {getattr(self, name)}", "1 or more", f"raise {name}")

    @property
    def concurrency(self) -> int | None:
        """Closed loop: clients; open loop: most in flight (None: no cap)."""
        return self.arrivals.concurrency

    @property
    def rate(self) -> float | None:
        """Requests a second of an open loop; None: a closed loop, or a trace."""
        return None if self.is_closed_loop else self.arrivals.rate_per_s

    @property
    def is_closed_loop(self) -> bool:
        return self.arrivals.kind is ArrivalKind.CLOSED

    def share(self, kind: FaultKind) -> float:
        """Of the requests, those that get this fault on purpose, 0 to 1."""
        return sum(fault.fraction for fault in self.faults if fault.kind is kind)

    def changed(self, **words: Any) -> Workload:
        """This workload with other values for some of its words (kit.study.grid.FIELDS).

        Raises:
            SpecError: no such word or value, or values that do not go together.

        Example:
            >>> Workload(arrivals="gamma", rate=2, burstiness_cv=3).changed(rate=20).rate
            20.0
        """
        check_names(words, WORDS)
        if not isinstance(words.get("arrivals"), Arrivals):
            names = ("arrivals", "concurrency", "rate", "burstiness_cv")
            given = [words.pop(name, None) for name in names]
            if any(value is not None for value in given):
                words["arrivals"] = _arrivals(self.arrivals, *given)
        if "duration_s" in words and "requests" not in words:
            words["requests"] = None
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        return Workload(**(own | words))


#: The arguments of Workload.
WORDS: Final = tuple(name for name in signature(Workload).parameters if name != "unknown")


def _maybe(argument: str, value: object, **limits: Any) -> float | None:
    return None if value is None else as_number(argument, value, **limits)


def _arrivals(
    base: Arrivals, kind: object, concurrency: object, rate: object, burstiness_cv: object
) -> Arrivals:
    """`base` with what was given; a rate makes an open loop of a closed one."""
    clients = base.concurrency
    if concurrency is not None:
        clients = int(as_number("concurrency", concurrency, low=1, whole=True))
    per_s = base.rate_per_s
    if rate is not None:
        per_s = as_number("rate", rate, low=0, above=True)
    cv = base.burstiness_cv
    if burstiness_cv is not None:
        cv = as_number("burstiness_cv", burstiness_cv, low=0, above=True)
    was_closed = base.kind is ArrivalKind.CLOSED
    if kind is not None:
        new = as_member("arrivals", kind, ArrivalKind)
    elif rate is not None and base.kind in (ArrivalKind.CLOSED, ArrivalKind.TRACE):
        new = ArrivalKind.POISSON if burstiness_cv is None else ArrivalKind.GAMMA
    else:
        new = base.kind
    if new is ArrivalKind.CLOSED and rate is not None:
        raise SpecError(
            f"rate = {rate!r} with arrivals = 'closed'",
            "either concurrency (closed loop) or rate (open loop)",
            "leave out rate, or take arrivals 'poisson', 'constant' or 'gamma'",
        )
    if burstiness_cv is not None and new is not ArrivalKind.GAMMA:
        raise SpecError(
            f"burstiness_cv = {burstiness_cv!r} with arrivals = {new.value!r}",
            "arrivals = 'gamma' and a rate",
            "add arrivals='gamma' and rate, or leave out burstiness_cv",
        )
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
        rate_per_s=per_s,
        burstiness_cv=cv,
        steps=() if changed_loop else base.steps,
        trace_file=base.trace_file if new is ArrivalKind.TRACE else None,
    )


def _faults(
    base: tuple[Fault, ...], disconnect: object, cancel: object, deadline_s: object
) -> tuple[Fault, ...]:
    """`base` with other shares of clients that leave, and another deadline."""
    faults = list(base)
    shares = ((FaultKind.DISCONNECT, disconnect), (FaultKind.CANCEL, cancel))
    for kind, value in shares:
        if value is not None:
            share = as_number(kind.value, value, low=0, high=1)
            old = next((f for f in faults if f.kind is kind), Fault(kind=kind, after=LEAVES_AFTER))
            _put(faults, replace(old, fraction=share))
    if deadline_s is not None:
        deadline = as_distribution("deadline_s", deadline_s)
        kind = FaultKind.DEADLINE
        _put(
            faults,
            replace(
                next((f for f in faults if f.kind is kind), Fault(kind=kind)), deadline_s=deadline
            ),
        )
    total = sum(fault.fraction for fault in faults)
    if total > 1 + 1e-9:
        raise SpecError(
            f"faults on {total:.0%} of the requests (disconnect, cancel and deadline_s together)",
            "at most all of them: a request has at most one fault",
            "lower the shares",
        )
    return tuple(faults)


def _put(faults: list[Fault], fault: Fault) -> None:
    """The fault in the place of those of its kind; none at a share of 0."""
    places = [i for i, other in enumerate(faults) if other.kind is fault.kind]
    place = places[0] if places else len(faults)
    faults[:] = [other for other in faults if other.kind is not fault.kind]
    if fault.fraction > 0:
        faults.insert(place, fault)
