"""Calls a function in a Dask worker's event loop, with the times at which question and answer went.

The way is a connection straight to the worker, which takes a millisecond; where only the scheduler
can be reached, it goes through that one, which takes several and makes clocks harder to compare.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from kit.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Client

#: A worker that takes longer for one answer has not answered.
CALL_S = 3.0


class Called(NamedTuple):
    """The answer, and when by this machine's clock the question went and the answer came."""

    answer: Any
    asked_ns: int
    came_ns: int


class WorkerCall:
    """Calls functions in the worker at an address."""

    def __init__(self, client: Client, address: str) -> None:
        self._client, self.address = client, address
        self.is_direct = self._reaches()

    def __call__(self, function: Callable[..., Any], *given: object) -> Called:
        """The answer of the worker.

        Raises:
            ClusterError: the function failed there.
            OSError, TimeoutError: the worker did not answer.
        """
        way = self._straight if self.is_direct else self._through_scheduler
        called: Called = self._client.sync(_in_time, way, function, given)
        return called

    def _reaches(self) -> bool:
        try:
            self._client.sync(_in_time, self._straight, time.monotonic_ns, ())
        except (OSError, ClusterError):
            return False
        return True

    async def _straight(self, message: dict[str, bytes]) -> tuple[Any, int, int]:
        asked_ns = time.monotonic_ns()
        answer = await self._client.rpc(self.address).run(**message)
        return answer, asked_ns, time.monotonic_ns()

    async def _through_scheduler(self, message: dict[str, bytes]) -> tuple[Any, int, int]:
        asked_ns = time.monotonic_ns()
        answers = await self._client.scheduler.broadcast(
            msg={"op": "run", **message}, workers=[self.address], on_error="return"
        )
        return answers[self.address], asked_ns, time.monotonic_ns()


async def _in_time(
    way: Callable[[dict[str, bytes]], Any], function: Callable[..., Any], given: tuple[object, ...]
) -> Called:
    from distributed.protocol.pickle import dumps

    message = {"function": dumps(function), "args": dumps(given), "kwargs": dumps({})}
    async with asyncio.timeout(CALL_S):
        answer, asked_ns, came_ns = await way(message)
    if isinstance(answer, dict) and answer.get("status") == "OK":
        return Called(answer["result"], asked_ns, came_ns)
    said = answer.get("exception_text", "") if isinstance(answer, dict) else repr(answer)
    raise ClusterError(f"a worker failed: {said}", "the same kit there", "see its log")
