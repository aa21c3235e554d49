"""The log lines inside a record: what collectors, exporters and terminals put around them goes.

A record is read by its structure and not by the tool that wrote it: JSON under any key, a JSON
array or a whole JSON answer, quoted CSV, key=value pairs, and the escapes that syslog and
terminals add. Text before a message stays; `kit.crash.log.prefix` knows where a message begins.
"""

from __future__ import annotations

import csv
import html
import json
import re
from collections.abc import Iterator

from kit.crash.log.prose import goes_on_as_prose, is_persons, is_sentence
from kit.crash.log.quotes import quotes_a_request

#: An escape sequence, also where its first byte is written out or was lost.
_COLOUR = re.compile(
    r"(?:\x1b|\^\[|#033|\\{1,8}(?:x1[bB]|u001[bB]|033|e)|\u241b)(?:\[[0-9;?]{0,16}[A-Za-z]|\([AB0])"
    r"|\[(?:[012]|22|39|[349][0-7])(?:;\d{1,3}){0,4}m|\[(?:;\d{1,3}){1,4}m"
    r"|\[m(?!\w)"  # not of "[multiproc_executor.py:470]"
    r"|^[39][0-7]m(?=\()|(?<=\))0m(?=\s)"  # of which two bytes are lost, around a tag
    r"|\x1b\][^\x07\x1b]{0,200}(?:\x07|\x1b\\)"
)
#: Control characters as syslog daemons write them.
_OCTAL = {"#011": "\t", "#012": "\n", "#015": ""}
_BORDER = " \t│┃|\x00\ufeff"
#: Where a record keeps the line, the likeliest first.
_MESSAGE_KEYS = ("log", "message", "msg", "line", "MESSAGE", "@message", "textPayload", "_raw",
                 "raw", "text", "body", "event", "original", "_line", "log_line", "stderr",
                 "short_message", "full_message")  # fmt: skip
_INNER_KEYS = ("jsonPayload", "_source", "fields", "record", "event", "log", "data", "attributes",
               "resource", "result", "hits")  # fmt: skip
#: What a user sent or was answered, under a key of its own.
_USERS = re.compile(
    r"prompt|content|input|question|query|request|completion|answer|response|generated|user|role"
    r"|messages",
    re.IGNORECASE,
)
_CHAT = ("messages", "prompt", "role", "text_input", "inputs")
_PAIR = re.compile(r"^\s{0,40}(?:- )?\"([\w@.\-]{1,80})\"\s?:\s?(\"(?:[^\"\\]|\\.)*\"),?\s*$")
_ELEMENT = re.compile(r"^\s{1,40}(\"(?:[^\"\\]|\\.)*\"),?\s*$")
_LOGFMT = re.compile(r"^\s*((?:\S{1,80} {1,40}){0,8}?)[\w.@\-]{1,40}=(?:\S|$)")
#: Marks of a quotation, and the kind of an issue, before a record that somebody quotes.
_QUOTED = re.compile(r"(?:^|\s)(?:[`'\"]|\*\*|\[[A-Z][a-z]+\]:|#)")
_LOGFMT_MESSAGE = re.compile(
    r"(?:^|\s)(?:msg|message|log|line|text|(err|error))=(\"(?:[^\"\\]|\\.)*\")"
)
_NAMED = re.compile(r"^\s{0,40}(?:MESSAGE=|-? ?(?:message|log|line|msg): (?=[\"'|>\S]))")
_CSV = re.compile(r"^(?:[^\",]{0,200},){0,12}\"(?:[^\"]|\"\")*\"(?:,|$)")
_CSV_BEGINS = re.compile(r"^(?:\"[^\"]{0,200}\",|[^\",]{1,200},){1,12}\"(?=[^\"])")
_CSV_ENDS = re.compile(r"[^\"]\"(?:,(?:\"[^\"]{0,200}\"|[^\",]{0,200})){0,12}$")
_TAGGED = re.compile(r"^\s*<[A-Za-z][\w\-]{0,30}[ >].*>\s*$")
_TAG = re.compile(r"</?[A-Za-z][^<>]{0,200}>")
_ENTITY = re.compile(r"&(?:lt|gt|amp|quot|apos|#\d{1,5}|#x[0-9a-fA-F]{1,4});")
_BETWEEN = re.compile(r"(?<=[}\]])\s{0,20},\s{0,20}(?=[{\[])")
_CUT_VALUE = re.compile(
    r"\"(?:log|message|msg|line|text|body|@message)\"\s?:\s?\"((?:[^\"\\]|\\.)*)"
)
_DEEPEST = 6
_MOST_NESTED = 3
#: From here on a line is cut where its records meet, and not parsed as a whole.
_LONG = 1 << 18
_LETTERS = re.compile(r"[A-Za-z]{2}")
_DECODER = json.JSONDecoder()


