"""Finds the stacks and the deaths in the text of a log, in the order of the log.

`LogReader` reads a log line by line in bounded memory and linear time; `parse_backtraces` is
the same for a text at hand. Neither ever raises, whatever the log holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from kit.crash.log.lines import lines_of_text
from kit.crash.log.notices import Notice, read_notices
from kit.crash.log.phrases import Phrase, Topic
from kit.crash.log.prefix import message_starts
from kit.crash.log.shapes import MARK, Printed, Shape, file_name, read_frame, with_handler
from kit.crash.log.stacks import DEEPEST, Entry, Stack, assemble, in_sequence
from kit.study.result import Frame

#: Lines of others that may stand between two frames, or between a message and its stack.
GAP = 50
#: The same for frames without numbers, where only nearness tells what belongs together.
_NEAR = {
    Shape.PYTHON: 4,
    Shape.FAULTHANDLER: 5,
    Shape.SEGFAULT: 5,
    Shape.ABSL: 4,  # as many lines as a record takes in a JSON array that is spread
    Shape.KERNEL: 0,
}
#: Of a log with more crashes than this, the first and the last ones are kept.
KEPT = 100
KEPT_EXCEPTIONS = 10
_MOST_ENTRIES = 4 * DEEPEST
_MOST_PENDING = 64
_DEATH = frozenset({Topic.SIGNAL, Topic.EXCEPTION, Topic.HEAP, Topic.ASSERTION, Topic.SANITIZER})
#: Marks of a handler that prints native frames as Python prints its own.
_HANDLER = "!!!"
_CURRENT = re.compile(r"(?:Current t|T)hread 0x[0-9a-f]{4,16}\b.{0,80}\(most recent call first\)")
_CONTINUED = re.compile(r"^\s+(?:at (\S{1,400}:\d{1,7})|from (/\S{1,400}))$")
#: The process that a line names before its frame: of several that crash, each has its own stack.
_ORIGIN = re.compile(r"\[[\w.\-]{1,80}:\d{1,9}\]|\bpid=\d{1,9}|\brank ?\d{1,5}")
#: What loguru puts before the frame that caught an exception, as mail does before every line.
_MARKED = re.compile(r">\s{0,4}$")
#: What stands for frames that whoever pasted a stack left out.
_ELIDED = re.compile(
    r"^\W{0,20}(?:\.{3,}|\u2026|<snip>|\[snip\]|\(more frames.{0,40}|-{2,} ?skip.{0,20})\W{0,4}$"
)
#: Functions by which a process ends itself: a debugger that shows them shows a SIGABRT.
_ABORT = re.compile(
    r"^_{0,3}(?:GI_)?(?:abort|libc_message\w*|malloc_printerr|assert_fail\w*|ggml_abort)$"
)
_SIGABRT = 6
_RAISED = re.compile(
    r"(?:^|[\s\]>|:,\"])((?:[A-Za-z_]\w{0,60}\.){0,8}(?:[A-Z]\w{0,60}(?:Error|Exception"
    r"|Interrupt|Exit)"
    r"|Exception))(?:: (.{0,200})|$)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backtrace:
    """One stack as the log has it, or a death that left none (`shape` none, no frames)."""

    shape: Shape
    signal: int | None  # that was reported beside it
    frames: tuple[Frame, ...]
    messages: tuple[str, ...] = ()  # what was said just before: uncaught exception, damaged heap
    line: int  # 1-based, of its first line
    complete: bool = True  # False: the log has only a part of it
    torn: bool = False  # its lines are out of order, so `frames` is empty
    quoted: bool = False  # words of a sentence stand before its frames
    current: bool = False  # of several threads, the one that died
    caught: bool = False  # its printer marks the frame that caught the exception


class LogReader:
    """Feed it lines, `close` it, then read `backtraces`."""

    def __init__(self) -> None:
        self.lines = 0
        self._crashes: list[Backtrace] = []
        self._exceptions: list[Backtrace] = []  # handled, mostly: they must not push crashes out
        self._open: dict[Shape, list[Entry]] = {}
        self._last_frame = 0
        self._fed = 0  # of the lines of one record, which have one number, this tells the order
        self._ends: dict[Shape, int] = {}  # when the last frame of each open stack was fed
        self._pending: list[tuple[int, Notice]] = []  # with when it was fed
        self._raised: str | None = None
        self._handler = 0  # line of the last frame, or of the header, of such a handler
        self._current = False
        self._elided = 0  # line of the last mark that frames were left out
        self.raised: list[tuple[int, str]] = []  # what exceptions said, the first and the last

    def feed(self, line: str, number: int, phrases: Iterable[Phrase] | None = None) -> list[Notice]:
        """Take the log's next line (cleaned) and its number; return what it says besides frames.

        phrases: as in `read_notices`, where many lines are asked for them at once.
        """
        self.lines = number
        self._fed += 1
        if self._open:
            self._continue(line)
        printed = read_frame(line)
        if printed is not None:
            self._add(printed, line)
        elif "hread 0x" in line and _CURRENT.search(line):
            self._finish([shape for shape in self._open if shape is Shape.FAULTHANDLER])
            self._current = "Current" in line
        notices = list(read_notices(line, self.lines, phrases))
        for notice in notices:
            if notice.topic in _DEATH and len(self._pending) < _MOST_PENDING:
                self._pending.append((self._fed, notice))
            if notice.topic is Topic.SIGNAL and notice.text.startswith(_HANDLER):
                self._handler = number
        self._settle()
        return notices

    @property
    def within_stack(self) -> bool:
        """Whether a stack is being read, to which any line may belong."""
        return bool(self._open)

    def skip(self, to: int) -> None:
        """The lines up to this one are known to say nothing."""
        self.lines = to
        self._settle()

    def close(self) -> None:
        """The log is at its end."""
        self._finish(list(self._open))
        self._flush_pending(self.lines + 1)

    def _add(self, printed: Printed, line: str) -> None:
        if printed.shape is Shape.PYTHON and self._handler:
            if self.lines - self._handler <= _NEAR[Shape.SEGFAULT]:
                printed, self._handler = with_handler(printed), self.lines
            else:
                self._handler = 0
        quoted = printed.at > 0 and printed.at not in message_starts(line.strip())
        entries = self._open.setdefault(printed.shape, [])
        near = _NEAR.get(printed.shape)
        if near is not None and entries and self.lines - entries[-1].line > near:
            self._finish([printed.shape])
            entries = self._open.setdefault(printed.shape, [])
        if len(entries) < _MOST_ENTRIES:
            index = len(entries) if printed.index is None else printed.index
            origin = _ORIGIN.search(line, 0, printed.at)
            entries.append(
                Entry(
                    index,
                    printed.frame,
                    self.lines,
                    quoted,
                    origin[0] if origin else "",
                    marked=_MARKED.search(line, 0, printed.at) is not None,
                )
            )
        self._last_frame = self.lines
        self._ends[printed.shape] = self._fed

    def _continue(self, line: str) -> None:
        """A debugger breaks long frames: "at file:line" or "from library" on a line of its own.
        Of a Python traceback the line that ends it says what was raised.
        """
        if (entries := self._open.get(Shape.GDB)) and (found := _CONTINUED.match(line)):
            last = entries[-1]
            frame = replace(last.frame, source=found[1] or last.frame.source)
            if found[2]:
                frame = replace(frame, module=file_name(found[2]))
            entries[-1] = replace(last, frame=frame, line=self.lines)
            self._last_frame = self.lines
        if ("..." in line or "\u2026" in line or "snip" in line) and _ELIDED.match(line):
            self._elided = self.lines
        if Shape.PYTHON in self._open and (raised := _RAISED.search(line)):
            self._raised = raised[0].strip(" ]>|")
            self.raised.append((self.lines, self._raised))
            if len(self.raised) > 2 * KEPT_EXCEPTIONS:
                del self.raised[KEPT_EXCEPTIONS]

    def _settle(self) -> None:
        """Close what is too far back to go on."""
        if self._open and self.lines - self._last_frame > GAP:
            self._finish(list(self._open))
        if self._pending and not self._open and self.lines - self._pending[-1][1].line > GAP:
            self._flush_pending(self.lines - GAP)

    def _finish(self, shapes: Iterable[Shape]) -> None:
        """Turn open entries into backtraces, with the notices that stand close by."""
        made: list[Backtrace] = []
        for shape in shapes:
            made += self._made_of(shape, self._open.pop(shape))
        self._keep(made)

    def _made_of(self, shape: Shape, entries: list[Entry]) -> list[Backtrace]:
        first, last = entries[0].line, entries[-1].line
        quoted = 2 * sum(entry.quoted for entry in entries) >= len(entries)
        stacks: list[Stack] | None
        if shape in _NEAR:
            stacks = [in_sequence(entries, innermost_last=shape is Shape.PYTHON)]
        else:
            headers = [n.line for _, n in self._pending if n.topic is Topic.SIGNAL]
            stacks = assemble(entries, headers, elided=self._elided > first)
        if shape is Shape.PYTHON:
            # most exceptions are handled; their words are no sign of a death
            raised, self._raised = self._raised, None
            words: tuple[str, ...] = (raised,) if raised else ()
            number = None
        else:
            words, number = self._absorb(first, last, shape)
            whole = stacks is not None and len(entries) > 1
            if number is None and shape is Shape.GDB and not quoted and whole:
                number = _SIGABRT if any(map(_aborts, entries)) else None
        if stacks is None:
            torn = Backtrace(
                shape=shape,
                signal=number,
                frames=(),
                messages=words,
                line=first,
                torn=True,
                quoted=quoted,
            )
            return [torn]
        return [
            Backtrace(
                shape=shape,
                signal=number,
                frames=tuple(stack.frames[:DEEPEST]),
                messages=words,
                line=stack.first_line,
                complete=stack.complete,
                quoted=quoted,
                current=shape is Shape.FAULTHANDLER and self._current,
                caught=shape is Shape.PYTHON
                and len(entries) > 1
                and sum(e.marked for e in entries) == 1,
            )
            for stack in stacks
        ]

    def _absorb(self, first: int, last: int, shape: Shape) -> tuple[tuple[str, ...], int | None]:
        """What was said near these lines, and the signal that it tells of."""
        end = self._ends[shape]
        near = [(at, n) for at, n in self._pending if first - GAP <= n.line <= last + GAP]
        self._pending = [(at, n) for at, n in self._pending if (at, n) not in near or at > end]
        before = [n for at, n in near if at <= end] or [n for _, n in near]
        words, number = _said(before)
        return words, number

    def _flush_pending(self, before: int) -> None:
        """Deaths beside which no stack stands."""
        alone = [n for _, n in self._pending if n.line < before]
        self._pending = [(at, n) for at, n in self._pending if n.line >= before]
        if any(n.fatal for n in alone):
            words, number = _said(alone)
            self._keep(
                [
                    Backtrace(
                        shape=Shape.NONE,
                        signal=number,
                        frames=(),
                        messages=words,
                        line=alone[0].line,
                    )
                ]
            )

    def _keep(self, made: list[Backtrace]) -> None:
        for backtrace in made:
            kept = self._exceptions if backtrace.shape is Shape.PYTHON else self._crashes
            kept.append(backtrace)
            most = KEPT if kept is self._crashes else KEPT_EXCEPTIONS
            if len(kept) > 2 * most:
                del kept[most]

    @property
    def backtraces(self) -> list[Backtrace]:
        """What was found, in the order of the log."""
        return sorted(self._crashes + self._exceptions, key=lambda backtrace: backtrace.line)


def _aborts(entry: Entry) -> bool:
    return _ABORT.match(entry.frame.symbol or "") is not None


def _said(notices: list[Notice]) -> tuple[tuple[str, ...], int | None]:
    """The words of some notices, and the signal that they tell of or imply: of several the first,
    since what comes later happened in the handler of it.
    """
    words = tuple(dict.fromkeys(n.text for n in notices if n.topic is not Topic.SIGNAL))
    return words, next((n.signal for n in notices if n.signal is not None), None)


def shows_stack(line: str) -> bool:
    """Whether a line may print a frame, or announce a thread's; most lines do not."""
    return MARK.search(line) is not None or "hread 0x" in line


def parse_backtraces(text: str) -> list[Backtrace]:
    """Every stack and every death without one that `text` holds, in its order."""
    reader = LogReader()
    for number, line in lines_of_text(text):
        reader.feed(line, number)
    reader.close()
    return reader.backtraces
