"""What a server, a trial and a study are; plain frozen data that JSON holds unchanged."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import urlsplit

from kit.errors import SpecError
from kit.study.arguments import as_member
from kit.study.distribution import Distribution as Distribution
from kit.study.distribution import DistributionKind as DistributionKind
from kit.study.distribution import fixed as fixed
from kit.study.distribution import uniform as uniform
from kit.study.grid import as_grid
from kit.study.limit import LimitSearch
from kit.study.sequential import TrialTest
from kit.study.soak import SoakClaim
from kit.study.traffic_field import GridValue
from kit.study.workload import AnswerCheck as AnswerCheck
from kit.study.workload import ArrivalKind as ArrivalKind
from kit.study.workload import Arrivals as Arrivals
from kit.study.workload import Client as Client
from kit.study.workload import Fault as Fault
from kit.study.workload import FaultKind as FaultKind
from kit.study.workload import Protocol as Protocol
from kit.study.workload import Step as Step
from kit.study.workload import StreamErrors as StreamErrors
from kit.study.workload import Workload as Workload

#: The scenario of trials whose traffic is the user's own workload.
OWN_WORKLOAD = "workload"


class EngineKind(StrEnum):
    SIMULATED = "simulated"
    VLLM_CPU = "vllm-cpu"
    VLLM = "vllm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What generates tokens behind Triton, and how large its KV cache is.

    Only the simulated engine reads the two rates; a real engine is as fast as it is. The last four
    are of vLLM on GPUs ("vllm") alone. Sizes of 0 are as vLLM chooses.
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
    model: str | None = None  # a hub's name or a folder; None = the kit's tiny random one
    gpus: str | None = None  # indexes or UUIDs, "0,1"; None = all that there are
    tensor_parallel: int = 1  # GPUs that one model is spread over
    arguments: str = "{}"  # more of vLLM's engine arguments, a JSON object

    @property
    def has_known_cache(self) -> bool:
        """Its KV cache and its scheduler have the sizes given here, and not those vLLM chooses."""
        return min(self.blocks, self.block_size_tokens, self.max_sequences) > 0


class ServerKind(StrEnum):
    EMBEDDED = "embedded"  # the real binary from a wheel, on this machine
    CONTAINER = "container"  # an image, through a container engine
    ATTACHED = "attached"  # somebody else's, running already
    HYBRID = "hybrid"  # frontends of one release on the core of another; never a release


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSpec:
    """Which server a trial is about; which fields it needs depends on `kind`.

    Example:
        >>> ServerSpec(release="23.10").label
        '23.10'
        >>> ServerSpec(kind="attached", url="https://llm.example", model="llama").label
        'llm.example'
        >>> ServerSpec(kind="hybrid", release="24.10", frontends="26.09").label
        'frontend 26.09 on core 24.10'

    Raises:
        SpecError: no such kind, or what that kind needs is missing.
    """

    kind: ServerKind = ServerKind.EMBEDDED
    release: str | None = None  # embedded, container; hybrid: of the core
    frontends: str | None = None  # hybrid: release that the frontends come from
    image: str | None = None  # container: an image other than the release's own
    url: str | None = None  # attached: http, https, grpc or grpcs
    metrics_url: str | None = None  # attached: where its metrics are, if not at port 8002
    model: str | None = None  # container: what it serves; attached: the model's name there
    gpus: str | None = None  # container: "all", "0,1"; None: no GPU
    host: str | None = None  # container: the machine it runs on, "ssh://me@gpu1"; None: this one
    memory: str | None = None  # container: its limit, "8g"; None: none
    shm: str | None = None  # container: shared memory, "2g"; None: 1 GiB
    ulimits: tuple[str, ...] = ()  # container: "memlock=-1", "nofile=1024:4096"
    server_args: tuple[str, ...] = ()  # container: of Triton, after the kit's own
    engine_args: str | None = None  # container with a model: vLLM's arguments, a JSON object

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", as_member("kind", self.kind, ServerKind))
        given: object = self.release
        if given is not None and not isinstance(given, str):
            raise SpecError(
                f"release = {given!r}, a {type(given).__name__}",
                'text such as "24.10": a number loses the last 0 of it',
                "put it in quotes",
            )
        missing = [name for name in _NEEDS[self.kind] if not getattr(self, name)]
        if self.kind is ServerKind.CONTAINER and not (self.release or self.image):
            missing.append("release or image")
        if missing:
            raise SpecError(
                f"a server of kind {self.kind.value!r} without {' and '.join(missing)}",
                f"{', '.join(_NEEDS[self.kind]) or 'release or image'}",
                f"give {missing[0]}",
            )

    @property
    def label(self) -> str:
        """What frames and pictures call it, in the column `release`."""
        if self.kind is ServerKind.ATTACHED:
            return (urlsplit(self.url).netloc.rpartition("@")[2] if self.url else "") or "attached"
        if self.kind is ServerKind.HYBRID:
            return f"frontend {self.frontends} on core {self.release}"
        return self.release or self.image or ""


#: Of a load that an older version of the kit recorded, the address is not known.
_NEEDS: dict[ServerKind, tuple[str, ...]] = {
    ServerKind.EMBEDDED: ("release",),
    ServerKind.CONTAINER: (),
    ServerKind.ATTACHED: ("model",),
    ServerKind.HYBRID: ("release", "frontends"),
}


def embedded(*releases: str) -> tuple[ServerSpec, ...]:
    """Servers of these releases on this machine, from their wheels."""
    return tuple(ServerSpec(release=release) for release in releases)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a server listens. Ports that it does not have are None."""

    host: str = "127.0.0.1"
    http_port: int | None = None
    grpc_port: int | None = None
    metrics_port: int | None = None
    metrics_host: str | None = None  # None: as host
    tls: bool = False


