"""Parsed arguments in, an exit code out: what each command of `python -m kit` does.

Results go to standard output, progress and remarks to standard error.
"""

from __future__ import annotations

import dataclasses
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from kit.columns import aligned
from kit.errors import SpecError, StoreError
from kit.records import StudySpec, from_json

if TYPE_CHECKING:
    from kit.crash.diagnose import Diagnosis
    from kit.releases import Release
    from kit.scenarios import Scenario
    from kit.store import StudyFolder

CRASHED = 3
#: Of a cell that a sequential test cannot decide; see kit.sequential for what is usual.
MOST_TRIALS = 12


def run(args: Namespace) -> int:
    from kit.choices import study_folder

    spec = _spec(args)
    folder = args.out or study_folder(spec)
    return _told(args, _run_shown(spec, folder, args.parallel))


def release_map(args: Namespace) -> int:
    """Every embedded release under every scenario, each cell until it is decided; its report."""
    from kit.choices import ALL, study_folder
    from kit.report import write_report

    args.release = args.release or _that_run_here()
    args.scenario = args.scenario or [ALL]
    args.sequential = True
    spec = _spec(args)
    study = _run_shown(spec, args.out or study_folder(spec), args.parallel)
    _remark(f"report: {write_report(study, args.reports)}")
    return _told(args, study)


def _that_run_here() -> list[str]:
    """The embedded releases that this machine can run; what the others lack is said."""
    from kit.errors import LibpythonMissingError
    from kit.releases import embedded_releases
    from kit.servers.prepare import prepare

    able = []
    for release in embedded_releases():
        try:
            prepare([release])
            able.append(release.release)
        except LibpythonMissingError as error:
            _remark(f"{release.release} is left out: {error.given}")
    return able


def _told(args: Namespace, study: StudyFolder) -> int:
    """Print a study's result; the exit code."""
    from kit.report_cells import result_document  # pandas; a mistake is told sooner
    from kit.results import text_table

    document = result_document(study)
    if args.json:
        _json({"folder": str(study.path), **document})
    else:
        print(text_table(document["cells"]))
    crashed = any(cell["crashed"] for cell in document["cells"])
    return CRASHED if args.fail_on_crash and crashed else 0


def investigate(args: Namespace) -> int:
    """Run the study that the notebook describes, then the notebook on it.

    The study comes first and here, since a terminal shows its progress and a Ctrl-C ends it
    cleanly; the notebook then finds all trials done.
    """
    from kit.choices import study_folder
    from kit.investigate import FIRST_LIGHT, execute, notebook_spec, parameters_of
    from kit.report_cells import result_cells
    from kit.results import text_table

    notebook = args.notebook or FIRST_LIGHT
    options = {
        "releases": args.release,
        "scenarios": args.scenario,
        "concurrency": _counts(args),
        "requests": args.requests,
        "repeats": args.repeats,
    }
    given = {name: value for name, value in options.items() if value is not None}
    spec = notebook_spec({**parameters_of(notebook), **given})
    folder = study_folder(spec)
    study = _run_shown(spec, folder, args.parallel)
    _remark(f"executing {notebook.name} on it")
    where = {"study": str(folder.resolve()), "reports": str(args.reports.resolve())}
    executed = execute(notebook, {**given, "mode": "live", **where}, into=args.reports)
    print(text_table(result_cells(study)))
    print(f"notebook: {executed}\nreport:   {args.reports / 'latest.html'}")
    return 0


def report(args: Namespace) -> int:
    from kit.report import write_report

    written = write_report(args.study, args.out)
    print((args.out / "latest.json").read_text(encoding="utf-8") if args.json else written)
    return 0


def releases(args: Namespace) -> int:
    from kit.releases import load_releases

    known = load_releases().values()
    if args.json:
        _json([{**_fields(r), "embedded": r.wheel is not None} for r in known])
        return 0
    header = ("release", "Triton", "vLLM", "tagged", "runs here", "has")
    print(aligned(header, map(_release_row, known)))
    return 0


def _release_row(release: Release) -> tuple[str, ...]:
    abilities = {"generate": release.has_generate, "cancellation": release.has_cancellation}
    return (
        release.release,
        release.triton,
        release.vllm or "-",
        release.date or "-",
        "embedded" if release.wheel else "needs a container",
        " ".join(name for name, there in abilities.items() if there) or "-",
    )


def scenarios(args: Namespace) -> int:
    from kit.scenarios import load_scenarios

    known = load_scenarios()
    if args.json:
        _json(list(known.values()))
        return 0
    header = ("scenario", "kind", "protocol", "needs", "what")
    print(aligned(header, map(_scenario_row, known.values())))
    return 0


