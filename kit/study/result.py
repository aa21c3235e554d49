"""How a request and a trial ended: outcomes, verdicts, crash signatures; plain frozen data."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from kit.study.load_hosts import LoadHost


class Outcome(StrEnum):
    """How one request ended."""

    OK = "ok"
    HTTP_ERROR = "http_error"  # the server answered with an error, over any protocol
    REFUSED = "refused"  # no connection could be made
    RESET = "reset"  # the connection broke while the server lived on
    TIMEOUT = "timeout"  # our own deadline passed without the whole answer
    MALFORMED = "malformed"  # the answer does not follow its protocol
    WRONG_ANSWER = "wrong_answer"  # whole, but not the answer to this prompt
    DISCONNECTED = "disconnected"  # by us, on purpose
    IN_FLIGHT = "in_flight"  # open when the server died

    @property
    def has_ended(self) -> bool:
        """True if the request ran to an end before the server died.

        These count towards the crash iteration. REFUSED and RESET got no answer, and the death
        cut IN_FLIGHT short.
        """
        return self not in (Outcome.REFUSED, Outcome.RESET, Outcome.IN_FLIGHT)


class TokensBy(StrEnum):
    """Who counted the tokens of a request."""

    SERVER = "server"  # the server: `usage` in its answer
    TOKENIZER = "tokenizer"  # the kit, with the workload's tokenizer file
    WORDS = "words"  # the kit, which takes a word for a token

    @property
    def phrase(self) -> str:
        """How it stands in a sentence: "tokens counted ..."."""
        return {
            TokensBy.SERVER: "by the server (its usage)",
            TokensBy.TOKENIZER: "by the tokenizer file",
            TokensBy.WORDS: "by words, each taken for a token",
        }[self]


class Verdict(StrEnum):
    """How one trial ended."""

    SURVIVED = "survived"
    CRASHED = "crashed"
    HUNG = "hung"  # alive and ready, but no progress
    ENGINE_DIED = "engine_died"  # the server lives, the model is gone
    OUT_OF_MEMORY = "out_of_memory"
    ANSWERS_STOPPED = "answers_stopped"  # somebody else's server, of whose process nothing is known
    CLIENT_FAULT = "client_fault"  # our side failed; says nothing about the server
    INTERRUPTED = "interrupted"

    @property
    def is_death(self) -> bool:
        """True for the event of the survival statistics; other verdicts are censored."""
        return self in (
            Verdict.CRASHED,
            Verdict.HUNG,
            Verdict.ENGINE_DIED,
            Verdict.OUT_OF_MEMORY,
            Verdict.ANSWERS_STOPPED,
        )

    @property
    def is_counted(self) -> bool:
        """False if the trial says nothing about the server: our side failed, or it was stopped."""
        return self not in (Verdict.CLIENT_FAULT, Verdict.INTERRUPTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One stack frame, free of load addresses.

    `offset` is relative to the module's first mapping; None where no memory map was at hand.
    """

    index: int
    module: str | None  # file name without its folder
    offset: int | None
    symbol: str | None  # as printed by the server, else the nearest exported one, demangled
    address: int | None = None  # as printed; changes from run to run
    source: str | None = None  # file:line, where the stack names one


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """The crash reduced to what is the same every time.

    `key` is equal for equal crashes: signal and the frames as module+offset, or module!symbol
    where no offset is known.
    """

    signal: int | None
    frames: tuple[Frame, ...] = ()
    key: str = ""
    text: str = (
        ""  # one line for people, e.g. "SIGSEGV in TRITONBACKEND_ResponseFactoryIsCancelled"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """The end marker of a trial folder, written last. Times: CLOCK_MONOTONIC nanoseconds."""

    trial_id: str
    verdict: Verdict
    reason: str  # one sentence: what the verdict was read from
    completed: int  # requests that ended before the server died, or before the trial ended
    in_flight: int = 0
    exit_code: int | None = None  # as subprocess gives it: -11 is SIGSEGV; None: still alive
    signature: Signature | None = None
    started_ns: int | None = None
    ready_ns: int | None = None
    load_started_ns: int | None = None
    died_ns: int | None = None
    ended_ns: int | None = None
    wall_offset_ns: int = 0  # add to a monotonic time of this trial for time since the epoch
    versions: dict[str, str] = field(default_factory=dict)
    host: str | None = None  # of a Dask cluster: its label in hosts.json; None: the study's own
    load_hosts: tuple[LoadHost, ...] = ()  # from which its load came; (): from the trial's own
    watch_fault: str | None = None  # why a watcher ended early: what it did not see says nothing
    stopped_early: str | None = None  # why its load ended by its own rule; None: it did not
    schema: int = 1

    @property
    def crash_iteration(self) -> int | None:
        """Requests completed before the server died; None for a trial that is censored."""
        return self.completed if self.verdict.is_death else None
