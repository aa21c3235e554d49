"""Opens a bundle: reads its manifest and has every file of it whole, compared by hash.

Uses the standard library alone (see kit.servers.bundle.manifest).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kit.errors import BundleError
from kit.servers.bundle.content import no_place
from kit.servers.bundle.manifest import Manifest, read_manifest
from kit.servers.bundle.pieces import FILES, join
from kit.servers.bundle.progress import Say, size


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedBundle:
    """A bundle whose files are all there, and were compared with the manifest."""

    manifest: Manifest
    sha256: str  # of the manifest
    files: Path


def open_bundle(
    folder: Path, into: Path | None, manifest_sha256: str | None, say: Say
) -> OpenedBundle:
    """Check the bundle in `folder`, and put its pieces together if it is in pieces.

    into: where the files of the pieces go; None: `folder`/files. manifest_sha256: what the
    manifest must have, as the machine that made it said; None: whatever it has.

    Raises:
        BundleError: it is no bundle of the kit's, not the one that was meant, or not whole.
        StoreError: no bundle is there, or the disk does not take it.
    """
    folder = folder.absolute()
    manifest, sha256 = read_manifest(folder)
    if manifest_sha256 is not None and manifest_sha256.strip().lower() != sha256:
        raise BundleError(
            f"a bundle whose manifest has SHA-256 {sha256}",
            f"SHA-256 {manifest_sha256}",
            "use it no further: it is another bundle than the one that was meant, or was changed",
        )
    if into is not None and not manifest.pieces:
        raise BundleError(
            f"a folder for the files of {folder}, which is not in pieces",
            "no such folder: its files are used where they are",
            "leave --into out",
        )
    parts = f" in {len(manifest.pieces)} pieces" if manifest.pieces else ""
    say(
        f"bundle of the kit {manifest.kit} for Python {manifest.python} and {manifest.platform}: "
        f"{len(manifest.files)} files, {size(manifest.size_bytes)}{parts}; "
        f"manifest SHA-256 {sha256}"
    )
    files = folder / FILES if into is None else into.absolute()
    if into is None and files.is_symlink():
        raise no_place(files, "a link")
    join(folder, manifest, files, say)
    say("every file is whole")
    return OpenedBundle(manifest=manifest, sha256=sha256, files=files)
