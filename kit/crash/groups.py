"""Groups equal crashes of many trials, within one build and across builds.

Within one build equal crashes have equal keys. Another build has other offsets, so across
builds crashes are compared by the functions that their stacks name.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from kit.crash.component import Component, component_of
from kit.crash.log.backtrace import Backtrace
from kit.crash.log.phrases import Topic
from kit.crash.log.shapes import Shape
from kit.crash.stack.signature import KEY_FRAMES
from kit.crash.stack.site import exact_symbol, fault_frames, plain_module, short_name
from kit.study.result import Frame, Signature, TrialResult

T = TypeVar("T")
#: Frontends keep state that requests share; see same_crash.
FRONTENDS = frozenset({Component.HTTP_FRONTEND, Component.GRPC_FRONTEND})


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashGroup:
    """Crashes at one place."""

    site: str  # the functions from the fault outward, or what stands for them
    text: str  # one line for people
    keys: tuple[str, ...]  # signature keys, most frequent first
    trials: tuple[str, ...]
    releases: tuple[str, ...]  # sorted
    across_builds: bool  # the same functions, at other offsets, in several releases

    @property
    def count(self) -> int:
        return len(self.trials)


@dataclass(slots=True)
class _Gathering:
    text: str
    keys: dict[str, int] = field(default_factory=dict)
    trials: list[str] = field(default_factory=list)
    releases: dict[str, set[str]] = field(default_factory=dict)  # release -> its keys


def group_crashes(crashes: Iterable[tuple[str, str, Signature]]) -> list[CrashGroup]:
    """Group (trial id, release, signature), the largest group first.

    Stacks that name functions are one group when they name the same ones, whatever the build;
    those that do not are one only when their keys are equal.
    """
    gathered: dict[str, _Gathering] = {}
    for trial, release, signature in crashes:
        into = gathered.setdefault(site_of(signature), _Gathering(text=signature.text))
        into.keys[signature.key] = into.keys.get(signature.key, 0) + 1
        into.trials.append(trial)
        into.releases.setdefault(release, set()).add(signature.key)
    groups = [_group(site, found) for site, found in gathered.items()]
    return sorted(groups, key=lambda group: (-group.count, group.site))


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
    ours = first is not None and plain_module(first.module) in ("tritonserver", None)
    return Shape.TRITON if ours else Shape.GDB


def _is_own(frame: Frame) -> bool:
    return frame.module is not None and "triton" in frame.module


def _step(frame: Frame) -> str:
    symbol = exact_symbol(frame)
    return short_name(symbol) if symbol else plain_module(frame.module) or "?"


def _group(site: str, found: _Gathering) -> CrashGroup:
    by_release = [frozenset(keys) for keys in found.releases.values()]
    return CrashGroup(
        site=site,
        text=found.text,
        keys=tuple(sorted(found.keys, key=lambda key: (-found.keys[key], key))),
        trials=tuple(found.trials),
        releases=tuple(sorted(found.releases)),
        across_builds=len(by_release) > 1 and len(set(by_release)) > 1,
    )


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
