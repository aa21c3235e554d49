"""Groups equal crashes of many trials, within one build and across builds.

Within one build equal crashes have equal keys. Another build has other offsets, so across
builds crashes are compared by the functions that their stacks name.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from kit.crash.component import Component, component_of
from kit.crash.log.backtrace import Backtrace
from kit.crash.log.phrases import Topic
from kit.crash.log.shapes import Shape
from kit.crash.stack.signature import KEY_FRAMES
from kit.crash.stack.site import exact_symbol, fault_frames, plain_module, short_name
from kit.study.result import Frame, Signature, TrialResult, Verdict

T = TypeVar("T")
#: Frontends keep state that requests share; see same_crash.
FRONTENDS = frozenset({Component.HTTP_FRONTEND, Component.GRPC_FRONTEND})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialDeath:
    """A server that died: the trial, what it ran, and its stack; None: it left none."""

    trial_id: str
    release: str
    scenario: str
    verdict: Verdict
    signature: Signature | None

    @property
    def text(self) -> str:
        """One line: "SIGSEGV in f", or "hung, without a stack"."""
        if self.signature is None:
            return f"{self.verdict.value.replace('_', ' ')}, without a stack"
        return self.signature.text


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashGroup:
    """Deaths that one line of text names.

    deaths: in the order given. builds: the same deaths by signature key, most frequent first:
    another build of the server has other offsets, so other keys. stacks: how many different
    functions lead there (0: the deaths left no stack).
    """

    text: str
    deaths: tuple[TrialDeath, ...]
    builds: tuple[tuple[TrialDeath, ...], ...]
    stacks: int

    @property
    def releases(self) -> tuple[str, ...]:
        """Each once, in the order of the deaths."""
        return tuple(dict.fromkeys(death.release for death in self.deaths))

    @property
    def scenarios(self) -> tuple[str, ...]:
        """Each once, in the order of the deaths."""
        return tuple(dict.fromkeys(death.scenario for death in self.deaths))

    @property
    def has_stack(self) -> bool:
        return self.stacks > 0


def group_deaths(deaths: Iterable[TrialDeath]) -> list[CrashGroup]:
    """Group deaths by what happened, those with a stack first, then the largest group first.

    Deaths at the same function are one group, whatever the build. Those whose stack names no
    function are one only when their keys are equal. Deaths without a stack are grouped by verdict.

    >>> group_deaths([])
    []
    """
    groups = [_group(own) for own in _by(deaths, _kind).values()]
    return sorted(groups, key=lambda group: (not group.has_stack, -len(group.deaths), group.text))


def _kind(death: TrialDeath) -> str:
    """Equal for deaths of one group."""
    if death.signature is None or site_of(death.signature) != death.signature.key:
        return death.text
    return f"{death.text} {death.signature.key}"  # no function is named: the offsets must do


def _group(deaths: list[TrialDeath]) -> CrashGroup:
    signatures = [death.signature for death in deaths if death.signature is not None]
    builds = _by(deaths, lambda death: death.signature.key if death.signature else "")
    return CrashGroup(
        text=deaths[0].text,
        deaths=tuple(deaths),
        builds=tuple(sorted(map(tuple, builds.values()), key=lambda own: -len(own))),
        stacks=len({site_of(signature) for signature in signatures}),
    )


def _by(
    deaths: Iterable[TrialDeath], kind: Callable[[TrialDeath], str]
) -> dict[str, list[TrialDeath]]:
    found: dict[str, list[TrialDeath]] = {}
    for death in deaths:
        found.setdefault(kind(death), []).append(death)
    return found


def site_of(signature: Signature) -> str:
    """What a signature shares with the same crash in another build; its key where it names no
    function of the server's own.
    """
    fault = fault_frames(
        Backtrace(shape=_shape(signature), signal=signature.signal, frames=signature.frames, line=1)
    )[:KEY_FRAMES]
    own = [frame for frame in fault if _is_own(frame)]
    if not own or not exact_symbol(own[0]):
        return signature.key
    path = [_step(frame) for frame in own]
    return "|".join([signature.key.partition("|")[0], *path])


def _shape(signature: Signature) -> Shape:
    """Signatures of trials are Triton's own stacks; others have no handler's frames to drop."""
    first = signature.frames[0] if signature.frames else None
    ours = first is not None and plain_module(first.module) in ("tritonserver", "[anonymous]", None)
    return Shape.TRITON if ours else Shape.GDB


def _is_own(frame: Frame) -> bool:
    return frame.module is not None and "triton" in frame.module


def _step(frame: Frame) -> str:
    symbol = exact_symbol(frame)
    return short_name(symbol) if symbol else plain_module(frame.module) or "?"


def same_crash(a: TrialResult, b: TrialResult) -> bool:
    """Whether two deaths are the same crash: both ended alike and, if there is a stack, there.

    The frontends keep state that requests share. Once that is damaged, whichever of their
    functions comes next may die of it, or the allocator may notice; such deaths are one crash.
    """
    if a.verdict is not b.verdict or not a.verdict.is_death:
        return False
    if a.signature is None or b.signature is None:
        return a.signature is b.signature
    if a.signature.text == b.signature.text or _site(a.signature) == _site(b.signature):
        return True
    where = {_component(a.signature), _component(b.signature)} - {Component.LIBC_ABORT}
    return len(where) == 1 and where < FRONTENDS


def commonest_death(deaths: Sequence[T], result_of: Callable[[T], TrialResult]) -> T | None:
    """One of the deaths whose crash most of them share, the first of equals; None of none.

    result_of: the result of one of `deaths`, which may be results, or folders with theirs.

    >>> commonest_death([], lambda result: result) is None
    True
    """
    results = [result_of(death) for death in deaths]
    return max(
        deaths,
        key=lambda death: sum(same_crash(result_of(death), other) for other in results),
        default=None,
    )


def _site(signature: Signature) -> str:
    return site_of(signature) if signature.frames else signature.key


def _component(signature: Signature) -> Component:
    stack = Backtrace(shape=Shape.TRITON, signal=signature.signal, frames=signature.frames, line=1)
    heap = {Topic.HEAP} if signature.signal == signal.SIGABRT else set()
    return component_of(stack, topics=frozenset(heap), words=[signature.text])
