"""Diagnoses a crash from any text: a trial's log, a pasted stack, a production log.

What died, where in the server, which release printed it, which known crashes fit and why, and
what to do. Where nothing is known it says so, and a log without a death gives component "none".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from kit.crash.advice import advise, advise_living, summarise, summarise_living
from kit.crash.catalog import Crash, known_crashes
from kit.crash.component import Component, component_of
from kit.crash.death import find_death
from kit.crash.log.backtrace import Backtrace
from kit.crash.log.folded import Remembered, unfolded
from kit.crash.log.lines import chunks_of_text
from kit.crash.log.scan import Scan
from kit.crash.log.shapes import Shape
from kit.crash.log.source import chunks_of_file, chunks_of_stream
from kit.crash.match import Case, Match, rank, watched
from kit.crash.origin import Origin, origin_of, release_believed
from kit.crash.stack.builds import ReleaseGuess, guess_release, known_builds
from kit.crash.stack.maps import MemoryMap
from kit.crash.stack.signature import describe, make_signature, place, place_by_build
from kit.crash.stack.site import fault_frames
from kit.crash.state import State, of_dead, of_living
from kit.errors import KitError
from kit.study.hybrids import is_hybrid
from kit.study.result import Signature

#: Where the unpacked binaries of a release are; None when they are not at hand.
ModulesOf = Callable[[str], Path | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What a log tells of a death. `died` False: nothing in it says that a process died; `state`
    says what else is the matter then.
    """

    died: bool
    state: State
    reason: str | None  # the words or the error of the log that say why it is in that state
    signal: int | None
    component: Component
    top_frame: str | None  # where the fault is, without the frames that caught it
    release_guess: str | None  # "23.10", "24.09 or 24.10"; None = cannot be told
    matches: tuple[Match, ...]  # known crashes that fit, best first
    advice: str
    summary: str  # one sentence
    process: str | None  # server, stub, engine or unknown: what died
    stack: tuple[str, ...]  # the frames from the fault outward, in words
    origin: Origin  # what the release was read from, and whether its owner is right
    signature: Signature | None
    deaths: int  # how many the log tells of; the last one is described
    line: int | None  # 1-based, where it begins
    lines: int  # read

    def to_json(self) -> dict[str, object]:
        """As plain values, for `diagnose --json`."""
        return {
            "died": self.died,
            "state": self.state.value,
            "reason": self.reason,
            "signal": self.signal,
            "component": self.component.value,
            "top_frame": self.top_frame,
            "release_guess": self.release_guess,
            "matches": [
                {
                    "id": m.id,
                    "score": m.score,
                    "why": m.why,
                    "title": m.title,
                    "links": [*m.links],
                    "by_component_only": not m.precise,
                    "affected": [{"from": r.start, "to": r.end, "by": r.by} for r in m.affected],
                }
                for m in self.matches
            ],
            "advice": self.advice,
            "summary": self.summary,
            "process": self.process,
            "stack": [*self.stack],
            "release_read_from": self.origin.read_from,
            "release_believed": self.origin.believed,
            "release_agrees": self.origin.agrees,
            "release_contradiction": self.origin.contradiction,
            "signature": self.signature.key if self.signature else None,
            "deaths": self.deaths,
            "line": self.line,
            "lines": self.lines,
        }


def diagnose(
    text: str,
    *,
    believed_release: str | None = None,
    maps: MemoryMap | None = None,
    modules_of: ModulesOf | None = None,
) -> Diagnosis:
    """Diagnose a text.

    believed_release: what its owner says that it ran ("23.11", "2.40.0", an image name; of a
    hybrid no release is believed). maps: of the server, from before it died. modules_of: finds a
    release's binaries, for function names; without it nothing outside the text is read.

    Raises:
        UnknownReleaseError: what is believed is no release.
    """
    return diagnose_chunks(
        chunks_of_text(text),
        believed_release=believed_release,
        maps=maps,
        modules_of=modules_of,
    )


def diagnose_file(
    path: Path,
    *,
    believed_release: str | None = None,
    maps: MemoryMap | None = None,
    modules_of: ModulesOf | None = None,
) -> Diagnosis:
    """Diagnose a file of any size and content, in bounded memory.

    Raises:
        OSError: it cannot be read.
        UnknownReleaseError: what is believed is no release.
    """
    return diagnose_chunks(
        chunks_of_file(path),
        believed_release=believed_release,
        maps=maps,
        modules_of=modules_of,
    )


def diagnose_stream(
    file: BinaryIO,
    *,
    believed_release: str | None = None,
    maps: MemoryMap | None = None,
    modules_of: ModulesOf | None = None,
) -> Diagnosis:
    """The same of what is read from `file` to its end, a pipe for example.

    Raises:
        OSError: it cannot be read.
        UnknownReleaseError: what is believed is no release.
    """
    return diagnose_chunks(
        chunks_of_stream(file),
        believed_release=believed_release,
        maps=maps,
        modules_of=modules_of,
    )


