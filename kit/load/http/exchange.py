"""Client side of HTTP/1.1 without I/O: takes received bytes and times, returns events.

`begin` gives the request's bytes, `feed` takes what came and when, and gives the events that this
completes; times are stamped on the `Call`. Nothing here knows a socket or a clock, so a recorded
or an invented conversation is read as a live one is.

The body of a stream is only stamped when it comes; its events are read a third of a second later
or when the answer is whole, many at a time, which costs a third and leaves the loop free for the
stamps. An answer that is like a known one (kit.load.http.layout) need not be parsed.

>>> from kit.load.http.generate import Generate
>>> from kit.load.http.target import http_target
>>> from kit.load.traffic.call import Call
>>> from kit.study.spec import Endpoint
>>> target = http_target(Endpoint(http_port=8000), {})
>>> exchange = Exchange(
...     Generate(target, "m", streams=False, extra={}), AnswerCheck.NONE, ResponseLayout()
... )
>>> call = Call(0, 0, 0, b"01234567", b"Hello", b"Hello", 1, 4)
>>> exchange.begin(call)[:31]
b'POST /v2/models/m/generate HTTP'
>>> exchange.feed(b"HTTP/1.1 200 OK\\r\\nContent-Length: 21\\r\\n\\r\\n", 1)
()
>>> (ended,) = exchange.feed(b'{"text_output":"Hi!"}', 2)
>>> ended.judgement.outcome.value, ended.reusable, call.end_ns
('ok', True, 2)
"""

from __future__ import annotations

from typing import NamedTuple

from kit.load.answers import OK, Judgement, clipped, text_for_next_turn
from kit.load.http.body import AnswerBody
from kit.load.http.dialect import Dialect, malformed
from kit.load.http.layout import ResponseLayout
from kit.load.http.parser import HttpAnswer
from kit.load.link import PutOff
from kit.load.traffic.call import Call
from kit.study.result import Outcome
from kit.study.spec import AnswerCheck

#: A chunk that ends with an event, by either end of a line: no answer ends so, since its last line
#: follows a chunk of its own ("0\r\n\r\n") or a trailer.
_MIDDLES = (b"\n\n\r\n", b"\n\r\n\r\n")


class Ended(NamedTuple):
    """The open call is over.

    reusable: the server's side of the connection is ready for another request.
    answered: the answer's text as the next turn quotes it, where that was asked for.
    """

    judgement: Judgement
    reusable: bool = False
    answered: bytes | None = None


class Unasked(NamedTuple):
    """Bytes came that no request asked for: the connection cannot be trusted any more."""


Event = Ended | Unasked
_NOTHING: tuple[Event, ...] = ()
#: The end of a valid answer after which the connection goes on.
WELL = Ended(OK, True)


