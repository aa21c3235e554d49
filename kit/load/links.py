"""Opens connections, with the kernel's time of what comes where that can be had."""

from __future__ import annotations

import asyncio
import ssl

from kit.load.link import Clock, Link, Receiver, TransportLink
from kit.load.poller import Poller, is_supported


class Links:
    """The connections of one worker.

    kernel_clock: ask the kernel for its time. Where it has none (another system, TLS) what came
        has the time at which this process read it.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, clock: Clock, *, kernel_clock: bool = True
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._poller = Poller(loop, clock) if kernel_clock and is_supported() else None

    async def open(
        self, receiver: Receiver, host: str, port: int, tls: ssl.SSLContext | None
    ) -> Link:
        """Connect to `host`.

        Raises:
            OSError: there is no connection to be had.
        """
        if self._poller is not None and tls is None:
            return await self._poller.connect(receiver, host, port)
        _, link = await self._loop.create_connection(
            lambda: TransportLink(receiver, self._clock), host, port, ssl=tls
        )
        return link

    def close(self) -> None:
        """Read nothing any more."""
        if self._poller is not None:
            self._poller.close()
            self._poller = None
