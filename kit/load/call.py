"""One request on its way: what was planned goes in, what happened to it is filled in.

A `Call` is the one mutable object of the load generator: the traffic makes it, a channel sends
it and stamps it, the recorder packs it into a row. It is not a frozen record because a client
that is to cost a few microseconds a request cannot afford a second object for each.
"""

from __future__ import annotations

from kit.load.faults import FaultPlan

#: Of a time or a count that it did not come to; null in the record.
NEVER = -1


class Call:
    """One request: its plan (a pure function of workload and number), then its times.

    Times are CLOCK_MONOTONIC nanoseconds, `NEVER` until they happen. `prompt` is UTF-8 text as
    it stands between the quotes of a JSON string, `text` the same without JSON's escapes (the
    same object where nothing needed escaping).
    """

    __slots__ = (
        "client",
        "conversation",
        "deadline_ns",
        "dialogue",
        "digits",
        "end_ns",
        "fault",
        "first_ns",
        "number",
        "output_tokens",
        "prompt",
        "prompt_tokens",
        "received_bytes",
        "scheduled_ns",
        "sent_ns",
        "status",
        "text",
        "token_ns",
        "tokens",
        "turn",
    )

    def __init__(
        self,
        number: int,
        conversation: int,
        turn: int,
        digits: bytes,
        prompt: bytes,
        text: bytes,
        prompt_tokens: int,
        output_tokens: int,
        fault: FaultPlan | None = None,
        dialogue: tuple[bytes, ...] = (),
    ) -> None:
        self.number = number
        self.conversation = conversation
        self.turn = turn
        #: The hexadecimal digits that every token of the answer must carry.
        self.digits = digits
        self.prompt = prompt
        self.text = text
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.fault = fault
        #: What was said before, user and assistant in turn, as JSON text; this turn's words last.
        self.dialogue = dialogue
        self.client = NEVER
        self.scheduled_ns = NEVER
        self.sent_ns = NEVER
        self.first_ns = NEVER
        self.end_ns = NEVER
        self.deadline_ns = NEVER
        self.token_ns: list[int] | None = None
        self.tokens = NEVER
        self.received_bytes = 0
        self.status = NEVER

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
