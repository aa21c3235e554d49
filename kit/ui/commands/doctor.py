"""`kit doctor`: one page on this machine, and what to do about what it lacks."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from kit.study.words import in_lines
from kit.ui.console import DONE, busy, print_json, print_text
from kit.ui.options import Subparsers, add_command, add_json

if TYPE_CHECKING:
    from kit.servers.doctor import Check

#: Before a line: what is well needs no word.
_MARKS = {"ok": "ok", "lacks": "LACKS", "without": "-"}


def add(commands: Subparsers) -> None:
    parser = add_command(
        commands,
        "doctor",
        doctor,
        "tell what this machine has and lacks, and what to do",
        about="Tell what this machine has of all that the kit can use. LACKS is something to put "
        "right; what stands behind a dash can be done without. Nothing is changed or fetched.",
    )
    add_json(parser)


def doctor(args: Namespace) -> int:
    from kit.servers.doctor import check_machine

    with busy("looking at this machine"):
        checks = check_machine()
    if args.json:
        print_json(checks)
    else:
        print_text(page(checks))
    return DONE


def page(checks: list[Check]) -> str:
    """The checks for people: a line each, hints below those that need one."""
    topics = max(len(check.topic) for check in checks)
    lines = []
    for check in checks:
        head = f"{_MARKS[check.state]:<6} {check.topic:<{topics}}  "
        lines += _wrapped(check.found, head)
        if check.hint:
            lines += _wrapped(f"hint: {check.hint}", " " * len(head))
    lacking = [check.topic for check in checks if check.state == "lacks"]
    end = f"to put right: {', '.join(dict.fromkeys(lacking))}" if lacking else "nothing is lacking"
    return "\n".join([*lines, "", end])


def _wrapped(text: str, head: str) -> list[str]:
    return in_lines(text, first=head, rest=" " * len(head))