class Exchange:
    """The requests and answers of one connection, one after the other.

    layout: what valid answers look like, shared by a worker's exchanges.
    quotes: give the answer's text with its end, for the next turn's prompt.
    """

    def __init__(
        self,
        dialect: Dialect,
        check: AnswerCheck,
        layout: ResponseLayout,
        *,
        quotes: bool = False,
    ) -> None:
        self._dialect = dialect
        self._request = dialect.request
        self._layout = layout
        self._is_answer = layout.is_answer
        self._has_usage = dialect.has_usage
        self._learns = check is AnswerCheck.EXACT and not dialect.streams
        #: The open call, while its whole answer may be a known one.
        self.fresh: Call | None = None
        self._quotes = quotes
        self._body = AnswerBody(dialect, check)
        self._answer = HttpAnswer(self._on_head)
        self._call: Call | None = None
        self._begun = False  # bytes of the answer have come
        self._put_off = PutOff()
        #: Where reads in the middle of a stream are kept, to be parsed later: nothing depends on
        #: how soon. None: not in the middle of one.
        self.later: PutOff | None = None

    def begin(self, call: Call) -> bytes:
        """The request of `call`, of which the answer is awaited from now on."""
        self._call = call
        if call.fault is None:
            self.fresh = call if self._learns else None
            request = self._request
            return request(call)
        return self._dialect.faulty_request(call)

    def cancel(self) -> None:
        """The call is nobody's any more, and so is what still comes for it."""
        self._call = self.fresh = None

    def known(self, data: bytes, now_ns: int) -> Call | None:
        """The call of which `data` is the whole answer, like a known one.

        None: it is no such answer, and nothing was taken. As `feed`, for the most common answer.
        """
        call, is_answer = self.fresh, self._is_answer
        if call is None or not is_answer(call, data):
            return None
        call.received_bytes = len(data)
        call.status = 200
        call.first_ns = call.end_ns = now_ns
        if self._has_usage:
            call.usage_in, call.tokens_out = self._layout.usage(data)
        self._call = self.fresh = None
        return call

    def feed(self, data: bytes, now_ns: int) -> tuple[Event, ...]:
        """Take the next bytes, which came at `now_ns`."""
        call = self._call
        if call is None:
            return (Unasked(),)
        later = self.later
        if later is not None:
            if later.keeps(data, now_ns):
                return _NOTHING
            later.reads.append(data)
            later.times_ns.append(now_ns)
            return self.flush()
        if self.known(data, now_ns) is not None:
            return (WELL,)
        return self._receive(call, data, now_ns)

    def flush(self) -> tuple[Event, ...]:
        """Read the events that were put off."""
        call = self._call
        reads, times = self._put_off.taken()
        if not reads or call is None:
            return _NOTHING
        call.received_bytes += sum(map(len, reads))
        answer = self._answer
        ends, problem = answer.take_each(reads)
        pieces = answer.pieces[:]
        answer.pieces.clear()
        if len(pieces) == len(ends) == len(set(ends)) and pieces:  # mostly: one read, one piece
            stamps = times
        else:
            stamps = [
                now
                for now, before, end in zip(times, [0, *ends], ends, strict=False)
                for _ in range(before, end)
            ]
        enough, taken = None, 0
        while taken < len(pieces) and enough is None:
            known = self._body.feed_each(pieces[taken:], stamps[taken:])
            taken += known
            if not known:
                enough = self._body.feed(pieces[taken], stamps[taken])
                taken += 1
        if enough is not None:
            return self._end(call, enough, times[-1])
        if answer.complete or problem is not None:
            return self._close_up(call, times[len(ends) - 1], problem)
        return _NOTHING

    def eof(self, now_ns: int, error: Exception | None = None) -> tuple[Event, ...]:
        """The server has closed the connection; error: what broke it."""
        events = self.flush()
        call = self._call
        if events or call is None:
            return events
        if self._answer.headed and not self._answer.framed and error is None:
            return self._finish(call, now_ns)  # such a body ends with the connection
        how = str(error) if error else "closed by the server"
        came = f"after {call.received_bytes} bytes" if self._begun else "before the first byte"
        self._call = self.fresh = None
        return (Ended(Judgement(Outcome.RESET, clipped(f"{how}, {came}"))),)

    # --- reading

    def _receive(self, call: Call, data: bytes, now: int) -> tuple[Event, ...]:
        call.received_bytes += len(data)
        self._begun, self.fresh = True, None
        answer = self._answer
        problem = answer.take(data)
        if answer.pieces:
            body = b"".join(answer.pieces)
            answer.pieces.clear()
            enough = self._body.feed(body, now)
            if enough is not None:
                return self._end(call, enough, now)
        if answer.complete or problem is not None:
            return self._close_up(call, now, problem)
        return _NOTHING

    def _on_head(self, status: int) -> None:
        call = self._call
        if call is not None:
            call.status = status
            self._body.begin(call, status)
            if self._dialect.streams and status == 200 and call.fault is None:
                self.later = self._put_off
                self.later.middles = _MIDDLES

    # --- endings

    def _close_up(self, call: Call, now: int, problem: Judgement | None) -> tuple[Event, ...]:
        """The answer is whole, or is none."""
        if problem is not None:
            return self._end(call, problem, now)
        return self._finish(call, now) if self._answer.complete else _NOTHING

    def _end(self, call: Call, judgement: Judgement, now: int) -> tuple[Event, ...]:
        call.end_ns = now
        self._call = None
        return (Ended(judgement),)

    def _finish(self, call: Call, now: int) -> tuple[Event, ...]:
        call.end_ns = now
        answer, judgement = self._answer, self._body.finish()
        if answer.overrun:
            judgement = malformed("bytes after the end of the answer", answer.evidence)
        elif answer.location is not None and call.status >= 300:
            judgement = judgement._replace(
                cause=clipped(f"{judgement.cause} (to {answer.location})")
            )
        reusable = answer.complete and answer.keeps and not answer.overrun
        answered = None
        if judgement is OK:
            if self._quotes and self._body.text is not None:
                answered = text_for_next_turn(call, self._body.text)
            if self._learns and reusable and len(answer.reads) == 1:
                self._layout.learn_answer(call, answer.reads[0])
        self._call = None
        self._begun = False
        self.later, self._put_off.middles = None, ()
        answer.clear()
        return (Ended(judgement, reusable, answered),)
