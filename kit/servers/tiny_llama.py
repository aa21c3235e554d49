"""Makes a tiny Llama of random weights with its tokenizer: a model without a hub.

Four layers, 2.6 million parameters, 512 words; it answers in words without meaning, and a word
is a token. The same seed gives the same bytes on every machine: the weights come from the
generator's raw bits, since NumPy may change its distributions from one version to the next.
"""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

#: Raise this when anything below changes what is written.
EDITION: Final = 1

_LAYERS: Final = 4
_HIDDEN: Final = 256
#: Two query heads a key-value head.
_HEAD_SIZE: Final = 32
_INTERMEDIATE: Final = 512
_WORDS: Final = 512
_CONTEXT_TOKENS: Final = 4096
_SPECIAL: Final = ("<unk>", "<s>", "</s>")


def write_tiny_llama(folder: Path, *, head_size: int = _HEAD_SIZE, seed: int = 0) -> None:
    """Write the files that vLLM and Transformers load a model from into `folder`.

    head_size: numbers an attention head has; 128 at most, a power of two. The weights are the same.
    """
    for name, content in (
        ("config.json", _config(head_size)),
        ("generation_config.json", {"bos_token_id": 1, "eos_token_id": 2}),
        ("tokenizer.json", _tokenizer()),
        ("tokenizer_config.json", _tokenizer_config()),
    ):
        (folder / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
    _write_safetensors(folder / "model.safetensors", np.random.PCG64(seed))


def _config(head_size: int) -> dict[str, object]:
    heads = _HIDDEN // head_size
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "float32",
        "hidden_size": _HIDDEN,
        "intermediate_size": _INTERMEDIATE,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
        "vocab_size": _WORDS,
        "max_position_embeddings": _CONTEXT_TOKENS,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def _tokenizer() -> dict[str, object]:
    syllables = itertools.product("bdfgklmnprstvz", "aeiou", "bdfgklmnprstvz")
    words = [*_SPECIAL, *("".join(letters) for letters in syllables)][:_WORDS]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": word, "special": True, **flags}
            for number, word in enumerate(_SPECIAL)
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {word: number for number, word in enumerate(words)},
            "unk_token": "<unk>",
        },
    }


def _tokenizer_config() -> dict[str, object]:
    unknown, begin, end = _SPECIAL
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": unknown,
        "bos_token": begin,
        "eos_token": end,
        "model_max_length": _CONTEXT_TOKENS,
    }


def _shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of all tensors, in the order in which they draw their weights."""
    key_value = _HIDDEN // 2
    yield "model.embed_tokens.weight", (_WORDS, _HIDDEN)
    for number in range(_LAYERS):
        layer = f"model.layers.{number}"
        yield f"{layer}.input_layernorm.weight", (_HIDDEN,)
        yield f"{layer}.self_attn.q_proj.weight", (_HIDDEN, _HIDDEN)
        yield f"{layer}.self_attn.k_proj.weight", (key_value, _HIDDEN)
        yield f"{layer}.self_attn.v_proj.weight", (key_value, _HIDDEN)
        yield f"{layer}.self_attn.o_proj.weight", (_HIDDEN, _HIDDEN)
        yield f"{layer}.post_attention_layernorm.weight", (_HIDDEN,)
        yield f"{layer}.mlp.gate_proj.weight", (_INTERMEDIATE, _HIDDEN)
        yield f"{layer}.mlp.up_proj.weight", (_INTERMEDIATE, _HIDDEN)
        yield f"{layer}.mlp.down_proj.weight", (_HIDDEN, _INTERMEDIATE)
    yield "model.norm.weight", (_HIDDEN,)
    yield "lm_head.weight", (_WORDS, _HIDDEN)


def _weights(shape: tuple[int, ...], bits: np.random.PCG64) -> bytes:
    """Ones for a norm; for a matrix uniform weights of variance 1 / its inputs."""
    if len(shape) == 1:
        return np.ones(shape, "<f4").tobytes()
    top_24 = (bits.random_raw(int(np.prod(shape))) >> np.uint64(40)).astype("<f4")
    half_width = np.float32(np.sqrt(3 / shape[1]))
    weights: np.ndarray = (top_24 / np.float32(2**23) - np.float32(1)) * half_width
    return weights.astype("<f4").tobytes()


def _write_safetensors(path: Path, bits: np.random.PCG64) -> None:
    """The safetensors format: length of the header, the header as JSON, the tensors' bytes."""
    header: dict[str, object] = {}
    data = bytearray()
    for name, shape in _shapes():
        begin = len(data)
        data += _weights(shape, bits)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