def documents(line: str) -> list[str] | None:
    """The records of a line that is a JSON array or an answer that holds one, each as JSON;
    None for any other line.
    """
    text = line.lstrip("\ufeff \t")
    if len(text) > _LONG and len(pieces := _BETWEEN.split(text)) > 2:
        return [piece.strip("[] \t") for piece in pieces]  # maybe cut: each by itself
    if not text.startswith(("[", "{")) or len(text) < 3:
        return None
    if text[0] == "[" and text[1:].lstrip()[:1] not in ("{", "[", '"'):
        return None
    if text[0] == "{" and not (":[" in text or ": [" in text):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    rows = list(_rows(found, 0))
    return [json.dumps(row) for row in rows] if rows else None


def _rows(value: object, depth: int) -> Iterator[object]:
    """The records in nested lists: objects, or pairs of a time and a line."""
    if depth > _DEEPEST:
        return
    if isinstance(value, list):
        for item in value:
            if isinstance(item, str):
                yield {"message": item}
            elif _is_pair(item):
                yield {"message": item[-1]}
            elif isinstance(item, dict) and not _holds_rows(item):
                yield item
            else:
                yield from _rows(item, depth + 1)
    elif isinstance(value, dict) and not any(key in value for key in _CHAT):
        for inner in value.values():
            if isinstance(inner, dict | list):
                yield from _rows(inner, depth + 1)


def _is_pair(item: object) -> bool:
    return (
        isinstance(item, list)
        and 2 <= len(item) <= 3
        and isinstance(item[-1], str)
        and not isinstance(item[0], dict | list)
    )


def _holds_rows(item: dict[str, object]) -> bool:
    return any(
        isinstance(value, list) and value and isinstance(value[0], list | dict) and key not in _CHAT
        for key, value in item.items()
    ) and not any(isinstance(item.get(key), str) for key in _MESSAGE_KEYS)


def messages(line: str) -> list[str]:
    """The log lines that one line holds, one or more, without colours and borders."""
    if "[" in line or "\x1b" in line:
        line = _COLOUR.sub("", line)
    # Not of the words of a client or of another person, which no syslog daemon has written: they
    # stay one line.
    written_out = line.find("#01")
    if written_out >= 0 and not (
        quotes_a_request(line.replace("\\", "")) or is_persons(line[:written_out])
    ):
        for written, meant in _OCTAL.items():
            line = line.replace(written, meant)
    if "&" in line and _ENTITY.search(line):
        line = html.unescape(line)
    lines = _of_record(line, 0)
    return [part.rstrip(_BORDER).lstrip("\ufeff") for part in lines] or [""]


def _of_record(line: str, depth: int) -> list[str]:
    if depth < _MOST_NESTED:
        found = _from_json(line) if '"' in line else None
        if found is None and '"' in line:
            found = _from_csv(line) or _from_pairs(line)
        if found is None and (named := _NAMED.match(line)):
            rest = line[named.end() :]
            quoted = len(rest) > 1 and rest[0] == rest[-1] and rest[0] in "\"'"
            found = [rest[1:-1] if quoted else rest]
        if found is None and "<" in line and _TAGGED.match(line):
            found = [_TAG.sub(" ", line).strip()]
        if found is not None:
            parts = [part for text in found for part in text.splitlines()]
            if len(parts) == 1 and parts[0] != line:
                return _of_record(parts[0], depth + 1)
            return [
                inner
                for part in parts
                for inner in (_of_record(part, depth + 1) if _is_record(part) else (part,))
            ]
    return line.split("\n")


