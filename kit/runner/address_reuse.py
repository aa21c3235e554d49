"""Measures how often a request gets the address in memory of one whose answer still streams.

A real server, logging verbosely, prints the address of each request that it prepares; the kit's
model `streams` logs when an answer gets its final response. Both stand in one log, by one clock,
so a slow client changes nothing. The second part of the course is built on this.
"""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import tritonclient.grpc as grpc

from kit.servers.embedded import EmbeddedServer
from kit.servers.factory import LAUNCH_ARGS
from kit.servers.repository import build_repository
from kit.study.folder import TrialFolder
from kit.study.releases import get_release
from kit.study.spec import Endpoint, ServerSpec, TrialSpec

MODEL = "streams"
TIMEOUT_S = 60.0
_TIME = r"^[A-Z](\d\d)(\d\d) (\d\d):(\d\d):(\d\d)\.(\d{6}) "
_PREPARED = re.compile(_TIME + r".* prepared: \[0x(0x[0-9a-f]+)\] request id: (\S+),", re.MULTILINE)
_FINAL = re.compile(_TIME + r".*final response of \[(\S+)\]", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Addressed:
    """One request: where it lay, and whether another's answer was still on its way there."""

    release: str
    clients: int
    request: int  # order of preparation among those of as many clients
    address: str
    prepared_s: float  # from the first of as many clients, by the server's clock
    final_s: float | None  # when its final response was about to be sent; None: it was not
    reused: bool


def measure(
    release: str, folder: Path, *, clients: Sequence[int] = (1, 2, 4, 8, 16), requests: int = 200
) -> list[Addressed]:
    """Send `requests` requests from each number of clients to one fresh server of `release`.

    folder: new; keeps the server's log.

    Raises:
        UnknownReleaseError, ServerStartError: that server cannot be run here.
    """
    spec = TrialSpec(
        trial_id="address-reuse",
        server=ServerSpec(release=release),
        scenario="address-reuse",
        model=MODEL,
    )
    trial = TrialFolder.create(folder, spec)
    repository = build_repository(spec, folder / "repository")
    args = (*LAUNCH_ARGS, "--log-verbose=1")
    with EmbeddedServer(get_release(release), repository, trial, extra_args=args) as server:
        for number in clients:
            _send(server.endpoint, number, requests)
    return addressed(trial.log.read_text("utf-8", errors="replace"), release)


def addressed(log: str, release: str) -> list[Addressed]:
    """What a verbose log tells of the requests; their ids are "<clients>-<number>"."""
    final = {line[-1]: _seconds(line) for line in _FINAL.findall(log)}
    rows: list[Addressed] = []
    owner: dict[tuple[int, str], str] = {}  # who had the address last
    first: dict[int, float] = {}
    counted: dict[int, int] = {}
    for *moment, address, name in _PREPARED.findall(log):
        clients, now = int(name.partition("-")[0]), _seconds(moment)
        zero = first.setdefault(clients, now)
        before = owner.get((clients, address))
        rows.append(
            Addressed(
                release=release,
                clients=clients,
                request=counted.setdefault(clients, 0),
                address=address,
                prepared_s=now - zero,
                final_s=final[name] - zero if name in final else None,
                reused=before is not None and final.get(before, float("inf")) > now,
            )
        )
        counted[clients] += 1
        owner[clients, address] = name
    return rows


def as_rows(found: Sequence[Addressed]) -> list[dict[str, object]]:
    """The same as plain rows for a table."""
    return [asdict(one) for one in found]


def _seconds(moment: Sequence[str]) -> float:
    """Seconds from the turn of a year; the log tells no year, and only differences count."""
    month, day, hour, minute, second, micro = map(int, moment[:6])
    return datetime(2000, month, day, hour, minute, second, micro, tzinfo=UTC).timestamp()


def _send(endpoint: Endpoint, clients: int, requests: int) -> None:
    """A closed loop of `clients` gRPC streams; an answer that fails is left to the log to tell."""
    numbers = itertools.count()

    def client() -> None:
        ended = threading.Event()
        text = grpc.InferInput("text_input", [1], "BYTES")
        text.set_data_from_numpy(np.array([b"?"], dtype=object))
        with grpc.InferenceServerClient(f"{endpoint.host}:{endpoint.grpc_port}") as stream:
            stream.start_stream(lambda result, error: _note_end(result, error, ended))
            while (number := next(numbers)) < requests:
                ended.clear()
                stream.async_stream_infer(
                    MODEL,
                    [text],
                    request_id=f"{clients}-{number}",
                    enable_empty_final_response=True,
                )
                if not ended.wait(TIMEOUT_S):
                    return

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _note_end(result: grpc.InferResult | None, error: object, ended: threading.Event) -> None:
    """Called by the stream's own thread for each response."""
    if error is not None or result is None:
        ended.set()
        return
    final = result.get_response().parameters.get("triton_final_response")
    if final is not None and final.bool_param:
        ended.set()
