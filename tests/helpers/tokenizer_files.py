"""Small tokenizer.json files of the kinds that models have, trained on the kit's own prompts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from kit.load.traffic.prompts import PROMPTS


def byte_level() -> Any:
    """Cuts at blanks, then merges bytes: GPT-2, Llama 3, Qwen."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return made, trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet)


def metaspace() -> Any:
    """A blank is part of the word behind it, and a text begins with one: Llama 2, Mistral."""
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    return made, trainers.BpeTrainer(vocab_size=600, special_tokens=["<unk>", *byte_words()])


def word_piece() -> Any:
    """Lower case, cut at blanks and punctuation: BERT."""
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return made, trainers.WordPieceTrainer(vocab_size=600, special_tokens=["[UNK]"])


def byte_words() -> list[str]:
    return [f"<0x{byte:02X}>" for byte in range(256)]


KINDS: dict[str, Callable[[], Any]] = {
    "byte level": byte_level,
    "metaspace": metaspace,
    "word piece": word_piece,
}


def tokenizer_file(folder: Path, kind: str = "byte level") -> Path:
    """A tokenizer.json in the folder."""
    made, trainer = KINDS[kind]()
    texts = [path.read_text() for path in sorted(PROMPTS.glob("*.txt"))]
    made.train_from_iterator([*texts, "0123456789abcdef [n:]"], trainer)
    path = folder / "tokenizer.json"
    made.save(str(path))
    return path