#: Letters and digits of any language, and what stands between them; no path, no dot in front.
_NAME = re.compile(r"[^\W_][\w .,+=@()-]*")
_LONGEST_NAME_BYTES = 150
#: Of a cell; a slip of the hand must not plan a year of trials.
MOST_REPEATS = 10_000


def check_name(what: str, name: str) -> None:
    """Refuse a name that is no good as the name of a folder.

    Raises:
        SpecError: it is empty, too long, a path, or has characters that shells, terminals, HTML
            or other systems' folders read as their own.
    """
    if not _NAME.fullmatch(name) or len(name.encode()) > _LONGEST_NAME_BYTES:
        raise SpecError(
            f"{what} {name[:60]!r}",
            f"letters, digits, spaces and _.,+=@()-, a letter or digit first, at most "
            f"{_LONGEST_NAME_BYTES} bytes",
            "choose another name; where a study goes, its folder says",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialSpec:
    """One server life under one workload; everything needed to run it again."""

    trial_id: str
    server: ServerSpec
    scenario: str  # OWN_WORKLOAD: the traffic is of no scenario
    model: str  # a folder of kit/servers/models; attached: the model's name on that server
    parameters: dict[str, str] = field(default_factory=dict)  # of the model's configuration
    engine: Engine = field(default_factory=Engine)
    workload: Workload = field(default_factory=Workload)
    repeat: int = 0
    ready_timeout_s: float = 60.0
    timeout_s: float = 120.0  # of the load; the verdict is then by what was seen
    hang_after_s: float = 10.0  # no byte of an answer came for so long, although some wait
    sample_interval_s: float = 0.25
    schema: int = 2

    @property
    def release(self) -> str:
        """The server's label."""
        return self.server.label

    def __post_init__(self) -> None:
        check_name("a trial's name", self.trial_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySpec:
    """Trials over servers x engines x scenarios (or one workload) x traffic, with repeats.

    Example:
        >>> spec = StudySpec(
        ...     name="mine",
        ...     servers=embedded("23.10", "24.05"),
        ...     workload=Workload(protocol="grpc-stream"),
        ...     grid={"rate": (5, 20)},
        ... )
        >>> spec.releases
        ('23.10', '24.05')

    Raises:
        SpecError: it has nothing to run, both scenarios and a workload, or a wrong grid.
    """

    name: str
    servers: tuple[ServerSpec, ...]
    engines: tuple[Engine, ...] = (Engine(),)
    scenarios: tuple[str, ...] = ()
    workload: Workload | None = None  # in place of scenarios
    grid: dict[str, tuple[GridValue, ...]] = field(default_factory=dict)  # kit.study.grid
    requests: int | None = None  # None: as the scenario or workload says
    repeats: int = 3
    sequential: TrialTest | None = None  # stop a cell once decided; `repeats` is then the most
    least_repeats: int = 1  # of a cell that a sequential test has decided sooner
    limit: LimitSearch | None = None  # look for the load at which its goals break
    soak: SoakClaim | None = None  # one server life, long enough for this claim
    seed: int = 0
    #: Release: why it could not be run. It is the same study with it and without.
    left_out: dict[str, str] = field(default_factory=dict, compare=False)
    schema: int = 2

    def __post_init__(self) -> None:
        check_name("a study's name", self.name)
        for name in ("servers", "engines"):
            if not getattr(self, name):
                raise SpecError(f"a study without {name}", "at least one", f"give {name}")
        if bool(self.scenarios) == (self.workload is not None):
            raise SpecError(
                "a study with both scenarios and a workload"
                if self.scenarios
                else "a study with neither scenarios nor a workload",
                "one of the two: a scenario brings its own traffic",
                "give scenarios or workload",
            )
        object.__setattr__(self, "grid", as_grid(self.grid))
        if self.requests is not None and (self.requests < 1 or "requests" in self.grid):
            raise SpecError(
                f"requests = {self.requests}", "1 or more, once", "correct or leave out requests"
            )
        if not 1 <= self.repeats <= MOST_REPEATS:
            raise SpecError(
                f"{self.repeats} repeats", f"1 to {MOST_REPEATS}", "choose a number between them"
            )
        if not 1 <= self.least_repeats <= self.repeats:
            raise SpecError(
                f"at least {self.least_repeats} and at most {self.repeats} trials a cell",
                "1 <= least_repeats <= repeats",
                "lower least_repeats or raise repeats",
            )

    @property
    def releases(self) -> tuple[str, ...]:
        """The labels of its servers, each once."""
        return tuple(dict.fromkeys(server.label for server in self.servers))

    @property
    def has_load_hosts(self) -> bool:
        """The load comes from hosts of a cluster, and not from where its trials run."""
        own = self.workload is not None and self.workload.load_hosts is not None
        return own or "load_hosts" in self.grid

    @property
    def shares_a_server(self) -> bool:
        """Its trials go to servers that run already: two at a time would be each other's traffic,
        so they run one after the other."""
        return any(server.kind is ServerKind.ATTACHED for server in self.servers)

    @property
    def concurrencies(self) -> tuple[int, ...]:
        """Of its grid; (): as each scenario or the workload says."""
        return tuple(int(str(value)) for value in self.grid.get("concurrency", ()))