def _is_record(line: str) -> bool:
    return '{"' in line or ('="' in line and _LOGFMT.match(line) is not None)


def _from_json(line: str) -> list[str] | None:
    """The lines of a JSON object, which may have a collector's words before it."""
    if '"=>' in line:
        line = line.replace('"=>', '":')
    at = line.find('{"')
    if at < 0:
        at = line.find('{ "')
    if 0 <= at <= 200:
        try:
            record, end = _DECODER.raw_decode(line, at)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict):
            if _LETTERS.search(line, end) or is_sentence(line[:at]):
                return None  # somebody's sentence quotes it
            return _of_fields(record, whole=not line[:at].strip(" [,"))
    if pair := _PAIR.match(line):
        text = _string(pair[2])
        return None if text is None else [""] if _USERS.search(pair[1]) else [text]
    if element := _ELEMENT.match(line):
        text = _string(element[1])
        return None if text is None else [text]
    if at >= 0 and at < 3 and (cut := _CUT_VALUE.search(line)):
        text = _string(f'"{cut[1]}"')
        return None if text is None else [text]
    return None


def _of_fields(record: dict[str, object], *, whole: bool) -> list[str] | None:
    """What a record says; None where it is no record of a log, and `line` is to stay."""
    if (said := _said(record, 0)) is not None:
        return [said]
    if any(key in record for key in _CHAT):
        return [""]
    return list(_strings(record, 0)) or None if whole else None


def _said(record: dict[str, object], depth: int) -> str | None:
    for key in _MESSAGE_KEYS:
        value = record.get(key)
        if isinstance(value, str):
            return value
        if isinstance(value, list) and value and all(isinstance(b, int) for b in value):
            return bytes(b & 0xFF for b in value).decode(errors="replace")
    if depth < _DEEPEST:
        for key in _INNER_KEYS:
            inner = record.get(key)
            if isinstance(inner, dict) and (said := _said(inner, depth + 1)) is not None:
                return said
    return None


def _strings(record: dict[str, object], depth: int) -> Iterator[str]:
    """Under keys that nobody knows any text may be the line; but not what users sent."""
    for key, value in record.items():
        if _USERS.search(key):
            continue
        if isinstance(value, str):
            # a status is said as "ExitCode: 137" is
            yield value if len(value) > 24 or " " in value else f'"{key}": "{value}"'
        elif isinstance(value, bool | int | float):
            yield f'"{key}": {json.dumps(value)}'
        elif isinstance(value, dict) and depth < _DEEPEST:
            yield from _strings(value, depth + 1)


def _from_csv(line: str) -> list[str] | None:
    """The fields of a row that has quoted ones; a quoted field may go on in the next lines."""
    if _CSV.match(line) and line.count('"') % 2 == 0 and "," in line:
        try:
            fields = next(csv.reader([line]), [])
        except csv.Error:
            return None
        return [field for field in fields if field] or None
    if line.count('"') % 2 and (begins := _CSV_BEGINS.match(line)):
        return [line[begins.end() :].replace('""', '"')]
    if line.count('"') % 2 and (ends := _CSV_ENDS.search(line)):
        return [line[: ends.start() + 1].replace('""', '"')]
    return None


def _from_pairs(line: str) -> list[str] | None:
    """What the fields of key=value say that hold words: the message, then the error."""
    begins = _LOGFMT.match(line) if "=" in line else None
    if begins is None or is_sentence(begins[1]) or _QUOTED.search(begins[1]):
        return None
    fields = list(_LOGFMT_MESSAGE.finditer(line))
    if fields and goes_on_as_prose("", "", line[fields[-1].end() :]):
        return None
    said = [(found[1], text) for found in fields if (text := _string(found[2])) is not None]
    if len(said) == 2 and not said[0][0] and said[1][0]:  # an error belongs to what failed
        return [f"{said[0][1]}: {said[1][1]}", said[1][1]]
    return [text for _, text in said] or None


def _string(quoted: str) -> str | None:
    try:
        text = json.loads(quoted, strict=False)
    except ValueError:
        return quoted[1:-1]
    return text if isinstance(text, str) else None
