"""Infers the release that printed a stack: from address bits, the log, and its owner."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from kit.crash.stack.builds import ReleaseGuess, known_builds
from kit.study.hybrids import is_hybrid
from kit.study.releases import get_release, load_releases

_RELEASE = re.compile(r"(?<![\d.])(2\d\.(?:0[1-9]|1[0-2]))(?![\d.])")
_TRITON = re.compile(r"(?<![\d.])v?(2\.\d{1,3}\.\d{1,2})(?![\d.])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Which release printed a log, and how that is known."""

    releases: tuple[str, ...]  # that can have printed it; empty = unknown
    read_from: str | None  # where `releases` was read from, in words
    believed: str | None  # what the owner says, as a release
    agrees: bool | None  # None: nothing to compare
    contradiction: str | None = None  # what speaks against the release that is named, in words

    @property
    def guess(self) -> str | None:
        return " or ".join(self.releases) or None


def origin_of(guess: ReleaseGuess, stated: Iterable[str], believed: str | None) -> Origin:
    """Weigh the three: address bits are the binary's own, words come second, belief is compared
    and serves only where there is nothing else. Words and belief do not stand against bits that
    are known to be others: then nothing is known.

    believed: a release, see `release_believed`.
    """
    named = tuple(dict.fromkeys(name for s in stated if (name := release_named(s))))
    releases, read_from = _from_bits(guess, named)
    if releases:
        agrees = believed in releases if believed else None
        return Origin(releases=releases, read_from=read_from, believed=believed, agrees=agrees)
    against = [words for name in dict.fromkeys((believed, *named)) if (words := _not(name, guess))]
    if against:
        return Origin(
            releases=(),
            read_from=None,
            believed=believed,
            agrees=False,
            contradiction="; ".join(against),
        )
    agrees = None
    if len(named) == 1:
        releases, read_from = named, "the log's own words"
        agrees = believed in named if believed else None
    elif believed:
        releases, read_from = (believed,), "what its owner says"
    return Origin(releases=releases, read_from=read_from, believed=believed, agrees=agrees)


def _not(release: str | None, guess: ReleaseGuess) -> str | None:
    """Why a stack that shows address bits of no known build is not of `release`, if it is not."""
    build = next((build for build in known_builds() if build.release == release), None)
    if guess.digits is None or build is None:
        return None
    return (
        f"the address bits of frame 0 (…{guess.digits}) are not those of {release} "
        f"(…{build.frame0})"
    )


def _from_bits(guess: ReleaseGuess, named: tuple[str, ...]) -> tuple[tuple[str, ...], str | None]:
    if not guess.builds:
        return (), None
    how = f"the address bits of frame 0 (…{guess.digits})"
    if any(build.evidence == "reported" for build in guess.builds):
        how += ", by other public stacks of that release"
    both = tuple(release for release in guess.releases if release in named)
    if len(guess.builds) > 1 and len(both) == 1:
        return both, f"{how} and the log's own words"
    return guess.releases, how


def release_believed(text: str) -> str:
    """The release that the owner of a log names.

    Raises:
        UnknownReleaseError: there is no release in it; the nearest ones are named.
    """
    return release_named(text) or get_release(text).release


def release_named(text: str) -> str | None:
    """The release in "23.11", "2.40.0", "v2.40.0" or an image's name; None: there is none, as in
    the name of a hybrid."""
    if is_hybrid(text):
        return None
    if found := _RELEASE.search(text):
        return found[1]
    if found := _TRITON.search(text):
        known = {row.triton: row.release for row in load_releases().values()}
        return known.get(found[1])
    return None