def _scenario_row(scenario: Scenario) -> tuple[str, ...]:
    needs = " ".join(scenario.needs) or "-"
    protocol = scenario.workload.protocol.value
    return scenario.name, scenario.kind, protocol, needs, scenario.title


def diagnose(args: Namespace) -> int:
    from kit.crash import diagnose as room
    from kit.crash.maps import MemoryMap

    saved = Path(args.file).with_name("server.maps")  # as in a trial folder
    maps = args.maps or (saved if args.file != "-" and saved.exists() else None)
    known = {
        "believed_release": args.release,
        "maps": MemoryMap.parse(_read(maps)) if maps else None,
        "modules_of": _modules_of if args.symbols else None,
    }
    if args.file == "-":
        found = room.diagnose(sys.stdin.buffer.read().decode(errors="replace"), **known)
    else:
        try:
            found = room.diagnose_file(Path(args.file), **known)
        except OSError as error:
            raise _unreadable(Path(args.file), error) from error
    if args.json:
        _json(found.to_json())
    else:
        print("\n".join(_diagnosis_lines(found)))
    return 0


def _modules_of(release: str) -> Path:
    from kit.releases import get_release
    from kit.servers.wheels import server_files

    return server_files(get_release(release)).root


def _diagnosis_lines(found: Diagnosis) -> list[str]:
    """A diagnosis for people: what died, the stack, what is known of it, what to do."""
    lines = [found.summary]
    if found.stack:
        lines += ["", "Stack, from the fault outward:", *(f"  {frame}" for frame in found.stack)]
    if found.matches:
        lines += ["", "Known crashes that fit, best first:"]
        for match in found.matches:
            lines += [f"  {match.score:.2f}  {match.id}: {match.title}", f"        {match.why}"]
            lines += [f"        {link}" for link in match.links]
    return [*lines, "", found.advice]


def clean(args: Namespace) -> int:
    from kit.servers.traces import sweep

    removed = sweep()
    if args.json:
        _json(removed)
        return 0
    for trace in removed:
        print(
            f"run {trace.run}: {len(trace.processes)} processes, "
            f"{len(trace.shared_memory)} shared-memory regions, {len(trace.folders)} folders"
        )
    print("nothing was left behind" if not removed else "removed")
    return 0


def _spec(args: Namespace) -> StudySpec:
    from kit.choices import choose, parse_engine

    if args.spec:
        return from_json(_read(args.spec).encode(), StudySpec)
    missing = [f"--{name}" for name in ("release", "scenario") if not getattr(args, name)]
    if missing:
        raise SpecError(
            f"a study without {' and '.join(missing)}",
            "at least one of each",
            "name them (python -m kit releases and scenarios list them), or give --spec FILE",
        )
    default_repeats = MOST_TRIALS if args.sequential else 3
    return choose(
        args.name,
        releases=args.release,
        scenarios=args.scenario,
        concurrencies=_counts(args) or (),
        requests=args.requests,
        repeats=args.repeats if args.repeats is not None else default_repeats,
        sequential=args.sequential,
        seed=args.seed or 0,
        engine=parse_engine(args.engine) if args.engine else None,
    )


def _run_shown(spec: StudySpec, folder: Path, parallel: int | None) -> StudyFolder:
    """Run a study with its progress on standard error."""
    from kit.live import TextProgress
    from kit.study import run_study

    show = TextProgress(sys.stderr)
    _remark(f"study folder: {folder}")
    _prepare(spec)
    try:
        return run_study(spec, folder, parallel=parallel, on_progress=show)
    except KeyboardInterrupt:
        show.close()
        _remark("stopped; what is done is kept, and the same command goes on from there")
        raise
    finally:
        show.close()


def _prepare(spec: StudySpec) -> None:
    """Fetch the servers that are not cached, release by release, and say so as it goes."""
    from kit.releases import get_release
    from kit.servers.prepare import prepare

    sys.stderr.write("servers (fetched if not in the cache):")
    try:
        for name in spec.releases:
            sys.stderr.write(f" {name}")
            sys.stderr.flush()
            prepare([get_release(name)])
    finally:
        sys.stderr.write("\n")


def _counts(args: Namespace) -> tuple[int, ...] | None:
    from kit.choices import parse_counts

    return parse_counts(args.concurrency) if args.concurrency else None


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> StoreError:
    return StoreError(f"{path} cannot be read: {error.strerror}", "a file", "check the path")


def _fields(noun: object) -> dict[str, object]:
    """A frozen dataclass as a dict, one level deep."""
    return {f.name: getattr(noun, f.name) for f in dataclasses.fields(noun)}  # type: ignore[arg-type]


def _json(document: object) -> None:
    print(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())


def _remark(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
