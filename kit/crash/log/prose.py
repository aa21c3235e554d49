"""Tells a sentence that somebody wrote about a crash from the record of one.

A record has the words of a crash behind what a machine puts before them, and little that is not
the machine's behind them. In a sentence a person's words stand before or behind.
"""

from __future__ import annotations

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: Words of sentences, which name no process.
NO_NAMES = _words(
    "a about after again all an and any anybody anyone are as at be because before being both"
    " but by can case contains could crashed crashes did died dies do does during each ended"
    " ends error every everyone exits failed fails find fix fixed fixes for found from gave"
    " get gets getting got had handle has have he hello here hi hits how i if in into is it"
    " its just last lets like log logs means meant mentions must my never no nobody not of"
    " often ok on or our out people print printed prints quote quoted report reported reports"
    " returned returns said same saw say says see seeing sees should showed shows since so"
    " some somebody sometimes sorry such than thanks that the their them then there these they"
    " this those to today under until upon us usually was watch we were what when whenever"
    " where whether which while who whose why will with without would wrote yes yesterday yet"
    " you your"
)
#: Of these, the ones with which a machine names what it speaks of: "the container has exited".
_OF_MACHINES = _words("a an the has had have was been being is it died ended failed returned")
_OF_A_NAME = re.compile(
    r"^(?:mpirun|mpiexec|srun|prterun) (?:noticed|detected|has detected) that\b.*"
    r"|\b(?:with|of|for|on|in|from|by|as) (?=(?:pid|id|rank|node|host|pod|container|process|job"
    r"|task|step|unit|name|user|uid|replica|model|deployment|shard|worker|actor|engine)\b)",
    re.IGNORECASE,
)
#: Of what somebody speaks who quotes.
_SPEECH = _words("message messages line lines word words output text issue bug question error")
#: Levels and names of streams, which stand before records.
_TAGS = _words("error log logs report")
#: A label that an error's words have before them, "Failed to update model: ".
_ERROR = re.compile(
    r"(?:failed|error|unable|cannot|could not|internal)\b.*[:,\-] ?$", re.IGNORECASE
)
#: What stands between two parts of a record: a mark, or the gap between two columns.
_PARTED = re.compile(r"(?:[:,;|=\])}>.\-{(\[/\uff1a]['\"]?\s*|\s{2}|\t)$")
#: A part that no person writes into a sentence: a time, a number, a name of a machine's making.
_MADE = re.compile(r"(?:^|\s)\S*\d\S*(?=\s|$)|\s{2}|\t")
#: What only a person writes beside the words of a crash.
_PERSON = re.compile(
    r"\bI(?:'m|'ve|'d)? [a-z]{2}|\?\W{0,3}$|\btoo\W{0,3}$"
    r"|\b(?:(?:we|they)(?:'re|'ve)? (?:see|saw|get|got|had|have|hit|run|ran|use|found|think|tried)"
    r"|it (?:says|happens)|my|our|(?:any|some|no|every)(?:body|one)|people|thanks|whenever|says"
    r"|sometimes|yesterday|today|why|what is|what does|does that|as well|helps|helped"
    r"|happens|happened|appears|appeared|comes? (?:up|back|from)|means that|must not"
    r"|when (?:the|I|we|you|two|it))\b",
)
#: How a sentence goes on in which the words of a crash are what it speaks of.
_GOES_ON = re.compile(
    r"[.!]?[`'\"\u201d]?,? (?:is|was|are|were|when|while|because|since|means?|meant|happen\w*"
    r"|appear\w*|comes?|came|must|should|can|could|would|may|might|does|did|do|if|so|as|too|again"
    r"|but|or|and(?! (?:will|it will|core dumped)\b)|tells?|told|which|that|every"
    r"|has nothing|at least|here|there|only|once"
    r"|on (?:every|all|both|one|my|our|some)|in (?:the|my|our|all|some))\b"
)
_CLOSING = {"`": "`", '"': '"', "'": "'", "\u201c": "\u201d", "**": "**"}
#: Within a word an apostrophe is none.
_MARKS = (re.compile("`"), re.compile('"'), re.compile(r"(?<!\w)'|'(?!\w)"))
_BOLD = re.compile(r"(?<!\*)\*\*(?!\*)")
_LETTERS = re.compile(r"[A-Za-z]{2}")


def _is_open(text: str) -> bool:
    """Whether a quotation begins in `text` and does not end in it."""
    return any(len(marks.findall(text)) % 2 for marks in _MARKS)


def is_sentence_word(word: str) -> bool:
    """Whether a word stands in sentences and in no name: "the", "says:"."""
    return word.strip(":,.(!?\"'").lower() in NO_NAMES


def names_a_process(words: str) -> bool:
    """Whether what stands before "exited with" can be a machine's name for a process.

    >>> names_a_process("the container "), names_a_process("On both machines triton-1 ")
    (True, False)
    """
    if _is_open(words):
        return False
    for word in _OF_A_NAME.sub("", words).lower().split():
        if word[:-1] in _TAGS and word[-1] == ":":
            continue  # a label, "error: it exited with ..."
        if word in _SPEECH or (is_sentence_word(word) and word.strip(":,.(") not in _OF_MACHINES):
            return False
    return True


def is_sentence(text: str) -> bool:
    """Whether `text`, which stands before a record, has words that no tag and no level has."""
    return any(word.strip(":,.") not in _TAGS for word in _sentence_words(text))


def _sentence_words(text: str) -> list[str]:
    return [word for word in text.lower().split() if is_sentence_word(word)]


def is_persons(text: str) -> bool:
    """Whether a person wrote `text`, behind which the words of a crash stand without a blank."""
    first = text.lstrip(" >*-#|").partition(" ")[0]
    return is_sentence_word(first) or _PERSON.search(text) is not None


def can_lead(text: str) -> bool:
    """Whether a record can have `text` between its prefix and the words of a crash.

    >>> can_lead("ollama.service: "), can_lead("the manual says: ")
    (True, False)
    """
    if not text.strip():
        return True
    if text.rstrip()[-1:] in _CLOSING or _is_open(text):
        return False
    if _ERROR.match(text):
        return True
    if _sentence_words(text):
        return False
    return _PARTED.search(text) is not None or _MADE.search(text) is not None


def goes_on_as_prose(before: str, words: str, text: str) -> bool:
    """Whether what stands behind the words of a crash goes on as a person's sentence does.

    before: what stands before the words of the crash; a mark that is open there quotes them.

    >>> goes_on_as_prose("", "Aborted", " is what we see")
    True
    >>> goes_on_as_prose("", "Aborted", " (core dumped) python3")
    False
    """
    opened = before.lstrip(" >*-#|")[:1]
    for mark, pattern in (("`", _MARKS[0]), ("**", _BOLD)):
        opened = mark if len(pattern.findall(before + words)) % 2 else opened
    if closing := _CLOSING.get(opened):
        _, closed, rest = text.rpartition(closing)
        if closed and _LETTERS.search(rest):
            return True
    return _GOES_ON.match(text) is not None or _PERSON.search(text) is not None
