"""What a study, a trial and its traffic are; plain frozen data that JSON holds unchanged."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from kit.errors import SpecError
from kit.study.sequential import TrialTest


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
    def is_openai(self) -> bool:
        return self.value.startswith("openai-")


class DistributionKind(StrEnum):
    FIXED = "fixed"  # always `mean`
    UNIFORM = "uniform"  # low..high, both included
    NORMAL = "normal"  # mean, stdev; clipped to low..high
    LOGNORMAL = "lognormal"  # mean and stdev of the values themselves; clipped to low..high
    GEOMETRIC = "geometric"  # mean; clipped to low..high


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """A random length or time; which numbers it needs depends on `kind`."""

    kind: DistributionKind = DistributionKind.FIXED
    mean: float = 0.0
    stdev: float = 0.0
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if self.kind is DistributionKind.UNIFORM and (self.low is None or self.high is None):
            raise SpecError(
                f"a uniform distribution with low={self.low}, high={self.high}",
                "both bounds",
                "give low and high",
            )
        if self.low is not None and self.high is not None and self.low > self.high:
            raise SpecError(
                f"a distribution from {self.low} to {self.high}",
                "low <= high",
                "swap the bounds",
            )


def fixed(value: float) -> Distribution:
    """The distribution that always gives `value`."""
    return Distribution(kind=DistributionKind.FIXED, mean=value)


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
                "set rate_per_s",
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What one trial sends: the shape of the traffic, not where it goes.

    The same workload (seed included) is the same traffic, request by request.
    """

    protocol: Protocol = Protocol.HTTP_GENERATE
    arrivals: Arrivals = field(default_factory=Arrivals)
    requests: int | None = 200  # stop rules: whichever comes first; None = no such limit
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


class EngineKind(StrEnum):
    SIMULATED = "simulated"
    VLLM_CPU = "vllm-cpu"
    VLLM = "vllm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What generates tokens behind Triton, and how large its KV cache is.

    Only the simulated engine reads the two rates; a real engine is as fast as it is.
    """

    kind: EngineKind = EngineKind.SIMULATED
    version: str | None = None  # of vLLM; None = simulated, or whatever the server has
    block_size_tokens: int = 16
    blocks: int = 512
    max_sequences: int = 32
    max_model_tokens: int = 2048
    prefill_tokens_per_s: float = 20_000.0
    decode_step_ms: float = 4.0
    log_stats: bool = True
    log_interval_s: float = 1.0
    export_metrics: bool = True


class ServerKind(StrEnum):
    EMBEDDED = "embedded"
    CONTAINER = "container"
    ATTACHED = "attached"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a server listens. Ports that it does not have are None."""

    host: str = "127.0.0.1"
    http_port: int | None = None
    grpc_port: int | None = None
    metrics_port: int | None = None
    tls: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialSpec:
    """One server life under one workload; everything needed to run it again."""

    trial_id: str
    release: str
    scenario: str
    model: str  # a folder of kit/servers/models
    parameters: dict[str, str] = field(default_factory=dict)  # of the model's configuration
    engine: Engine = field(default_factory=Engine)
    workload: Workload = field(default_factory=Workload)
    server_kind: ServerKind = ServerKind.EMBEDDED
    repeat: int = 0
    ready_timeout_s: float = 60.0
    timeout_s: float = 120.0  # of the load; the verdict is then by what was seen
    hang_after_s: float = 10.0  # no byte of an answer came for so long, although some wait
    sample_interval_s: float = 0.25
    schema: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySpec:
    """Trials over releases x scenarios x engines x concurrencies, with repeats."""

    name: str
    releases: tuple[str, ...]
    scenarios: tuple[str, ...]
    engines: tuple[Engine, ...] = (Engine(),)
    concurrencies: tuple[int, ...] = (16,)  # (): as each scenario says
    requests: int | None = None  # None: as the scenario says
    repeats: int = 3
    sequential: TrialTest | None = None  # stop a cell once decided; `repeats` is then the most
    least_repeats: int = 1  # of a cell that a sequential test has decided sooner
    seed: int = 0
    server_kind: ServerKind = ServerKind.EMBEDDED
    schema: int = 1

    def __post_init__(self) -> None:
        for name in ("releases", "scenarios", "engines"):
            if not getattr(self, name):
                raise SpecError(f"a study without {name}", "at least one", f"give {name}")
        if any(concurrency < 1 for concurrency in self.concurrencies):
            raise SpecError(
                f"concurrencies {self.concurrencies}", "1 or more each", "give at least one client"
            )
        if self.repeats < 1:
            raise SpecError(f"{self.repeats} repeats", "1 or more", "raise repeats")
        if not 1 <= self.least_repeats <= self.repeats:
            raise SpecError(
                f"at least {self.least_repeats} and at most {self.repeats} trials a cell",
                "1 <= least <= most",
                "lower least_repeats or raise repeats",
            )
