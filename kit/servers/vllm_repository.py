"""Writes the model repository of Triton's official vLLM backend, for the vLLM of each image.

From 23.10 on the layout is one model with `backend: "vllm"` and the engine's arguments in
`1/model.json`; inputs and outputs are filled in by the backend. Between the generations differ
the arguments that vLLM knows, and what the backend exports.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from kit.errors import SpecError
from kit.study.releases import get_release
from kit.study.spec import ServerSpec

#: The name of the model on the server, as in the documentation of the backend.
MODEL: Final = "vllm_model"
#: Where a model that is a folder on this machine lies in the container.
WEIGHTS: Final = "/weights"
#: The last vLLM whose engine takes disable_log_requests: a line a request, the prompt in it.
_LOGS_REQUESTS_UNTIL: Final = (0, 9)
#: The first release whose backend can put vLLM's figures on Triton's metrics port.
_METRICS_SINCE: Final = "24.08"

_CONFIG: Final = """\
backend: "vllm"
instance_group [ { count: 1 kind: KIND_MODEL } ]
"""
_METRICS: Final = """\
parameters { key: "REPORT_CUSTOM_METRICS" value { string_value: "true" } }
"""


def write_vllm_repository(server: ServerSpec, into: Path) -> Path:
    """Write the repository that serves `server.model` with vLLM into `into` and return it.

    Raises:
        SpecError: the engine's arguments are no JSON object.
    """
    version = into / MODEL / "1"
    version.mkdir(parents=True)
    config = _CONFIG + (_METRICS if _has_metrics(server) else "")
    (into / MODEL / "config.pbtxt").write_text(config, encoding="utf-8")
    arguments = engine_arguments(server)
    (version / "model.json").write_text(json.dumps(arguments, indent=2) + "\n", encoding="utf-8")
    return into


def engine_arguments(server: ServerSpec) -> dict[str, object]:
    """What goes to vLLM's engine; what the user gave goes before the kit's own.

    Raises:
        SpecError: what the user gave is no JSON object.
    """
    try:
        given = json.loads(server.engine_args or "{}")
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise SpecError(
            f"engine_args = {server.engine_args!r}",
            'a JSON object such as {"max_model_len": 4096}',
            "names and values are those of vLLM's engine arguments",
        )
    model = WEIGHTS if local_weights(server) else server.model
    own: dict[str, object] = {"model": model, "disable_log_stats": False}
    vllm = get_release(server.release).vllm if server.release and not server.image else None
    if vllm and tuple(int(part) for part in vllm.split(".")[:2]) <= _LOGS_REQUESTS_UNTIL:
        own["disable_log_requests"] = True
    return own | given


def local_weights(server: ServerSpec) -> Path | None:
    """The model's folder on this machine; None: it is a name, which vLLM fetches."""
    path = Path(server.model or "").expanduser()
    return path.resolve() if server.model and path.is_dir() else None


def _has_metrics(server: ServerSpec) -> bool:
    return server.release is not None and server.release >= _METRICS_SINCE
