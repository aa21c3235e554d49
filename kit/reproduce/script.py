"""Renders one standalone script that sends the traffic of a trial.

The script holds a model repository of its own: a Python model of some forty lines that does only
what exercises the fault, in place of the kit's engine. It needs Python's standard library, and
tritonclient[grpc] where the traffic is gRPC.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from kit.errors import ExportError
from kit.load.traffic.faults import DEFAULT_DEADLINE_S
from kit.reproduce.candidates import TYPICAL_WORDS
from kit.study.releases import get_release
from kit.study.scenarios import get_scenario
from kit.study.spec import (
    ArrivalKind,
    Distribution,
    DistributionKind,
    Fault,
    FaultKind,
    Protocol,
    ServerKind,
    StreamErrors,
    TrialSpec,
    Workload,
    fixed,
)


def is_drawn(expression: str) -> bool:
    return "draw." in expression


def prompt_text(distribution: Distribution, prefix: int) -> str:
    """The prompt of request `number`: its number, and as many words as it is to have."""
    unique = 'f"[{number}]'
    if distribution == Distribution():  # the prompts of a set, as they are
        distribution = fixed(TYPICAL_WORDS)
    if distribution.kind is DistributionKind.FIXED:
        count = max(0, round(distribution.mean) - 1 + prefix)
        return f'{unique}" + " word" * {count}' if count else f'{unique}"'
    words = drawn_length(distribution, 1)
    more = f"+ {prefix - 1}" if prefix else "- 1"
    return f'{unique}" + " word" * ({words} {more})'


def drawn_length(distribution: Distribution, least: int) -> str:
    """A whole number, `least` at least."""
    if distribution.kind is DistributionKind.FIXED:
        return str(max(least, round(distribution.mean)))
    if distribution.kind is DistributionKind.UNIFORM:
        low, high = math.ceil(distribution.low or 0), math.floor(distribution.high or 0)
        return f"draw.randint({max(least, low)}, {max(least, low, high)})"
    low = max(least, round(distribution.low or 0))
    clipped = f"max({low}, round({_real(distribution)}))"
    return clipped if distribution.high is None else f"min({round(distribution.high)}, {clipped})"


def drawn_seconds(distribution: Distribution | None) -> str:
    """A time above 0; None is a client's usual impatience."""
    if distribution is None:
        return f"{DEFAULT_DEADLINE_S:g}"
    if distribution.kind is DistributionKind.FIXED:
        return f"{distribution.mean:g}"
    low = max(1e-6, distribution.low or 0.0)
    clipped = f"max({low:g}, {_real(distribution)})"
    return clipped if distribution.high is None else f"min({distribution.high:g}, {clipped})"


def _real(distribution: Distribution) -> str:
    mean, stdev = distribution.mean, distribution.stdev
    match distribution.kind:
        case DistributionKind.UNIFORM:
            return f"draw.uniform({distribution.low:g}, {distribution.high:g})"
        case DistributionKind.NORMAL:
            return f"draw.gauss({mean:g}, {stdev:g})"
        case DistributionKind.LOGNORMAL if mean > 0:
            variance = math.log1p((stdev / mean) ** 2)
            center = math.log(mean) - variance / 2
            return f"draw.lognormvariate({center:.6g}, {math.sqrt(variance):.6g})"
        case DistributionKind.GEOMETRIC if mean > 1:
            return f"1 + int(draw.expovariate({-math.log1p(-1 / mean):.6g}))"
    return f"{mean:g}"


TEMPLATES = Path(__file__).with_name("templates")
MODEL, ENGINE = "crash", "engine"
HTTP_PORT, GRPC_PORT = 8000, 8001
#: What the script's model says where an answer is to be an error, so that its client knows it.
MODEL_ERROR = "an error, as asked"
#: A request that has had no answer for so long counts as never answered.
LONGEST_WAIT_S = 10.0
_EXPORTED = frozenset(protocol for protocol in Protocol if not protocol.is_openai)
#: The models of the kit whose place the script's own can take.
_ENGINES = frozenset({"simulated", "vllm"})
_MODELS = _ENGINES | {"unary", "bls"}
_UNARY_LATENCY_MS = "5.0"  # the default of the kit's model of that name
_WORDS = {
    Protocol.HTTP_GENERATE: "HTTP generate",
    Protocol.HTTP_GENERATE_STREAM: "HTTP generate_stream",
    Protocol.HTTP_INFER: "HTTP infer",
    Protocol.GRPC_STREAM: "gRPC streams",
    Protocol.GRPC_INFER: "unary gRPC",
}


