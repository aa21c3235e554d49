"""The named exceptions: each says what was given, what was expected and a hint.

A server's misbehaviour is never one of these: it is data, a value on a record.
"""

from __future__ import annotations

from typing import ClassVar

from kit.cleaning import clean_text


class KitError(Exception):
    """Base of every error that the kit raises on purpose."""

    #: Where more about it can be read; "": nowhere.
    see: ClassVar[str] = ""

    def __init__(self, given: str, expected: str, hint: str) -> None:
        self.given = given
        self.expected = expected
        self.hint = hint
        more = f" See: {self.see}." if self.see else ""
        super().__init__(f"{given}. Expected: {expected}. Hint: {hint}.{more}")

    def __str__(self) -> str:
        """Cleaned: what a server, a log or a folder is quoted with cannot move a cursor."""
        return clean_text(super().__str__())

    def __reduce__(self) -> tuple[type[KitError], tuple[str, str, str]]:
        return type(self), (self.given, self.expected, self.hint)


class SpecError(KitError):
    """A study, trial or workload that cannot be run as written."""


class UnknownReleaseError(KitError):
    """A release that the kit does not know, or that needs another kind of server."""


class UnknownScenarioError(KitError):
    """A scenario that is not in data/scenarios.yaml."""


class MachineError(KitError):
    """Something that this machine has not, or has in a way that does not do."""

    see = "`python -m kit doctor`, which looks at the whole machine"


class UnsupportedPlatformError(MachineError):
    """This machine cannot run the embedded servers: processor, operating system or glibc."""


class LibpythonMissingError(MachineError):
    """No libpython3.X shared library of a version that the server's Python stub fits."""


class DownloadError(MachineError):
    """A package is not in the cache and could not be fetched."""


class HashMismatchError(KitError):
    """A downloaded file is not the one that data/releases.yaml names; it was not kept."""


class BundleError(KitError):
    """A bundle for a machine without a network that is not whole, or that no kit has written."""


class ServerStartError(MachineError):
    """A server that did not start or was not ready in time; carries the log's decisive lines."""


class ContainerError(MachineError):
    """A container engine or image that cannot be used as asked; says what the engine said."""


class PreflightError(KitError):
    """A study that was not begun: no request of it could be answered (`kit.preflight`)."""


class NotConfirmedError(KitError):
    """Traffic for a server that is not on this machine, which nobody has agreed to."""


class ClusterError(KitError):
    """A Dask cluster that cannot be reached or used, or that was lost while it ran trials."""


class StoreError(KitError):
    """A study or trial folder that cannot be written or read."""


class CatalogError(KitError):
    """A data/*.yaml file that does not have the rows it should."""


class LogError(KitError):
    """A log that cannot be read as one: a device, nothing but zeros, a pipe without an end."""


class TooLargeError(KitError):
    """A frame of a study that has more rows than a frame can be made of."""


class MissingPackageError(KitError):
    """A package that an optional part of the kit needs and that is not installed."""


class QueryError(KitError):
    """SQL that cannot be run on a study."""


class NotEnoughDataError(KitError):
    """A statistic that these data cannot support."""


class ExportError(KitError):
    """What cannot be written in another form: traffic as a standalone script, a page as a PDF."""


class DamagedStudyWarning(UserWarning):
    """Some of a study's files are damaged: the rest was read, and what is missing is said."""

    def __str__(self) -> str:
        return clean_text(super().__str__())
