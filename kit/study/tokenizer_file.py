"""Names and keeps the tokenizer file that a workload counts its tokens with.

A spec holds "PATH#tokenizer_sha256=…". The file itself is copied into the study's folder
(`traces/<first 16 digits of its SHA-256>.tokenizer.json`), so that it is needed nowhere else. It is
a `tokenizer.json` as Hugging Face's `tokenizers` library writes it; nothing is ever fetched.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from kit.errors import MissingPackageError, SpecError, StoreError
from kit.study.files import read_file
from kit.study.traces.keep import FOLDER, find_kept, write_kept

_MARK = "#tokenizer_sha256="
#: The largest that are in use have some 30 MB.
MOST_BYTES = 2**28
ENDING = ".tokenizer.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFile:
    """A tokenizer file by its path and contents."""

    path: str
    sha256: str

    @property
    def label(self) -> str:
        """Short, and different for different contents: "tokenizer.json (3f2a91c0)"."""
        return f"{Path(self.path).name} ({self.sha256[:8]})"

    def __str__(self) -> str:
        return f"{self.path}{_MARK}{self.sha256}"


def is_pinned(text: object) -> bool:
    """Whether it is the name of a tokenizer file in a spec."""
    return isinstance(text, str) and _MARK in text


def as_tokenizer(value: object) -> str:
    """The tokenizer file at a path, as a spec names it; it has been tried.

    Raises:
        SpecError: it cannot be read, or is no tokenizer.
        MissingPackageError: the tokenizers library is not installed.
    """
    if not isinstance(value, str) and not hasattr(value, "__fspath__"):
        raise SpecError(f"tokenizer = {value!r}", "the path of a tokenizer.json", "give it as text")
    text = str(value)
    if is_pinned(text):
        return str(pinned_tokenizer(text))
    data = _read(Path(text))
    open_tokenizer(data, text)
    return str(TokenizerFile(path=text, sha256=hashlib.sha256(data).hexdigest()))


def pinned_tokenizer(text: str) -> TokenizerFile:
    """The tokenizer file that a spec names.

    Raises:
        SpecError: a name that was changed by hand.
    """
    path, mark, sha256 = text.rpartition(_MARK)
    if not mark or len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
        raise SpecError(f"the tokenizer file {text!r}", "a path", "leave out what follows the #")
    return TokenizerFile(path=path, sha256=sha256)


def keep_tokenizer(study: Path, text: str | None) -> None:
    """Copy the tokenizer file that a workload names into the study's folder.

    Raises:
        SpecError: it is not there or has changed since the workload was made.
        StoreError: the folder cannot be written.
    """
    if text is None:
        return
    file = pinned_tokenizer(text)
    path = study / FOLDER / _name(file)
    if not path.exists():
        write_kept(path, _source(file))


def tokenizer_of(text: str, folder: Path | None = None) -> Any:
    """The `tokenizers.Tokenizer` that a workload names: as kept in the study that `folder` (of a
    trial, or the study's own) belongs to, else from the file itself.

    Raises:
        SpecError: neither is there, the file has changed, or it is no tokenizer.
        StoreError: what was kept is damaged.
        MissingPackageError: the tokenizers library is not installed.
    """
    file = pinned_tokenizer(text)
    kept = find_kept(folder, _name(file))
    if kept is None:
        return open_tokenizer(_source(file), file.path)
    study, path = kept
    data = read_file(path, within=study, limit=MOST_BYTES)
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise StoreError(
            f"{path} is damaged: its checksum is another",
            "the tokenizer file as the kit copied it",
            "restore it from a copy",
        )
    return open_tokenizer(data, file.path)


def _name(file: TokenizerFile) -> str:
    return f"{file.sha256[:16]}{ENDING}"


def _source(file: TokenizerFile) -> bytes:
    data = _read(Path(file.path))
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != file.sha256:
        raise SpecError(
            f"the tokenizer file {file.path}, which has changed (checksum {sha256[:8]}…)",
            f"the one that the study was planned with ({file.sha256[:8]}…)",
            "restore it, or make a new study",
        )
    return data


def _read(path: Path) -> bytes:
    try:
        return read_file(path / "tokenizer.json" if path.is_dir() else path, limit=MOST_BYTES)
    except (OSError, StoreError) as error:
        raise SpecError(
            f"the tokenizer file {path}, which cannot be read ({error})",
            "the path of a tokenizer.json, or of the folder of a model that has one",
            "correct the path; the kit fetches nothing",
        ) from error


@lru_cache(maxsize=2)
def open_tokenizer(data: bytes, path: str) -> Any:
    """The `tokenizers.Tokenizer` in a file's bytes, without padding and cutting.

    Raises:
        SpecError: it is none.
        MissingPackageError: the tokenizers library is not installed.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingPackageError(
            "tokenizers, which is not installed",
            "tokenizers 0.20 or newer to count with a tokenizer file",
            'install it: pip install ".[tokenizers]", or conda install tokenizers',
        ) from error
    try:
        found = Tokenizer.from_buffer(data)
        found.no_padding()
        found.no_truncation()
        if not found.encode("a b", add_special_tokens=False).ids:
            raise ValueError("it makes no token of a text")
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the library is no Exception
        raise SpecError(
            f"the tokenizer file {path}, which is none ({error})",
            "a tokenizer.json of Hugging Face's tokenizers library",
            "take the tokenizer.json of the model; of a tokenizer.model or vocab.json, save it "
            "with tokenizers or transformers first",
        ) from error
    return found
