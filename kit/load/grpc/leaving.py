"""When a gRPC client leaves a call, how long it waits, and what is recorded; for both clients."""

from __future__ import annotations

from typing import Final

from kit.load.answers import Judgement
from kit.load.traffic.call import Call
from kit.load.traffic.faults import FaultPlan
from kit.study.result import Outcome
from kit.study.spec import FaultKind

#: A unary call shows no tokens; a client that is to leave it does so after this time.
UNARY_STAY_S: Final = 0.001
#: How long a stream's end is waited for in good order, before it is cancelled.
DRAIN_S: Final = 1.0
_MS = 1_000_000
HALF_OPEN = Judgement(Outcome.DISCONNECTED, "opened a stream, sent nothing")


def told_deadline(now_ns: int, deadline_s: float) -> tuple[int, int]:
    """(the deadline that the server is told in ms, when it is over in ns), as gRPC's core has it.

    The time at which it is over is rounded up to a millisecond of the clock, now is rounded down.

    >>> told_deadline(1_900_000, 0.25)
    (251, 252000000)
    """
    end_ms = -(-(now_ns + round(deadline_s * 1e9)) // _MS)
    return max(1, end_ms - now_ns // _MS), end_ms * _MS


def has_enough(call: Call, fault: FaultPlan) -> bool:
    """The client has read as much as its fault lets it."""
    return (call.received_bytes if fault.in_bytes else call.tokens) >= fault.after


def left_after(call: Call) -> Judgement:
    """The client left the call on purpose."""
    what = f"{call.tokens} tokens" if call.tokens > 0 else f"{call.received_bytes} bytes"
    return Judgement(Outcome.DISCONNECTED, f"left after {what}")


def expired(call: Call) -> Judgement:
    """The call has had its time; for a half-open one that was what its fault asked for."""
    if call.fault is not None and call.fault.kind is FaultKind.HALF_OPEN:
        return HALF_OPEN
    came = f"{call.received_bytes} bytes came" if call.received_bytes else "nothing came"
    return Judgement(Outcome.TIMEOUT, f"no whole answer in time; {came}")
