"""One request: its plan, and what happened to it.

A `Call` is the one mutable object of the load generator: the traffic makes it, a channel sends
it and stamps it, the recorder packs it into a row. It is not a frozen record because a client
that is to cost a few microseconds a request cannot afford a second object for each.
"""

from __future__ import annotations

import msgspec

from kit.load.traffic.faults import FaultPlan

#: Of a time or a count that it did not come to; null in the record.
NEVER = -1


class Call(msgspec.Struct, gc=False):
    """One request: its plan (a pure function of workload and number), then its times.

    Times are CLOCK_MONOTONIC nanoseconds, `NEVER` until they happen.
    """

    number: int
    conversation: int
    turn: int
    #: The hexadecimal digits that every token of the answer must carry.
    digits: bytes
    #: UTF-8 text as it stands between the quotes of a JSON string.
    prompt: bytes
    #: The same without JSON's escapes: the same object where nothing needed escaping.
    text: bytes
    prompt_tokens: int
    output_tokens: int
    fault: FaultPlan | None = None
    #: What was said before, user and assistant in turn, as JSON text; this turn's words last.
    dialogue: tuple[bytes, ...] = ()

    client: int = NEVER
    scheduled_ns: int = NEVER
    begun_ns: int = NEVER  # a connection was asked for, where there was none
    sent_ns: int = NEVER
    first_ns: int = NEVER
    end_ns: int = NEVER
    token_ns: list[int] | None = None
    tokens: int = NEVER
    received_bytes: int = 0
    status: int = NEVER
    #: As the server counts them; NEVER: it did not say.
    usage_in: int = NEVER
    #: Of the answer: as the server counts them, else in words; NEVER: it is the one expected.
    tokens_out: int = NEVER
    #: What was answered; None: nothing yet, or what was expected.
    answer: str | None = None
    #: It was sent again, without the question that the server refused.
    is_resent: bool = False
    #: The times of what came are the kernel's, not those at which this process read it.
    has_kernel_clock: bool = False

    def send_again(self) -> None:
        """Forget what came: the same request is sent in another form."""
        self.is_resent = True
        self.begun_ns = self.sent_ns = self.first_ns = self.end_ns = NEVER
        self.received_bytes, self.status = 0, NEVER
        self.has_kernel_clock = False

    def stream(self) -> None:
        """The protocol shows tokens: from now on they are counted and stamped."""
        self.tokens = 0
        self.token_ns = []

    def stamp(self, now_ns: int, tokens: int) -> None:
        """So many token events have just come."""
        if self.token_ns is not None:
            self.tokens += tokens
            if tokens == 1:
                self.token_ns.append(now_ns)
            else:
                self.token_ns.extend((now_ns,) * tokens)

    def stamp_each(self, times_ns: list[int]) -> None:
        """One token event came at each of these times."""
        if self.token_ns is not None:
            self.tokens += len(times_ns)
            self.token_ns += times_ns

    @property
    def plan(self) -> tuple[object, ...]:
        """Everything that the workload and the number alone decide."""
        return (
            self.number,
            self.conversation,
            self.turn,
            self.digits,
            self.prompt,
            self.prompt_tokens,
            self.output_tokens,
            self.fault,
            self.dialogue,
        )
