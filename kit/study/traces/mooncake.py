"""Reads Mooncake traces: JSON lines with arrival time, lengths and hashes of prompt blocks.

kvcache-ai/Mooncake: timestamp (ms), input_length, output_length, hash_ids (a block is 512 tokens;
prompts whose first ids are alike share their beginning). Rows of one session_id, as AIPerf and
Dynamo write them, are turns of a conversation: each has `delay` (ms) after the answer before it,
and its input_length counts the new tokens only, unless the row has hash_ids of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kit.study.traces.messages import dialogue_of
from kit.study.traces.rows import MOST_ID, Place, TraceRow

MOONCAKE = "mooncake"
_LENGTHS = ("input_length", "input_tokens")
_ANSWERS = ("output_length", "output_tokens")
_TIMES = ("timestamp", "created_time")
_DELAYS = ("delay", "delay_ms")


def is_mooncake(row: Mapping[str, Any]) -> bool:
    """True of a row with a prompt's length, or with a prompt and a time."""
    timed = any(name in row for name in (*_TIMES, *_DELAYS, "session_id"))
    return any(name in row for name in _LENGTHS) or (
        timed and ("text_input" in row or "messages" in row)
    )


def read_mooncake(place: Place, row: Mapping[str, Any], sessions: dict[str, int]) -> TraceRow:
    """One row. sessions: numbers of the conversations so far, by session or row; it grows.

    Raises:
        SpecError: a field that cannot be used; names line and field.
    """
    session = row.get("session_id")
    # A row without a session is a conversation of its own.
    key = f"row {len(sessions)}" if session is None else f"session {session}"
    is_later = key in sessions
    conversation = sessions.setdefault(key, len(sessions))
    due_ms = _first(place, row, _TIMES)
    length = _first(place, row, _LENGTHS)
    answer = _first(place, row, _ANSWERS)
    dialogue: tuple[str, ...] = ()
    if "messages" in row:
        dialogue = dialogue_of(place, row["messages"], "messages")
        if len(dialogue) % 2 == 0:  # the answer that was given then is no part of the prompt
            dialogue = dialogue[:-1]
    elif "text_input" in row:
        dialogue = (place.text("text_input", row["text_input"]),)
    elif length is None:
        raise place.missing("input_length", "input_length, text_input or messages in every row")
    blocks = row.get("hash_ids") or []
    if not isinstance(blocks, list):
        raise place.wrong("hash_ids", blocks, "a list of whole numbers")
    return TraceRow(
        due_s=None if due_ms is None or (is_later and "delay" in row) else due_ms / 1e3,
        prompt_tokens=None if length is None else place.count("input_length", length),
        output_tokens=None if answer is None else place.count("output_length", answer),
        dialogue=dialogue,
        blocks=tuple(place.count("hash_ids", one, MOST_ID) for one in blocks),
        conversation=conversation,
        delay_s=(_first(place, row, _DELAYS) or 0.0) / 1e3 if is_later else 0.0,
    )


def _first(place: Place, row: Mapping[str, Any], names: tuple[str, ...]) -> float | None:
    for name in names:
        if row.get(name) is not None:
            return place.number(name, row[name])
    return None
