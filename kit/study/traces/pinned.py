"""Names a traffic file so that a spec says all that a plan needs: path, format, size and hash.

A spec holds "PATH#format=…&requests=…&sha256=…". The rows themselves are kept in the study's
folder (kit.study.traces.keep), so that the file is read once and needed nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlencode

from kit.errors import SpecError
from kit.study.traces.read import FORMATS, read_trace
from kit.study.traces.rows import words_of

_MARK = "#format="


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFile:
    """What is known of a traffic file without reading it again."""

    path: str
    format: str  # a key of kit.study.traces.read.FORMATS
    requests: int
    span_s: float | None  # from the first to the last arrival; None: it has no times
    longest_tokens: int  # of a prompt and its answer, where both are known
    quotes: bool  # later turns have the answers before them in their prompts
    sha256: str

    @property
    def label(self) -> str:
        """Short, and different for different contents: "azure.csv (3f2a91c0)"."""
        return f"{Path(self.path).name} ({self.sha256[:8]})"

    @property
    def about(self) -> str:
        """What it is, in a sentence without its end."""
        when = "" if self.span_s is None else f" over {self.span_s:,.0f} s"
        requests = "1 request" if self.requests == 1 else f"{self.requests:,} requests"
        return f"{Path(self.path).name}: {FORMATS[self.format]}, {requests}{when}"

    def __str__(self) -> str:
        facts = {
            "format": self.format,
            "requests": self.requests,
            "longest_tokens": self.longest_tokens,
        }
        facts |= {} if self.span_s is None else {"span_s": f"{self.span_s:.6f}"}
        facts |= {"quotes": 1} if self.quotes else {}
        return f"{self.path}#{urlencode(facts | {'sha256': self.sha256})}"


def pinned(text: str) -> TraceFile:
    """The traffic file that a spec or a person names; a path alone is read.

    Raises:
        SpecError: as kit.study.traces.read.read_trace; or a name that was changed by hand.
    """
    path, mark, rest = text.rpartition(_MARK)
    if not mark:
        return _of_file(text)
    given = {name: values[-1] for name, values in parse_qs(f"format={rest}").items()}
    try:
        found = TraceFile(
            path=path,
            format=given["format"],
            requests=int(given["requests"]),
            span_s=float(given["span_s"]) if "span_s" in given else None,
            longest_tokens=int(given["longest_tokens"]),
            quotes="quotes" in given,
            sha256=given["sha256"],
        )
        int(found.sha256, 16)
        if found.format not in FORMATS or len(found.sha256) != 64 or found.requests < 1:
            raise ValueError
    except (KeyError, ValueError):
        raise SpecError(
            f"the traffic file {text!r}", "a path", "leave out what follows the #"
        ) from None
    return found


def _of_file(path: str) -> TraceFile:
    trace = read_trace(Path(path))
    due = [row.due_s for row in trace.rows if row.due_s is not None]
    return TraceFile(
        path=path,
        format=trace.format,
        requests=len(trace.rows),
        span_s=round(max(due), 6) if trace.is_timed else None,
        longest_tokens=max(
            (words_of(row.dialogue) if row.dialogue else row.prompt_tokens or 0)
            + (row.output_tokens or 0)
            for row in trace.rows
        ),
        quotes=any(
            earlier.conversation == later.conversation and not (later.dialogue or later.blocks)
            for earlier, later in zip(trace.rows, trace.rows[1:], strict=False)
        ),
        sha256=trace.sha256,
    )