def render_script(trial: TrialSpec, title: str) -> str:
    """The script; `title` is its first line, what it shows.

    Raises:
        ExportError: no script can be written for this traffic or model.
    """
    check_exportable(trial)
    workload = trial.workload
    plan = _Plan.of(workload)
    page = templates().get_template("grpc.py.j2" if is_grpc(trial) else "http.py.j2")
    return page.render(
        title=title.replace("\\", "/").replace('"', "'"),  # it stands in a docstring
        serve=serve_commands(trial),
        url=server_url(trial),
        traffic=say_traffic(trial),
        needs=needs(trial),
        clients=workload.arrivals.concurrency,
        requests=workload.requests,
        timeout_s=min(workload.timeout_s, LONGEST_WAIT_S),
        seed=workload.seed,
        files=_model_repository(trial),
        model=MODEL,
        verb="generate_stream" if workload.protocol.is_streamed else "generate",
        infer=workload.protocol is Protocol.HTTP_INFER,
        streams=workload.protocol.is_streamed,
        by_status=workload.stream_errors is StreamErrors.STATUS,
        error=MODEL_ERROR,
        plan=plan,
    )


def check_exportable(trial: TrialSpec) -> None:
    """Refuse a trial whose traffic or model no script can be written for.

    Raises:
        ExportError: with what stands in the way.
    """
    for why in _obstacles(trial):
        raise ExportError(
            f"{trial.scenario} with {why}, as a standalone script",
            "a closed loop over HTTP or gRPC of clients who may leave or give up",
            "shrink the trial first, which takes out what the crash does not need",
        )


def _obstacles(trial: TrialSpec) -> Iterator[str]:
    workload = trial.workload
    if trial.server.kind is ServerKind.HYBRID:
        yield f"a server that is no release ({trial.server.label})"
    if trial.model not in _MODELS:
        yield f"the model {trial.model}"
    if workload.protocol not in _EXPORTED:
        yield f"the protocol {workload.protocol}"
    if workload.requests is None:
        yield "a duration in place of a number of requests"
    if workload.arrivals.kind is not ArrivalKind.CLOSED or workload.arrivals.steps:
        yield "arrivals that follow the clock"
    if workload.turns > 1:
        yield "conversations of several turns"
    if workload.trace is not None:
        yield "the requests of a traffic file"
    if workload.tokenizer is not None:
        yield "lengths in tokens of a tokenizer file"
    if len(workload.faults) > 1:
        yield "several kinds of faults"
    for fault in workload.faults:
        if not (fault.kind.is_leaving or fault.kind is FaultKind.DEADLINE):
            yield f"the fault {fault.kind}"
        if fault.unit == "bytes" and fault.after is not None:
            yield "clients that leave after a number of bytes"
        if workload.protocol is Protocol.GRPC_INFER and fault.kind.is_leaving:
            yield "unary gRPC calls that are cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What a request is made of, as Python expressions."""

    prompt: str
    tokens: str
    random: bool  # an expression draws
    leaves: str | None = None  # tokens that the client stays for
    leaves_at_once: bool = False  # where the protocol shows no tokens
    disconnects: bool = False  # it leaves by closing its connection, also over gRPC
    stays_s: str | None = None  # how long the client has patience

    @classmethod
    def of(cls, workload: Workload) -> _Plan:
        fault = workload.faults[0] if workload.faults else None
        prompt = prompt_text(workload.prompt_tokens, workload.shared_prefix_tokens)
        tokens = drawn_length(workload.output_tokens, 1)
        leaves, stays_s = (None, None) if fault is None else _fault(fault)
        return cls(
            prompt=prompt,
            tokens=tokens,
            random=any(map(is_drawn, filter(None, (prompt, tokens, leaves, stays_s)))),
            leaves=leaves,
            leaves_at_once=leaves is not None and not workload.protocol.is_streamed,
            disconnects=fault is not None and fault.kind is FaultKind.DISCONNECT,
            stays_s=stays_s,
        )

    @property
    def names(self) -> str:
        """What `plan` of the script returns."""
        extra = ", leave_after" if self.leaves else ", stay_s" if self.stays_s else ""
        return f"prompt, tokens{extra}"


def _fault(fault: Fault) -> tuple[str | None, str | None]:
    """(tokens that it leaves after, seconds that it stays), of which one is None."""
    some = "" if fault.fraction >= 1 else f" if draw.random() < {fault.fraction:g} else None"
    if fault.kind is FaultKind.DEADLINE or fault.deadline_s is not None:
        return None, drawn_seconds(fault.deadline_s) + some
    return ("0" if fault.after is None else drawn_length(fault.after, 0)) + some, None


def _model_repository(trial: TrialSpec) -> dict[str, str]:
    """The files of the repository that the script writes, by path."""
    files = _model(trial, MODEL)
    if trial.model == "bls":
        files |= _model(trial, ENGINE)
    return files


