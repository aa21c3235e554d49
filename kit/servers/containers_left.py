"""Finds and removes containers of a run, by their label; what `kit clean` and a sweep use."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from kit.servers.runs import Run

LABEL: Final = "triton-crash-kit.run"
#: On a run's record: the address of the engine that its container is on.
KEY: Final = "engine"


def note_container(record: Path, engine: str) -> None:
    """Write on a run's record, before it is made, which engine its container is on."""
    content = json.loads(record.read_bytes())
    scratch = record.with_name(f".{record.stem}")
    scratch.write_text(json.dumps(content | {KEY: engine}))
    scratch.replace(record)


def containers_of(run: Run) -> list[str]:
    """Names of the run's containers; none where its engine cannot be reached."""
    from kit.errors import KitError

    try:
        with _containers(run) as found:
            return [str(container.name) for container in found]
    except KitError:
        return []


def remove_containers(run: Run) -> list[str] | None:
    """Remove the run's containers; their names. None: its engine cannot be reached."""
    from kit.errors import KitError

    try:
        with _containers(run) as found:
            for container in found:
                container.remove(force=True, v=True)
            return [str(container.name) for container in found]
    except KitError:
        return None


def _engine_of(run: Run) -> str | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        engine = json.loads(run.record.read_bytes())[KEY]
        return engine if isinstance(engine, str) else None
    return None


@contextlib.contextmanager
def _containers(run: Run) -> Iterator[list[Any]]:
    noted = _engine_of(run)
    if noted is None:
        yield []
        return
    from kit.servers.container_engine import engine_for
    from kit.servers.engine_errors import Asked

    engine = engine_for(noted, run)
    try:
        client = engine.client()
        try:
            with engine.errors(Asked(engine=engine.address.url)):
                yield client.containers.list(
                    all=True, ignore_removed=True, filters={"label": f"{LABEL}={run.name}"}
                )
        finally:
            client.close()
    finally:
        engine.close()
