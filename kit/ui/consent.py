"""Asks before traffic goes to a server that is not on this machine, and caps it.

Servers that the kit starts itself, on this machine or by a container engine, are its own to
crash. One that was there before may be somebody else's.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from kit.errors import NotConfirmedError, SpecError
from kit.runner.limit import trial_at
from kit.servers.attached import endpoint_of
from kit.servers.owner_commands import (
    LOG_COMMAND,
    RESTART_COMMAND,
    STATE_COMMAND,
    OwnerCommands,
    commands_for,
    commands_from,
)
from kit.servers.whereabouts import is_on_this_machine
from kit.study.plan import first_of_each_cell, most_trials
from kit.study.spec import ServerKind, StudySpec, TrialSpec, Workload
from kit.study.words import listing, percent
from kit.ui.arguments import MOST_MINUTES, MOST_REQUESTS
from kit.ui.console import print_text, remark

#: What was agreed to in this process, so that the same traffic is asked about once.
_AGREED: Final[set[str]] = set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cap:
    """The most that a study may send and take, and whether to ask first.

    None: no limit where all servers are the kit's own; for one that is not on this machine,
    MOST_REQUESTS and MOST_MINUTES.
    """

    requests: int | None = None
    minutes: float | None = None
    yes: bool = False  # somebody agreed already

    def __post_init__(self) -> None:
        for name, value in (("most_requests", self.requests), ("most_minutes", self.minutes)):
            if value is not None and not value > 0:
                raise SpecError(f"{name} = {value:g}", "more than 0", f"raise {name}")

    @property
    def away(self) -> tuple[int, float]:
        """Requests and minutes for a server that is not on this machine."""
        requests = MOST_REQUESTS if self.requests is None else self.requests
        return requests, MOST_MINUTES if self.minutes is None else self.minutes


def confirm(spec: StudySpec, cap: Cap, *, in_notebook: bool = False) -> float | None:
    """Get somebody's word before a study goes to a server that is not on this machine, and before
    the commands of a server's owner are run (kit.servers.owner_commands).

    Returns the minutes after which it must be stopped; None: never.

    Raises:
        SpecError: more requests than the cap allows, no address, or commands for several servers.
        NotConfirmedError: nobody can be asked, or the answer was no.
    """
    if all(server.kind is not ServerKind.ATTACHED for server in spec.servers):
        return cap.minutes  # what the kit starts is its own to crash
    trials = [trial for trial in first_of_each_cell(spec) if _is_away(trial)]
    commands = _commands(spec)
    if not trials and not commands:
        return cap.minutes
    said = [what_is_sent(spec, trials, cap)] if trials else []
    for url, one in commands.items():
        said.append(f"On this machine the kit runs these commands for {url}:")
        said += [f"  {line}" for line in one.lines()]
    text = "\n".join(said)
    if trials:
        _check_most(spec, trials, cap)
    if not cap.yes and text not in _AGREED:
        _ask(text, listing(list(dict.fromkeys(s.label for s in spec.servers))), in_notebook)
        _AGREED.add(text)
    return cap.away[1] if trials else cap.minutes


def _commands(spec: StudySpec) -> dict[str, OwnerCommands]:
    """What the owners of the study's servers let run here, by the servers' URLs.

    Raises:
        SpecError: commands that are of one server, for several.
    """
    found = {
        server.url or "": commands_for(server.url or "", os.environ) for server in spec.servers
    }
    if len(found) > 1 and commands_from(os.environ):
        raise SpecError(
            f"{LOG_COMMAND}, {STATE_COMMAND} or {RESTART_COMMAND} for {len(found)} servers",
            "one server, which the commands are about",
            "run a study for each, or name them by kit.attach(url, commands=...)",
        )
    return {url: commands for url, commands in found.items() if commands}


def _check_most(spec: StudySpec, trials: list[TrialSpec], cap: Cap) -> None:
    """Refuse more requests than may go to a server that is not on this machine.

    Raises:
        SpecError: they are more.
    """
    most, total = cap.away[0], requests_of(spec, trials)
    if total is not None and total > most:
        names = listing(list(dict.fromkeys(trial.server.label for trial in trials)))
        raise SpecError(
            f"{total:,} requests for {names}, which is not on this machine",
            f"at most {most:,}",
            "send fewer (requests, repeats, fewer values to sweep), or raise most_requests",
        )


def requests_of(spec: StudySpec, trials: list[TrialSpec]) -> int | None:
    """The most requests of a study, given one trial of each cell; None: as many as the servers
    answer in the time that is given."""
    if spec.limit is not None:  # at most as many as all of its trials at the highest load
        most = trial_at(spec, spec.limit.high, 0).workload.requests or 0
        return spec.limit.most_trials * most
    counts = [_requests(trial.workload) for trial in trials]
    known = [number for number in counts if number is not None]
    return sum(known) * spec.repeats if len(known) == len(counts) else None


def what_is_sent(spec: StudySpec, trials: list[TrialSpec], cap: Cap) -> str:
    """What goes to whom, how much, for how long, and what it may do there."""
    loads = [trial.workload for trial in trials]
    total = requests_of(spec, trials)
    many = f"{total:,} requests" if total is not None else "as many requests as it answers"
    names = listing(list(dict.fromkeys(trial.server.label for trial in trials)))
    prompts = listing(list(dict.fromkeys(str(load.prompt_tokens) for load in loads)))
    answers = listing(list(dict.fromkeys(str(load.output_tokens) for load in loads)))
    lines = [
        f"This sends traffic to {names}, which is not on this machine:",
        f"  {most_trials(spec):,} trials, {many} in all, by "
        f"{listing(list(dict.fromkeys(load.protocol.value for load in loads)))}",
        f"  {_pace(loads)}",
        f"  prompts of {prompts} tokens, answers of {answers}",
        *(f"  {line}" for line in dict.fromkeys(_faults(loads))),
        f"  for {cap.away[1]:g} minutes at the most",
        "It may slow that server down, hang it or crash it, for everybody who uses it.",
    ]
    return "\n".join(lines)


@contextmanager
def stopped_after(
    minutes: float | None, *, say: Callable[[str], None] = remark
) -> Iterator[threading.Event | None]:
    """An event for run_study that is set when the time is over, which is then said; None without
    a limit."""
    if minutes is None:
        yield None
        return
    over = threading.Event()
    timer = threading.Timer(minutes * 60, over.set)
    timer.daemon = True
    timer.start()
    try:
        yield over
    finally:
        timer.cancel()
    if over.is_set():
        say(f"stopped after {minutes:g} minutes; most_minutes (--most-minutes) allows more")


def _is_away(trial: TrialSpec) -> bool:
    if trial.server.kind is not ServerKind.ATTACHED:
        return False
    end = endpoint_of(trial.server.url or "", trial.workload.protocol)
    return not is_on_this_machine(end.host, end.http_port or end.grpc_port or 0)


def _requests(load: Workload) -> int | None:
    numbers = [load.requests] if load.requests else []
    if load.duration_s and load.rate:
        numbers.append(round(load.duration_s * load.rate))
    return min(numbers) if numbers else None


def _pace(loads: list[Workload]) -> str:
    rates = [load.rate for load in loads if load.rate]
    clients = [load.concurrency for load in loads if load.concurrency]
    said = [f"up to {max(rates):g} requests/s"] if rates else []
    said += [f"up to {max(clients):,} at a time"] if clients else []
    return ", ".join(said) or "at the times of a trace"


def _faults(loads: list[Workload]) -> Iterator[str]:
    for load in loads:
        for fault in load.faults:
            kind = fault.kind.value.replace("_", " ")
            yield f"on purpose in {percent(fault.fraction)} of the requests: {kind}"


def _ask(text: str, names: str, in_notebook: bool) -> None:
    """Show it and wait for a yes.

    Raises:
        NotConfirmedError: nobody can be asked, or the answer is another one.
    """
    question = "Send it? [y/N] "
    try:
        if in_notebook:
            print_text(text)
            answer = input(question)
        elif sys.stdin is not None and sys.stdin.isatty():
            remark(f"{text}\n{question}")
            answer = sys.stdin.readline()
        else:
            answer = ""
            remark(text)
    except (EOFError, RuntimeError):  # a front end without a way to ask
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise NotConfirmedError(
            f"traffic for {names}, which nobody said yes to",
            "somebody's word, since that server is not the kit's own",
            "answer y where you are asked, or say so beforehand: yes=True, on the command line "
            "--yes",
        )