def _model(trial: TrialSpec, name: str) -> dict[str, str]:
    pages = templates()
    kind = "bls" if trial.model == "bls" and name == MODEL else None
    kind = kind or ("unary" if trial.model == "unary" else "stream")
    settings = {
        "decoupled": kind != "unary",
        "instances": 4 if kind == "unary" else 1,
        "streams": trial.workload.protocol.is_streamed,
        "engine": ENGINE,
        "error": MODEL_ERROR,
        "latency_s": float(trial.parameters.get("latency_ms", _UNARY_LATENCY_MS)) / 1e3,
        "token_s": float(trial.parameters.get("decode_step_ms", trial.engine.decode_step_ms)) / 1e3,
        "ways": _Ways.of(trial),
        "about": _ABOUT.get(kind) or _Ways.of(trial).about,
    }
    return {
        f"{name}/config.pbtxt": pages.get_template("config.pbtxt.j2").render(settings),
        f"{name}/1/model.py": pages.get_template(f"model_{kind}.py.j2").render(settings),
    }


_ABOUT = {
    "unary": "One response a request, after a fixed time.",
    "bls": "Passes each request on to another model and its responses back.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ways:
    """What the model does beyond answering: the ways of kit/servers/models that a fault needs."""

    watched: bool
    after_final: bool
    dies_at: int
    error_every: int
    ends_at_error: bool

    @classmethod
    def of(cls, trial: TrialSpec) -> _Ways:
        check = trial.parameters.get("cancel_check")
        return cls(
            watched=check == "second-thread",
            after_final=check == "after-final",
            dies_at=int(trial.parameters.get("exit_at_request", "0")),
            error_every=int(trial.parameters.get("error_every", "0")),
            ends_at_error=trial.parameters.get("after_error", "end") == "end",
        )

    @property
    def about(self) -> str:
        if self.watched:
            return "A second thread asks of all live requests whether they were cancelled."
        if self.after_final:
            return "Asks whether a request was cancelled when its final response is sent."
        if self.error_every:
            how = "nothing but" if self.ends_at_error else "an answer after"
            return f"Every {self.error_every}th request gets {how} an error."
        if self.dies_at:
            return f"The model's process ends at request {self.dies_at}."
        return "Answers token by token; each request in a thread of its own."


def is_grpc(trial: TrialSpec) -> bool:
    return trial.workload.protocol.is_grpc


def server_url(trial: TrialSpec) -> str:
    """Where a container's server listens, for this trial's protocol."""
    if is_grpc(trial):
        return f"localhost:{GRPC_PORT}"
    return f"http://localhost:{HTTP_PORT}"


def serve_commands(trial: TrialSpec) -> list[str]:
    """The command line that serves the script's model with the official container."""
    lines = [
        f"docker run --rm --init -p {HTTP_PORT}:{HTTP_PORT} -p {GRPC_PORT}:{GRPC_PORT}",
        '    --shm-size=1g -v "$PWD/models:/models"',
        f"    {get_release(trial.release).image}",
        "    tritonserver --model-repository=/models",
        *(f"        {shlex.quote(one)}" for one in get_scenario(trial.scenario).extra_args),
    ]
    return [*(f"{line} \\" for line in lines[:-1]), lines[-1]]


def needs(trial: TrialSpec) -> str:
    """What has to be there to run the script."""
    return "Python 3.10 or newer" + (" and tritonclient[grpc]" if is_grpc(trial) else "")


def model_about(trial: TrialSpec) -> str:
    """What the script's model does, in a sentence."""
    return _ABOUT.get(trial.model) or _Ways.of(trial).about


def say_traffic(trial: TrialSpec) -> str:
    """The traffic in a sentence."""
    workload = trial.workload
    count, clients = workload.requests or 0, workload.arrivals.concurrency or 1
    requests = "1 request" if count == 1 else f"{count} requests"
    status = workload.stream_errors is StreamErrors.STATUS
    header = " with the header triton_grpc_error" if status else ""
    who = "1 client sends" if clients == 1 else f"{clients} clients send"
    order = ", one after the other" if clients == 1 and count > 1 else ""
    return (
        f"{who} {requests} over {_WORDS[workload.protocol]}{header}{order}{_say_fault(workload)}."
    )


def _say_fault(workload: Workload) -> str:
    if not workload.faults:
        return ""
    fault = workload.faults[0]
    who = "each" if fault.fraction >= 1 else f"{fault.fraction:.0%}"
    if fault.kind is FaultKind.DEADLINE or fault.deadline_s is not None:
        return f"; {who} with a deadline of the client's"
    how = "is cancelled" if fault.kind is FaultKind.CANCEL else "is left by its client"
    return f"; {who} {how} before the end"


def templates() -> Environment:
    """The texts that are filled in here and in the report."""
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  it writes Python, of specs that were checked
    )
