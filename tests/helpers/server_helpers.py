"""A tiny model to serve, and ways to look for what a server leaves behind."""

import json
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import psutil

from kit.servers.processes import SHM, marked
from kit.study.plan import plan
from kit.study.spec import (
    ArrivalKind,
    Arrivals,
    Endpoint,
    StudySpec,
    TrialSpec,
    embedded,
    fixed,
)

CONFIG = """
backend: "python"
max_batch_size: 0
input [{name: "text_input" data_type: TYPE_STRING dims: [1]}]
output [{name: "text_output" data_type: TYPE_STRING dims: [1]}]
instance_group [{kind: KIND_CPU count: 1}]
"""

#: Echoes; tells about its Python; starts a helper that hides from its parents, as engines do.
MODEL = """
import json, os, subprocess, sys
import numpy
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
                         start_new_session=True)

    def execute(self, requests):
        responses = []
        for request in requests:
            text = pb_utils.get_input_tensor_by_name(request, "text_input").as_numpy()
            if text[0] == b"python":
                about = [numpy.__version__, sys.executable, sys.path]
                text = numpy.array([json.dumps(about).encode()], dtype=object)
            tensor = pb_utils.Tensor("text_output", text)
            responses.append(pb_utils.InferenceResponse([tensor]))
        return responses

    def finalize(self):
        print("model finalized")
"""


def write_model(repository: Path, *, name: str = "tiny", code: str = MODEL) -> Path:
    """The repository, with one more model in it."""
    version = repository / name / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(code)
    (repository / name / "config.pbtxt").write_text(f'name: "{name}"\n{CONFIG}')
    return repository


def infer(endpoint: Endpoint, text: str, *, model: str = "tiny") -> str:
    body = {"inputs": [{"name": "text_input", "shape": [1], "datatype": "BYTES", "data": [text]}]}
    url = f"http://{endpoint.host}:{endpoint.http_port}/v2/models/{model}/infer"
    request = urllib.request.Request(url, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(json.load(answer)["outputs"][0]["data"][0])


def get(endpoint: Endpoint, port: int | None, path: str) -> str:
    with urllib.request.urlopen(f"http://{endpoint.host}:{port}{path}", timeout=30) as answer:
        return str(answer.read().decode())


def traces_of(run: str) -> list[str]:
    """What is left of a run anywhere on this machine."""
    found = [f"process {pid}" for pid in marked(run)]
    found += [str(path) for path in SHM.iterdir() if run in path.name]
    found += [str(path) for path in Path("/tmp").iterdir() if run in path.name]
    return found


def wait_until_gone(run: str, *, timeout_s: float = 30.0) -> list[str]:
    """Wait for the end of the run's processes and of what is removed after them."""
    deadline = time.monotonic() + timeout_s
    while (left := traces_of(run)) and time.monotonic() < deadline:
        processes = [psutil.Process(pid) for pid in marked(run) if psutil.pid_exists(pid)]
        psutil.wait_procs(processes, timeout=1.0)
        time.sleep(0.02)
    return left


def endless(release: str) -> TrialSpec:
    """A trial that goes on until it is ended: never idle, and no burden to the machine.

    30 requests a second, each of 64 tokens, some of them in flight at any moment.
    """
    study = StudySpec(
        name="t", servers=embedded(release), scenarios=("control",), requests=1_000_000, repeats=1
    )
    [spec] = plan(study)
    arrivals = Arrivals(kind=ArrivalKind.CONSTANT, rate_per_s=30.0, concurrency=16)
    return replace(
        spec, workload=replace(spec.workload, arrivals=arrivals, output_tokens=fixed(64))
    )
