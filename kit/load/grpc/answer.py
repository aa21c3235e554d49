"""Reads the messages of a call's answer: stamps tokens, knows the last one, judges the text."""

from __future__ import annotations

from kit.load.answers import (
    OK,
    Judgement,
    judge_text,
    kept_bytes,
    most_events,
    text_for_next_turn,
    too_much,
    whole_text,
)
from kit.load.grpc.codec import Infer, Piece
from kit.load.grpc.status import GrpcStatus
from kit.load.http.dialect import malformed
from kit.load.token_counts import words_of_answer
from kit.load.traffic.call import NEVER, Call
from kit.study.result import Outcome
from kit.study.spec import AnswerCheck


class GrpcAnswer:
    """The answers to a client's calls, one after the other.

    Tokens are stamped as they come and written into the call by `settle`, many at once.

    quotes: keep what the server answered, for the next turn's prompt.
    """

    def __init__(self, codec: Infer, check: AnswerCheck, *, quotes: bool) -> None:
        self.quoted: bytes | None = None  # the text of the last answer, escaped for JSON
        self.is_excessive = False  # so much has come that the rest is not to be read
        self._codec = codec
        self._streams = codec.streams
        self._read = codec.read
        self._check = check
        # A unary answer that is right in every byte has nothing else to tell.
        self._knows = check is AnswerCheck.EXACT and not quotes
        self._quotes = quotes
        self._pieces: list[str] = []
        self._times_ns: list[int] = []  # of tokens that the call does not have yet
        self._messages = 0
        self._most_messages = self._most_bytes = 0
        self._says_final = False
        self._message: bytes | None = None

    def begin(self, call: Call) -> None:
        """The answer to `call` is awaited."""
        self._message = None
        self.is_excessive = False
        if not self._streams:
            return
        self._pieces = []
        self._times_ns = []
        self._most_messages, self._most_bytes = 4 * most_events(call), 16 * kept_bytes(call)
        self._messages = 0
        self._says_final = False

    def take(self, call: Call, data: bytes, now_ns: int) -> Judgement | None:
        """One message; the judgement that it completes, if it completes one."""
        if not self._streams:
            return self._take_unary(call, data, now_ns)
        call.received_bytes += len(data)
        self._messages += 1
        piece = self._read(data)
        judgement = piece if isinstance(piece, Judgement) else self._take_piece(call, piece, now_ns)
        if judgement is not None:
            call.end_ns = now_ns
            call.status = GrpcStatus.OK
        return judgement

    def _take_piece(self, call: Call, piece: Piece, now_ns: int) -> Judgement | None:
        if piece.text:
            self._times_ns.append(now_ns)
            self._pieces.append(piece.text)
        final = piece.final
        if final is not None:
            self._says_final = True
        if final or (not self._says_final and len(self._pieces) >= call.output_tokens):
            return self._judge_pieces(call)
        if self._messages > self._most_messages or call.received_bytes > self._most_bytes:
            self.is_excessive = True
            return too_much(call, "".join(self._pieces[:8]).encode())
        return None

    def settle(self, call: Call) -> None:
        """Write the stamps of the tokens that have come into their call."""
        times_ns = self._times_ns
        if times_ns:
            self._times_ns = []
            if call.first_ns == NEVER:
                call.first_ns = times_ns[0]
            call.stamp_each(times_ns)

    def finish(self, call: Call) -> Judgement:
        """The server has ended the call and says that it went well."""
        if self._streams:
            return Judgement(Outcome.RESET, "the stream was closed before the final response")
        data = self._message
        if data is None:
            return malformed("an answer without a message", b"")
        if self._knows and self._codec.is_answer(data, call):
            return OK
        piece = self._read(data)
        if isinstance(piece, Judgement):
            return piece
        if piece.text is None:
            return malformed("an answer without text_output", data)
        return self._judge(call, piece.text)

    def whole(self, call: Call, data: bytes) -> Judgement:
        """The one message of a unary call that has ended well."""
        call.received_bytes = len(data)
        self._message = data
        return self.finish(call)

    def _take_unary(self, call: Call, data: bytes, now_ns: int) -> Judgement | None:
        if self._message is not None:
            self.is_excessive = True
            return malformed("a second message in a unary answer", data)
        self._message = data
        call.first_ns = now_ns
        call.received_bytes = len(data)
        return None

    def _judge_pieces(self, call: Call) -> Judgement:
        if not self._pieces:
            return malformed("a stream without a token", b"")
        text = whole_text(call, self._pieces, self._check)
        return text if isinstance(text, Judgement) else self._judge(call, text)

    def _judge(self, call: Call, text: str) -> Judgement:
        judgement = judge_text(call, text, self._check)
        if judgement is OK:
            if self._check is not AnswerCheck.EXACT:
                call.answer = text
                call.tokens_out = words_of_answer(call, text)
            if self._quotes:
                self.quoted = text_for_next_turn(call, text)
        return judgement
