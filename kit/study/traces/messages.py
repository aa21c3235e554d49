"""Reads traffic files with the prompts themselves: OpenAI requests, ShareGPT, perf_analyzer.

OpenAI: one request a line, with `messages` or `prompt`, and max_tokens; also as the `body` of a
batch file's line.
ShareGPT: conversations of turns `from` and `value`. Each answer that follows a question is a
request, with the conversation so far as its prompt and the answer's length asked for.
perf_analyzer's --input-data: `data`, a list of requests with the model's inputs by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from kit.study.traces.rows import Place, TraceRow, merged, words_of

OPENAI, SHAREGPT, PERF_ANALYZER = "openai", "sharegpt", "perf_analyzer"
_MOST_TOKENS = ("max_completion_tokens", "max_tokens")
#: Who speaks in a ShareGPT file.
_ASSISTANTS = frozenset({"gpt", "chatgpt", "assistant", "bing", "bard", "model"})
#: Inputs that carry a prompt, by the models that perf_analyzer is used with.
_PROMPTS = ("text_input", "prompt", "PROMPT", "text", "TEXT")
_LENGTHS = ("max_tokens", "request_output_len", "MAX_TOKENS")


def dialogue_of(place: Place, messages: Any, field: str) -> tuple[str, ...]:
    """The texts of OpenAI messages, user and assistant in turn.

    Raises:
        SpecError: no messages, or something else than text in them.
    """
    if not isinstance(messages, list) or not messages:
        raise place.wrong(field, messages, "a list of messages with role and content")
    said = []
    for number, message in enumerate(messages):
        at = f"{field}[{number}]"
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise place.wrong(at, message, "a message with role and content")
        said.append((message["role"], _content(place, message.get("content"), f"{at}.content")))
    return merged(said)


def _content(place: Place, content: Any, field: str) -> str:
    if content is None:  # a call of a tool
        return ""
    if isinstance(content, list):
        texts = []
        for number, part in enumerate(content):
            if not isinstance(part, dict) or part.get("type") != "text":
                raise place.wrong(f"{field}[{number}]", part, "a part of type text")
            texts.append(place.text(f"{field}[{number}].text", part.get("text")))
        return "\n".join(texts)
    return place.text(field, content)


def is_openai(row: Mapping[str, Any]) -> bool:
    """True of a chat or completion request, or a batch file's line."""
    return "messages" in row or "prompt" in row or isinstance(row.get("body"), dict)


def read_openai(place: Place, row: Mapping[str, Any], conversation: int) -> TraceRow:
    """One request. A dialogue that ends with the assistant is one whose answer is known: the
    last words are left out, and their number is asked for.

    Raises:
        SpecError: a field that cannot be used.
    """
    if isinstance(row.get("body"), dict):
        row, place = row["body"], place.at(", body")
    if "messages" in row:
        dialogue = dialogue_of(place, row["messages"], "messages")
    elif "prompt" in row:
        dialogue = (place.text("prompt", row["prompt"]),)
    else:
        raise place.missing("messages", "messages or prompt in every request")
    asked = next((row[name] for name in _MOST_TOKENS if row.get(name) is not None), None)
    tokens = None if asked is None else place.count("max_tokens", asked)
    answer = ""
    if len(dialogue) % 2 == 0:
        answer = "" if tokens is not None else dialogue[-1]
        tokens = words_of(dialogue[-1:]) if tokens is None else tokens
        dialogue = dialogue[:-1]
    return TraceRow(
        output_tokens=tokens, answer=answer, dialogue=dialogue, conversation=conversation
    )


def is_sharegpt(row: Mapping[str, Any]) -> bool:
    return "conversations" in row or "items" in row


def read_sharegpt(place: Place, row: Mapping[str, Any], conversation: int) -> list[TraceRow]:
    """The requests of one conversation; none, if nobody is asked and answers in it.

    Raises:
        SpecError: a field that cannot be used.
    """
    field = "conversations" if "conversations" in row else "items"
    turns = row[field]
    if not isinstance(turns, list):
        raise place.wrong(field, turns, "a list of turns with from and value")
    rows: list[TraceRow] = []
    said: list[tuple[str, str]] = []
    for number, turn in enumerate(turns):
        at = f"{field}[{number}]"
        if not isinstance(turn, dict) or not isinstance(turn.get("from"), str):
            raise place.wrong(at, turn, "a turn with from and value")
        text = place.text(f"{at}.value", turn.get("value"))
        is_answer = turn["from"] in _ASSISTANTS
        if is_answer and not said:
            continue  # a part of a longer conversation, cut off before this answer
        if is_answer and said[-1][0] != "assistant" and text.strip():
            rows.append(
                TraceRow(
                    output_tokens=words_of([text]),
                    answer=text,
                    dialogue=merged(said),
                    conversation=conversation,
                )
            )
        said.append(("assistant" if is_answer else "user", text))
    return rows


def read_perf_analyzer(place: Place, document: Mapping[str, Any]) -> list[TraceRow]:
    """The requests of an --input-data file; a list within its list is a sequence of requests.

    Raises:
        SpecError: a field that cannot be used.
    """
    data = document["data"]
    if not isinstance(data, list):
        raise place.wrong("data", data, "a list of requests")
    rows = []
    for number, entry in enumerate(data):
        sequence = entry if isinstance(entry, list) else [entry]
        for step, request in enumerate(sequence):
            at = f"data[{number}][{step}]" if isinstance(entry, list) else f"data[{number}]"
            if not isinstance(request, dict):
                raise place.wrong(at, request, "a request: the model's inputs by name")
            rows.append(_request(place, at, request, number))
    return rows


def _request(place: Place, at: str, request: Mapping[str, Any], conversation: int) -> TraceRow:
    if "payload" in request:  # of genai-perf: an OpenAI request
        payload = _first_of(request["payload"])
        if not isinstance(payload, dict):
            raise place.wrong(f"{at}.payload", payload, "an OpenAI request")
        return read_openai(place.at(f", {at}.payload"), payload, conversation)
    name = next((name for name in _PROMPTS if name in request), None)
    if name is None:
        raise place.missing(
            f"a prompt in {at}, which has {', '.join(map(str, request)) or 'nothing'}",
            f"one of {', '.join(_PROMPTS)}",
        )
    prompt = place.text(f"{at}.{name}", _first_of(request[name]))
    length = next((name for name in _LENGTHS if name in request), None)
    tokens = None
    if length is not None:
        tokens = place.count(f"{at}.{length}", _first_of(request[length]))
    elif "sampling_parameters" in request:
        tokens = _sampled(place, f"{at}.sampling_parameters", request["sampling_parameters"])
    return TraceRow(output_tokens=tokens, dialogue=(prompt,), conversation=conversation)


def _first_of(value: Any) -> Any:
    """The one value of a tensor, given as it is, in a list, or with its shape."""
    if isinstance(value, dict) and "content" in value:
        value = value["content"]
    while isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 1:
        value = value[0]
    return value


def _sampled(place: Place, field: str, value: Any) -> int | None:
    """max_tokens of vLLM's sampling parameters, which are JSON in a text."""
    text = place.text(field, _first_of(value))
    try:
        parameters = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        parameters = None
    if not isinstance(parameters, dict):
        raise place.wrong(field, text, "a JSON object in a text")
    if parameters.get("max_tokens") is None:
        return None
    return place.count(f"{field}.max_tokens", parameters["max_tokens"])