def diagnose_chunks(
    chunks: Iterable[str],
    *,
    believed_release: str | None = None,
    maps: MemoryMap | None = None,
    modules_of: ModulesOf | None = None,
) -> Diagnosis:
    """The same of text that comes in pieces, each of which ends at a line's end."""
    crashes = known_crashes()
    hybrid = believed_release is not None and is_hybrid(believed_release)  # it is no release
    believed = release_believed(believed_release) if believed_release and not hybrid else None
    remembered = Remembered(chunks)
    scan = Scan(watched(crashes.values())).read(remembered)
    death = find_death(scan)
    if death is None and (again := unfolded(remembered.text)):
        whole = Scan(watched(crashes.values())).read([again])
        if (death := find_death(whole)) is not None:
            scan = whole
    if death is None:
        return _alive(scan, believed)
    guess = guess_release(death.backtrace) if death.backtrace else _NO_GUESS
    origin = origin_of(guess, () if hybrid else scan.stated, believed)
    build = guess.builds[0] if guess.builds else None
    backtrace = _placed(death.backtrace, guess, maps, modules_of)
    fault = fault_frames(backtrace) if backtrace else ()
    component = component_of(
        backtrace,
        topics=death.topics,
        process=death.process,
        words=death.words,
        build=build,
    )
    matches: list[Match] = []
    if not death.restarted and (backtrace is None or not backtrace.torn):
        case = Case(
            signal=death.signal,
            frames=fault,
            component=component,
            releases=origin.releases,
            said=scan.said,
        )
        matches = rank(case, crashes)
    top = describe(fault[0]) if fault else None
    condition = of_dead(death)
    return Diagnosis(
        died=True,
        state=condition.state,
        reason=condition.reason,
        signal=death.signal,
        component=component,
        top_frame=top,
        release_guess=origin.guess,
        matches=tuple(matches),
        advice=advise(component, matches, crashes, death, origin),
        summary=summarise(death, component, top, matches, origin, condition),
        process=death.process.value,
        stack=tuple(describe(frame) for frame in fault),
        origin=origin,
        signature=make_signature(backtrace, death.signal) if backtrace else None,
        deaths=death.count,
        line=death.line,
        lines=scan.lines,
    )


def crashes_of(
    signature: Signature | None,
    *,
    releases: tuple[str, ...],
    log: str,
    crashes: Mapping[str, Crash],
) -> list[Match]:
    """The crashes that fit a death of the kit's own trials, best first: by its signature, whose
    frames have their names, and by the words of its log's end. releases: as in `Case`.
    """
    scan = Scan(watched(crashes.values())).read(chunks_of_text(log))
    build = next((build for build in known_builds() if build.release in releases), None)
    backtrace = None
    if signature is not None and signature.frames:
        backtrace = Backtrace(
            shape=Shape.TRITON, signal=signature.signal, frames=signature.frames, line=1
        )
    words = [signature.text] if signature else []
    case = Case(
        signal=signature.signal if signature else None,
        frames=fault_frames(backtrace) if backtrace else (),
        component=component_of(backtrace, topics=scan.topics, words=words, build=build),
        releases=releases,
        said=scan.said,
    )
    return rank(case, crashes)


_NO_GUESS = ReleaseGuess(builds=(), digits=None)


def _placed(
    backtrace: Backtrace | None,
    guess: ReleaseGuess,
    maps: MemoryMap | None,
    modules_of: ModulesOf | None,
) -> Backtrace | None:
    """The backtrace with every offset and name that can be had."""
    if backtrace is None:
        return None
    if guess.builds and maps is None:
        backtrace = place_by_build(backtrace, guess.builds)
    return place(backtrace, maps=maps, modules=_modules(guess, modules_of))


def _modules(guess: ReleaseGuess, modules_of: ModulesOf | None) -> Path | None:
    """The binaries that printed the stack. Names are an extra: without them the rest stands."""
    if modules_of is None or len(guess.builds) != 1 or not guess.builds[0].parts:
        return None
    try:
        return modules_of(guess.releases[0])
    except KitError:
        return None


def _alive(scan: Scan, believed: str | None) -> Diagnosis:
    origin = origin_of(_NO_GUESS, scan.stated, believed)
    condition = of_living(scan)
    lost = condition.state is State.CONTEXT_LOST
    return Diagnosis(
        died=False,
        state=condition.state,
        reason=condition.reason,
        signal=None,
        component=Component.CUDA if lost else Component.NONE,
        top_frame=None,
        release_guess=origin.guess,
        matches=(),
        advice=advise_living(condition, scan.notices),
        summary=summarise_living(condition, scan.lines),
        process=None,
        stack=(),
        origin=origin,
        signature=None,
        deaths=0,
        line=condition.line,
        lines=scan.lines,
    )
