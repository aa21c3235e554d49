"""What one trial sends (Workload), and the words for it: protocol, arrivals, lengths, faults.

Plain frozen data that JSON holds unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from inspect import signature
from os import PathLike
from typing import Any, Final, Never

from kit.errors import SpecError
from kit.study.arguments import as_member, as_number, check_names
from kit.study.arrivals import ArrivalKind as ArrivalKind
from kit.study.arrivals import Arrivals as Arrivals
from kit.study.arrivals import Step as Step
from kit.study.arrivals import changed_arrivals
from kit.study.distribution import Distribution, as_distribution, fixed, uniform
from kit.study.tokenizer_file import as_tokenizer
from kit.study.traces.pinned import pinned


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


class Client(StrEnum):
    """What sends gRPC requests; over HTTP it is the kit's own client in any case."""

    KIT = "kit"  # the kit's own HTTP/2
    GRPCIO = "grpcio"  # gRPC's own library: the reference


class StreamErrors(StrEnum):
    """How Triton tells a client of an error on a gRPC stream."""

    MESSAGE = "message"  # in a message; the stream goes on
    STATUS = "status"  # the stream ends with it: asked for by the header triton_grpc_error


#: After how many tokens a client leaves when nobody says: early, in the midst of the answer.
LEAVES_AFTER = uniform(1, 12)


#: Of a trial, when nobody says when it ends.
REQUESTS = 200
#: From so many failed requests on a share of them says more than chance does.
LEAST_ERRORS = 10


