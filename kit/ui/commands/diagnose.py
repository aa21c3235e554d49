"""`kit diagnose`: read a server's log and say what died, where, and what to do."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit.ui.console import DONE, busy, print_json, print_text, read_text, unreadable
from kit.ui.options import Subparsers, add_command, add_json

if TYPE_CHECKING:
    from kit.crash.diagnose import Diagnosis


def add(commands: Subparsers) -> None:
    parser = add_command(
        commands,
        "diagnose",
        diagnose,
        "read a server's log: what died, where, why",
        examples="server.log\nserver.log.gz --release 24.08 --symbols\nlogs/\n- < server.log",
    )
    parser.add_argument(
        "file", help="a log file, packed or not; a folder of logs; - reads standard input"
    )
    parser.add_argument("--release", help="the release that the server is believed to be")
    parser.add_argument("--maps", type=Path, help="/proc/PID/maps of that server, if it was saved")
    parser.add_argument(
        "--symbols",
        action="store_true",
        help="name more functions with the binaries of the release that printed the stack; "
        "they are fetched if the cache does not hold them",
    )
    add_json(parser)


def diagnose(args: Namespace) -> int:
    from kit.crash import diagnose as room
    from kit.crash.stack.maps import MemoryMap

    saved = Path(args.file).with_name("server.maps")  # as in a trial folder
    maps = args.maps or (saved if args.file != "-" and saved.exists() else None)
    known = {
        "believed_release": args.release,
        "maps": MemoryMap.parse(read_text(maps)) if maps else None,
        "modules_of": _modules_of if args.symbols else None,
    }
    try:
        if Path(args.file).is_dir():
            return _diagnose_folder(args, known)
        with busy("reading standard input" if args.file == "-" else f"reading {args.file}"):
            if args.file == "-":
                found = room.diagnose_stream(sys.stdin.buffer, **known)
            else:
                found = room.diagnose_file(Path(args.file), **known)
    except OSError as error:
        raise unreadable(Path(args.file), error) from error
    if args.json:
        print_json(found.to_json())
    else:
        print_text("\n".join(_lines(found)))
    return DONE


def _diagnose_folder(args: Namespace, known: dict[str, Any]) -> int:
    from kit.crash.several import diagnose_folder

    with busy(f"reading {args.file}"):
        found = diagnose_folder(Path(args.file), **known)
    if args.json:
        print_json(found.to_json())
        return DONE
    print_text(found.summary)
    for log in found.logs:
        print_text(f"\n{log.name} ({', '.join(log.files)})")
        if log.diagnosis is None:
            print_text(f"  not read: {log.problem}")
        elif log.diagnosis.died:
            print_text("\n".join(f"  {line}" for line in _lines(log.diagnosis)))
        else:
            print_text(f"  {log.diagnosis.summary}")
    return DONE


def _modules_of(release: str) -> Path:
    from kit.servers.wheels import server_files
    from kit.study.releases import get_release

    return server_files(get_release(release)).root


def _lines(found: Diagnosis) -> list[str]:
    """A diagnosis for people: what died, the stack, what is known of it, what to do."""
    lines = [found.summary]
    if found.stack:
        lines += ["", "Stack, from the fault outward:", *(f"  {frame}" for frame in found.stack)]
    if found.matches:
        fit = any(match.precise for match in found.matches)
        head = "that fit, best first" if fit else "in that component, of which none is recognised"
        lines += ["", f"Known crashes {head}:"]
        for match in found.matches:
            lines += [f"  {match.score:.2f}  {match.id}: {match.title}", f"        {match.why}"]
            lines += [f"        {link}" for link in match.links]
    return [*lines, "", found.advice]
