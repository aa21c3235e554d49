"""What says who asks a server that is not the kit's own, from the environment."""

from __future__ import annotations

import os
from functools import partial

from kit.load.http.target import credentials_from, tls_context
from kit.load.worker.redact import forms, redacted
from kit.servers.base import Access
from kit.study.spec import ServerKind, ServerSpec


def access_to(server: ServerSpec) -> Access | None:
    """Its headers and certificates; None for a server of the kit's own.

    Raises:
        SpecError: the environment's headers or certificates cannot be used.
    """
    if server.kind is not ServerKind.ATTACHED:
        return None
    secure = (server.url or "").startswith(("https:", "grpcs:"))
    credentials = credentials_from(os.environ)
    return Access(
        headers=credentials.headers,
        tls=tls_context(os.environ) if secure else None,
        redact=partial(redacted, secrets=forms(credentials.secrets)),
    )