@dataclass(frozen=True, slots=True, kw_only=True, init=False)
class Workload:
    """What one trial sends: the shape of the traffic, not where it goes.

    The same workload (seed included) is the same traffic, request by request. Plain words and
    numbers do: a number of tokens is always that number, text such as "uniform(16,64)" a
    distribution. `rate` makes an open loop, in which `concurrency` is the most in flight. It ends
    after REQUESTS requests if neither `requests` nor `duration_s` is given.

    `trace` is a traffic file (kit.study.traces.read: Azure, BurstGPT, Mooncake, ShareGPT, OpenAI
    requests, perf_analyzer, a recorded trial): its lengths or prompts are sent, at its times if it
    has some and nothing else is said, `trace_speed` times as fast, `trace_lengths` times as long;
    all of it, if neither `requests` nor `duration_s` is given.

    `tokenizer` is the tokenizer.json of the model, or its folder: prompts are then so many tokens
    long, and answers are counted in tokens where the server does not say how many there are.
    Without it a word is taken for a token.

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
    max_error_fraction: float | None = None  # counts from LEAST_ERRORS failed requests on
    warmup_requests: int = 0  # sent first, counted for crashes, left out of latency
    prompt_tokens: Distribution = field(default_factory=lambda: fixed(32))
    output_tokens: Distribution = field(default_factory=lambda: fixed(32))
    prompt_set: str | None = None  # data/prompts/<name>.txt, or a file's path
    tokenizer: str | None = None  # a file, as kit.study.tokenizer_file names it
    shared_prefix_tokens: int = 0
    turns: int = 1  # turns of a conversation, each with the answers before it in its prompt
    faults: tuple[Fault, ...] = ()
    answer_check: AnswerCheck = AnswerCheck.EXACT
    timeout_s: float = 30.0
    processes: int = 1
    #: Hosts of a Dask cluster that send, `processes` on each; None: the trial's own machine.
    load_hosts: int | None = None
    #: Of gRPC requests. What was recorded before there was a choice was sent by grpcio.
    grpc_client: Client = Client.GRPCIO
    stream_errors: StreamErrors = StreamErrors.MESSAGE
    seed: int = 0

    def __init__(
        self,
        *,
        protocol: Protocol | str = Protocol.HTTP_GENERATE,
        arrivals: Arrivals | ArrivalKind | str | None = None,
        concurrency: int | None = None,
        rate: float | None = None,
        burstiness_cv: float | None = None,
        trace: str | PathLike[str] | None = None,
        trace_speed: float | None = None,
        trace_lengths: float | None = None,
        requests: int | None = None,
        duration_s: float | None = None,
        max_errors: int | None = None,
        max_error_fraction: float | None = None,
        warmup_requests: int = 0,
        prompt_tokens: Distribution | float | str = 32,
        output_tokens: Distribution | float | str = 32,
        prompt_set: str | None = None,
        tokenizer: str | PathLike[str] | None = None,
        shared_prefix_tokens: int = 0,
        turns: int = 1,
        faults: Iterable[Fault] = (),
        disconnect: float | None = None,
        cancel: float | None = None,
        deadline_s: Distribution | float | str | None = None,
        answer_check: AnswerCheck | str = AnswerCheck.EXACT,
        timeout_s: float = 30.0,
        processes: int = 1,
        load_hosts: int | None = None,
        grpc_client: Client | str = Client.GRPCIO,
        stream_errors: StreamErrors | str = StreamErrors.MESSAGE,
        seed: int = 0,
        **unknown: Never,
    ) -> None:
        check_names(unknown, WORDS)
        when = changed_arrivals(
            arrivals if isinstance(arrivals, Arrivals) else Arrivals(),
            arrivals=None if isinstance(arrivals, Arrivals) else arrivals,
            concurrency=concurrency,
            rate=rate,
            burstiness_cv=burstiness_cv,
            trace=trace,
            trace_speed=trace_speed,
            trace_lengths=trace_lengths,
        )
        if requests is None and duration_s is None:
            requests = REQUESTS if when.trace_file is None else pinned(when.trace_file).requests
        values: dict[str, object] = {
            "protocol": as_member("protocol", protocol, Protocol),
            "arrivals": when,
            "requests": _maybe("requests", requests, low=1, whole=True),
            "duration_s": _maybe("duration_s", duration_s, low=0, above=True),
            "max_errors": _maybe("max_errors", max_errors, low=1, whole=True),
            "max_error_fraction": _maybe(
                "max_error_fraction", max_error_fraction, low=0, high=1, above=True
            ),
            "warmup_requests": as_number("warmup_requests", warmup_requests, low=0, whole=True),
            "prompt_tokens": as_distribution("prompt_tokens", prompt_tokens, low=1),
            "output_tokens": as_distribution("output_tokens", output_tokens, low=1),
            "prompt_set": None if prompt_set is None else str(prompt_set),
            "tokenizer": None if tokenizer is None else as_tokenizer(tokenizer),
            "shared_prefix_tokens": as_number(
                "shared_prefix_tokens", shared_prefix_tokens, low=0, whole=True
            ),
            "turns": as_number("turns", turns, low=1, whole=True),
            "faults": _faults(tuple(faults), disconnect, cancel, deadline_s),
            "answer_check": as_member("answer_check", answer_check, AnswerCheck),
            "timeout_s": as_number("timeout_s", timeout_s, low=0, above=True),
            "processes": as_number("processes", processes, low=1, whole=True),
            "load_hosts": _maybe("load_hosts", load_hosts, low=1, whole=True),
            "grpc_client": as_member("grpc_client", grpc_client, Client),
            "stream_errors": as_member("stream_errors", stream_errors, StreamErrors),
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
        if self.turns > 1 and self.trace is not None:
            raise SpecError(
                f"turns = {self.turns} with a trace",
                "one of the two: a traffic file has its own conversations",
                "leave out turns or trace",
            )

    @property
    def concurrency(self) -> int | None:
        """Closed loop: clients; open loop: most in flight (None: no cap)."""
        return self.arrivals.concurrency

    @property
    def rate(self) -> float | None:
        """Requests a second of an open loop; None: a closed loop, or a trace."""
        return None if self.is_closed_loop else self.arrivals.rate_per_s

    @property
    def trace(self) -> str | None:
        """The traffic file, as kit.study.traces.pinned names it; None: there is none."""
        return self.arrivals.trace_file

    @property
    def quotes_answers(self) -> bool:
        """Later turns have the server's answers before them in their prompts."""
        return self.turns > 1 or (self.trace is not None and pinned(self.trace).quotes)

    @property
    def is_closed_loop(self) -> bool:
        return self.arrivals.kind is ArrivalKind.CLOSED

    @property
    def workers(self) -> int:
        """Processes that send, those of all hosts together."""
        return self.processes * (self.load_hosts or 1)

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
            given = {name: words.pop(name) for name in _OF_ARRIVALS if name in words}
            if any(value is not None for value in given.values()):
                words["arrivals"] = changed_arrivals(self.arrivals, **given)
            file = words["arrivals"].trace_file if given.get("trace") is not None else None
            if file is not None and not {"requests", "duration_s"} & words.keys():
                words |= {"requests": pinned(file).requests, "duration_s": None}
        if "duration_s" in words and "requests" not in words:
            words["requests"] = None
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        return Workload(**(own | words))


#: Those that say when requests are sent, and which.
_OF_ARRIVALS: Final = tuple(
    name for name in signature(changed_arrivals).parameters if name != "base"
)
#: The arguments of Workload.
WORDS: Final = tuple(name for name in signature(Workload).parameters if name != "unknown")


def _maybe(argument: str, value: object, **limits: Any) -> float | None:
    return None if value is None else as_number(argument, value, **limits)


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
