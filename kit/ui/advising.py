"""What `kit.advise` does: asks, before an upgrade, what is known of a release."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kit.ui.advice_card import AdviceCard


def advise(release: str, traffic: str | Iterable[str]) -> AdviceCard:
    """What is known to kill a release under some traffic, and which releases are better for it.

    Each statement says what it rests on: measured here, reported, read in source or inferred; and
    what nobody has measured is said, too.

    release: "24.05", or a Triton version such as "2.46.0". traffic: scenarios
    ("grpc-stream-cancel"), or protocols ("grpc-stream") for all faults that use them.

    Raises:
        UnknownReleaseError, UnknownScenarioError: it is none; both name the nearest.

    >>> import kit
    >>> kit.advise(release="24.05", traffic=["grpc-stream-cancel"]).risks[0].labels
    ('measured here', 'read in source')
    """
    from kit.crash.upgrade import advise as ask
    from kit.ui.advice_card import AdviceCard

    asked = [traffic] if isinstance(traffic, str) else [*traffic]
    return AdviceCard.of(ask(release=release, traffic=asked))
