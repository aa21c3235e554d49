"""How long a reader waits: frames, figures, reports, a notebook and the panel, each in a process of
its own that starts cold, as a person's does.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.results import Result, Results, over_rounds
from benchmarks.source import own_source

ROOT = Path(__file__).parents[1]
REQUESTS = 100_000

_TIMED = """
import json, sys, time
{before}
began, used = time.perf_counter(), time.process_time()
{what}
print(json.dumps([time.perf_counter() - began, time.process_time() - used]))
"""
_MATPLOTLIB = "import matplotlib; matplotlib.use('Agg')"
#: What loading the libraries alone takes: no figure below can be less on this machine.
YARDSTICK = ("", f"{_MATPLOTLIB}\nimport pandas, matplotlib.pyplot, pyarrow")
#: Name: what is there beforehand, what is waited for, the target in seconds.
WAITS: dict[str, tuple[str, str, str]] = {
    "reading_map_trials": ("", "import kit; kit.recorded('release_map').trials", "<= 0.5"),
    # The same where the libraries are loaded already, as in a notebook's second cell.
    "reading_map_trials_with_pandas": (
        "import pandas, pyarrow.compute, pyarrow.parquet",
        "import kit; kit.recorded('release_map').trials",
        "<= 0.5",
    ),
    "reading_map_report": (
        "import tempfile; into = tempfile.TemporaryDirectory()",
        "import kit; kit.recorded('release_map').report(into.name)",
        "<= 6",
    ),
    "reading_notebook_02": (
        "import nbformat, nbclient\n"
        "there = nbformat.read('notebooks/02_sweep_your_traffic.ipynb', 4)\n"
        "run = nbclient.NotebookClient(there, timeout=600,"
        " resources={'metadata': {'path': 'notebooks'}})",
        "run.execute()",
        "<= 20",
    ),
    "reading_100000_requests": (
        _MATPLOTLIB,
        "import kit; kit.open(sys.argv[1]).plot_latency()",
        "<= 2",
    ),
    "reading_100000_requests_report": (
        "import tempfile; into = tempfile.TemporaryDirectory()",
        "import kit; kit.open(sys.argv[1]).report(into.name)",
        "<= 5",
    ),
    "reading_panel": (
        "import IPython, ipykernel.ipkernel, ipywidgets",  # a kernel has them already
        "import kit; kit.panel()._repr_mimebundle_()",
        "<= 2",
    ),
}


def reading(results: Results, rounds: int) -> None:
    """Seconds until a recorded study, a report, a notebook and the panel are there; cold starts."""
    with tempfile.TemporaryDirectory(prefix="kit-bench-") as scratch:
        study = _large_study(Path(scratch) / "study")
        waits = {"reading_libraries": (*YARDSTICK, None), **WAITS}
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in waits}
        for _ in range(rounds):
            for name, (before, what, _target) in waits.items():
                taken[name].append(_wait(before, what, study))
    libraries = [wall_s for wall_s, _ in taken["reading_libraries"]]
    for name, (_, what, target) in waits.items():
        times = [wall_s / least for (wall_s, _), least in zip(taken[name], libraries, strict=True)]
        cpu = over_rounds([cpu_s for _, cpu_s in taken[name]])["value"]
        results.add(
            Result(
                name=name,
                unit="seconds",
                target=target,
                command=what.replace("\n", "; "),
                note=f"{cpu:.2f} s of processor time; {median(times):.2f} times reading_libraries",
                **over_rounds([wall_s for wall_s, _ in taken[name]]),  # type: ignore[arg-type]
            )
        )


def _large_study(folder: Path) -> Path:
    """A study of so many requests, which were really sent."""
    with own_source() as up:
        command = [sys.executable, "-m", "kit", "load", f"http://127.0.0.1:{up.port}"]
        command += ["--model", "source", "--requests", str(REQUESTS), "--concurrency", "64"]
        command += ["--output-tokens", "16", "--out", str(folder)]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return folder


def _wait(before: str, what: str, study: Path) -> tuple[float, float]:
    """(seconds, seconds of processor time) in a fresh process."""
    script = _TIMED.format(before=before, what=what)
    done = subprocess.run(
        [sys.executable, "-c", script, str(study)],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    wall_s, cpu_s = json.loads(done.stdout.splitlines()[-1])
    return wall_s, cpu_s
