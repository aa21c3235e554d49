"""The course's exercises: what each asks for, how an answer is judged, and the hints.

A hint says where to look and never the answer. Expected values are computed from the same data
that the student sees. `check` is what a notebook calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import EllipsisType
from typing import Any

from kit.cleaning import clean_text, safe_html
from kit.errors import SpecError
from kit.ui.course import expected

#: An answer's judgement: None if it is right, else the hint.
Judge = Callable[[Any], str | None]


@dataclass(frozen=True, slots=True)
class ExerciseResult:
    """What the student sees below a check; shown by Jupyter as HTML, elsewhere as text."""

    exercise: str
    right: bool
    text: str

    def __repr__(self) -> str:
        return clean_text(f"{'✓' if self.right else '✗'} {self.exercise}: {self.text}")

    def _repr_html_(self) -> str:
        colour = "#1a7f37" if self.right else "#9a6700"
        return (
            f'<div role="status" style="border-left: 4px solid {colour}; padding: 2px 10px">'
            f"<b>{'✓' if self.right else '✗'} Exercise {safe_html(self.exercise)}</b> "
            f"{safe_html(self.text)}</div>"
        )


def check(exercise: str, answer: object) -> ExerciseResult:
    """Judge one answer. `...` is an exercise that was not done yet.

    Raises:
        SpecError: no exercise has that number.

    Example:
        >>> check("1.1", ...)
        ✗ 1.1: not answered yet. Count the rows in which an addition is lost.
    """
    if exercise not in EXERCISES:
        raise SpecError(f"exercise {exercise!r}", f"one of {', '.join(EXERCISES)}", "correct it")
    hint, judge, right = EXERCISES[exercise]
    if isinstance(answer, EllipsisType):
        return ExerciseResult(exercise, False, f"not answered yet. {hint}")
    try:
        wrong = judge(answer)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        wrong = f"This is not the kind of answer that is asked for ({error})."
    return ExerciseResult(
        exercise, wrong is None, right if wrong is None else f"not yet. {wrong} {hint}"
    )


def _number(
    value: Callable[[], float],
    *,
    within: float,
    slips: Iterable[tuple[Callable[[], float], str]] = (),
) -> Judge:
    """Right if as near as `within` (relative); `slips` are known mistakes with their hints."""

    def judge(answer: Any) -> str | None:
        given = float(answer)
        if math.isclose(given, value(), rel_tol=within, abs_tol=1e-9):
            return None
        for slip, hint in slips:
            if math.isclose(given, slip(), rel_tol=within, abs_tol=1e-9):
                return hint
        return f"{given:.4g} is too {'high' if given > value() else 'low'}."

    return judge


def _names(value: Callable[[], set[str]]) -> Judge:
    """Right if the answer holds exactly these words, in any order."""

    def judge(answer: Any) -> str | None:
        given = {answer} if isinstance(answer, str) else {str(word) for word in answer}
        missing, extra = value() - given, given - value()
        if not missing and not extra:
            return None
        return f"{len(extra)} of your {len(given)} do not belong, and {len(missing)} are missing."

    return judge


def _choice(right: str, wrong: dict[str, str]) -> Judge:
    """Right if it is that letter; each wrong letter has its own hint."""

    def judge(answer: Any) -> str | None:
        letter = str(answer).strip().lower()
        return None if letter == right else wrong.get(letter, "Choose one of the letters.")

    return judge


EXERCISES: dict[str, tuple[str, Judge, str]] = {
    "1.1": (
        "Count the rows in which an addition is lost.",
        _number(
            expected.lost_share,
            within=1e-3,
            slips=[(lambda: 1 - expected.lost_share(), "That is the share that comes out right.")],
        ),
        "nearly every order is wrong, and none of the steps is.",
    ),
    "1.2": (
        "Little's law: requests open on average = requests a second x seconds each.",
        _number(
            expected.mean_open,
            within=0.1,
            slips=[
                (lambda: 1000 * expected.mean_open(), "Latencies are in milliseconds."),
                (expected.mean_latency_s, "That is the time of one request."),
                (expected.mean_open_from_zero, "The load began with the first `t_s`, not at 0."),
            ],
        ),
        "the server works on that many requests at once, whatever the number of its threads.",
    ),
    "1.3": (
        "Which of them lets a second request begin before the first has ended?",
        _choice(
            "b",
            {
                "a": "A thread a request is one way, and not the only one.",
                "c": "One processor can work on many requests in turn.",
            },
        ),
        "concurrency is about what is open at the same time, not about what runs at the same time.",
    ),
    "2.1": (
        "Divide the rows in which `reused` is true by all rows of that concurrency.",
        _number(lambda: expected.reuse_share(16), within=0.02),
        "with one client it never happens; with many it happens all the time.",
    ),
    "2.2": (
        "If each request crashes with chance p, the mean number before the crash is (1 - p) / p.",
        _number(
            expected.chance_a_request,
            within=0.05,
            slips=[
                (lambda: 1 / expected.mean_iteration(), "Solve the formula for p: there is a + 1."),
                (expected.mean_iteration, "That is the mean number of requests, not a chance."),
            ],
        ),
        "one chance gives an early crash in one life and a late one in another: that is random.",
    ),
    "2.3": (
        "The chance to come through all requests is (1 - p) to the power of their number.",
        _number(
            expected.chance_to_survive_200,
            within=0.25,  # a chance that was rounded to three digits is good enough
            slips=[(lambda: 1 - expected.chance_to_survive_200(), "That is the chance to crash.")],
        ),
        "so a run that came through says much, and still is no proof.",
    ),
    "3.1": (
        "Subtract where the module begins from the address of the frame.",
        _number(expected.frame_offset, within=1e-12),
        "the offset is the same in every run of the same build.",
    ),
    "3.2": (
        "A page is 4096 bytes, so only the last three hexadecimal digits stay: address % 4096.",
        _number(
            expected.page_bits,
            within=1e-12,
            slips=[(expected.frame_offset, "That is the whole offset.")],
        ),
        "three digits survive the random load address, and are enough to tell most builds.",
    ),
    "3.3": (
        "The last frame that is the server's own, nearest to the fault, tells the component.",
        _choice(
            "b",
            {
                "a": "vLLM runs in another process, and its log goes on.",
                "c": "No frame of the gRPC frontend is in this stack.",
                "d": "The KV cache is memory of the engine, and no frame of it is here.",
            },
        ),
        "the Python backend, inside the tritonserver process.",
    ),
    "4.1": (
        "Look for True in the column of that fault, among the releases of 2023.",
        _names(expected.releases_with_address_reuse),
        "one release only: the one that the report was about.",
    ),
    "4.2": (
        "Compare the source's table with the map: who is predicted to die, and did not, or did?",
        _names(expected.predicted_and_measured),
        "where the source says that it should die and a wheel exists, it died.",
    ),
    "4.3": (
        "Which releases does this advice send people to, and what does the table say of them?",
        _choice(
            "c",
            {
                "a": "24.08 is later than 24.05.",
                "b": "The fix came with 23.12, months before 24.05.",
            },
        ),
        "a newer release is not a safer one: look at the line.",
    ),
    "5.1": (
        "Which chance of a death would still give no death in that many trials 5 times in 100?",
        _number(
            expected.upper_bound,
            within=0.02,
            slips=[
                (lambda: 0.0, "No death in a few trials is not a chance of zero."),
                (lambda: 0.05, "0.05 is how sure you want to be, not the bound."),
            ],
        ),
        "five quiet trials still allow a server that dies in nearly every second one.",
    ),
    "5.2": (
        "At each death the estimate is multiplied by (alive - 1) / alive.",
        _number(expected.survival_at_10, within=0.01),
        "that is the Kaplan-Meier estimate.",
    ),
    "5.3": (
        "Requests that were never answered belong to the population: sort them behind all others.",
        _choice(
            "b",
            {
                "a": "Over which requests is that mean taken?",
                "c": "More runs of the same kind keep the same blind spot.",
            },
        ),
        "a server that dies early looks fast if only its answers are counted.",
    ),
    "5.4": (
        "Each quiet trial multiplies the odds by (1 - 0.5) / (1 - 0.02); when are they below the "
        "lower boundary?",
        _number(expected.trials_to_decide_survives, within=1e-6),
        "a sequential test says beforehand what it will take.",
    ),
    "6.1": (
        "Use `scipy.stats.fisher_exact` on deaths and survivors of the two releases.",
        _number(expected.fisher_release, within=0.02),
        "with so few trials only a large effect can be told from chance, and this one is large.",
    ),
    "6.2": (
        "The same test, with two versions of vLLM in place of two releases of Triton.",
        _number(expected.fisher_engine, within=0.02),
        "nothing here speaks for vLLM as the cause. That is no proof that it never is.",
    ),
    "6.3": (
        "The chance to see at least one death in n trials is 1 - (1 - p)^n.",
        _number(
            expected.trials_for_power,
            within=1e-6,
            slips=[(lambda: expected.trials_for_power() - 1, "One fewer just misses the goal.")],
        ),
        "rare crashes need many trials; decide the number before you look.",
    ),
    "7.1": (
        "Use the 99th percentile of `latency_ms` of the closed loop.",
        _number(expected.closed_p99_ms, within=0.02),
        "the stall is there, in one request out of hundreds, so the percentile does not see it.",
    ),
    "7.2": (
        "The same percentile, of `latency_from_due_ms` of the open loop.",
        _number(
            expected.open_p99_ms,
            within=0.02,
            slips=[(expected.closed_p99_ms, "That is the closed loop's again.")],
        ),
        "users who come while the server stands still wait for it; a closed loop never sends them.",
    ),
    "7.3": (
        "A percentile p needs requests beyond it: about 10 / (1 - p) in all, by a rule of thumb.",
        _number(lambda: 1000.0, within=0.01),
        "a p99 of twenty samples is their largest value with another name.",
    ),
}
