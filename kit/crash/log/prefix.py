"""Where in a line its message may begin: behind what loggers, shells and collectors put before it.

A prefix is made of what machines write: times, levels, names with digits or hyphens, brackets,
key=value. Words of a sentence are none, so that "the manual says Signal (11) received." has its
message at the beginning and nowhere else.
"""

from __future__ import annotations

import re

from kit.crash.log.prose import NO_NAMES, is_sentence_word

_MOST = 24
_MONTHS = "Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec|Mon|Tue|Wed|Thu|Fri|Sat|Sun"
#: One piece of a prefix. Nothing that was taken is given back, so that reading stays linear.
_TIME = r"(?:[A-Z][a-z]{2} {1,2}\d{1,2} [\d:.]{8,20}|\d{4}-\d\d-\d\dT\S{8,26})"
_PIECE = re.compile(
    rf"(?>{_TIME}"  # a journal
    r" [\w.\-]{1,64} [\w./()@\-]{1,64}(?:\[\d{1,8}\])?:"
    # [host:123], torn: [a.py:48[]; not the kind of an issue, "[Bug]: "
    r"|(?!\[(?!Err|Warn|Info|Debug|Fatal|Crit|Trace)[A-Z][a-z]+\]: )"
    r"\[[^\[\]]{0,100}(?:\[[^\[\]]{0,40})?\](?:<std\w{3}>)?:?"
    r"|\([^()]{1,80}\):?"  # (EngineCore_DP0 pid=12)
    r"|<[\w.:=/ \-]{1,60}>:?"  # <PID:111>, <134>1
    r"|[\w.\-]{1,80} {0,40}\|"  # of a compose file: triton-1  |
    r"|\d{1,2}\)"  # of a list
    r"|[IWEFD]?\d[\d:.,TZ+/\-]{0,40}(?![\w.:])"  # dates, times, thread numbers
    rf"|(?:{_MONTHS})\b,?|[AP]M\b"
    r"|std(?:out|err)(?: [FP])?(?!\w):?"  # kubernetes
    r"|(?:DEBUG|INFO|WARN|WARNING|ERROR|CRITICAL|FATAL|debug|info|warn|warning|error|critical"
    r"|fatal|Error|Warning|Info)(?!\w)[:\]]?(?:[\w.]{1,60}:)?"
    r"|[A-Z][A-Z0-9_]{1,30}(?![\w'(]):?|[DEFVW](?=\s)"
    r"|[\w.@\-]{1,60}=(?:\"[^\"]{0,100}\"|[^\s\"]{1,100})"  # key=value
    r"|[\w./\-]{1,80}\.\w{1,4}:\d{1,6}(?:\]|:(?= ))"  # grpc_server.cc:2513]
    r"|[\w./\-]{1,80}\.\w{1,4}:\d{1,6}(?=\s|$)"
    r"|(?:srun|slurmstepd|systemd-coredump|dmesg|kernel|launcher|raylet|triton|tritonserver"
    r"|entrypoint\.sh|vllm|task \d{1,6}):(?=\s)"
    r"|[a-z][a-z0-9]{0,40}(?:_[a-z0-9]{1,40}){1,6}(?:::\w{1,40}){0,4}:(?=\s)"  # Rust's modules
    r"|[\w.\-]{1,64}\[\d{1,8}\]:"
    r"|[\w.\-]{1,80}\.(?:log|txt|out|err)(?:\.\d{1,3})?[:\-](?:\d{1,9}[:\-])?"  # grep -n
    r"|[\w.]{1,120}(?::| -) (?=\[?(?:DEBUG|INFO|WARN|WARNING|ERROR|CRITICAL|FATAL)\b)"  # a logger
    r"|[\w.]{1,120} (?=(?:DEBUG|INFO|WARN|WARNING|ERROR|CRITICAL) \[)"
    r"|(?:[a-z_]\w{0,40}\.){2,8}\w{1,40}:(?=\s)"  # the same without a level
    r"|(?:[>|│┃*–+•»$#,;:✗✘❌⚠✖→⠀-⣿]|-{1,2})\ufe0f?(?=\s)"  # quoted, or in a table
    r"|`{1,3}(?=\S)"  # of somebody's text around a log
    r"|\{[^{}]{0,200}\}(?=\s)"  # labels
    r"|[,;]"  # of a row of values
    r"|\d{1,2}m(?=[\s(])"  # a colour that lost its beginning
    r"|\"(?=\w)"
    r")"
)
#: A machine's, pod's or stream's name: it has a digit, hyphen or slash within. Nothing is given
#: back here either: a dollar may begin a part or stand in one, so there would be countless ways.
_MACHINE = re.compile(
    r"(?=[\w.\-/@:$]{0,120}[\d\-/@])[A-Za-z0-9][\w.\-]{0,120}+(?:[/@:$][\w.\-\[\]$]{1,120}+){0,6}+"
    r"(?::(?=\s)|,|(?=[\s|]))"
)
_CONTAINER = re.compile(r"[a-z][a-z0-9_\-]{1,62}(?::(?=\s)|(?=\s))")
_BLANK = re.compile(r"[ \t]*+")
_JOURNALS = re.compile(rf"{_TIME} (?=\S)")


def message_starts(line: str) -> list[int]:
    """Positions at which the message of `line` may begin, from the left."""
    at = _end_of_blank(line, 0)
    starts = [at]
    named = False
    while len(starts) < _MOST:
        piece = _PIECE.match(line, at)
        if piece is None and (piece := _MACHINE.match(line, at)) is not None:
            behind = _end_of_blank(line, piece.end())
            container = _CONTAINER.match(line, behind)
            if container and not named and container[0].rstrip(":") not in NO_NAMES:
                named = True
                starts.append(behind)
                piece = container
        if piece is None or piece.end() == at or _is_a_sentences(piece[0]):
            break
        if time := _JOURNALS.match(piece[0]):  # or no host and program: "Segmentation fault: 11"
            starts.append(at + time.end())
        at = _end_of_blank(line, piece.end())
        starts.append(at)
    return starts


def _is_a_sentences(piece: str) -> bool:
    """Whether what would be a container's name before a bar is a word: "Sometimes | triton"."""
    return piece[-1:] == "|" and is_sentence_word(piece.rstrip(" |"))


def _end_of_blank(line: str, at: int) -> int:
    found = _BLANK.match(line, at)
    return found.end() if found else at
