"""The peers in: where each is installed, and the command that makes it do what the kit does.

Each peer has an environment of its own below KIT_BENCH_HOME, so none of them touches the kit's.
`python -m benchmarks install` (benchmarks.install) makes them; what is missing is reported as not
measured.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs

HERE = Path(__file__).parent
HOME = Path(
    os.environ.get("KIT_BENCH_HOME") or platformdirs.user_cache_path("triton-crash-kit") / "bench"
)
PROMPT = "[n:01234567] Tell me in a few plain words"
#: glibc that perf_analyzer's wheel needs; with an older one it runs in a newer Debian's root.
PERF_ANALYZER_GLIBC = (2, 38)
PERF_ANALYZER_ROOT = HOME / "debian-trixie"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a client is to do: a closed loop against a source, for about `seconds`.

    cores: how many it may use; tools that take a number of processes are given that.
    """

    port: int
    clients: int
    tokens: int
    streams: bool
    seconds: float
    folder: Path
    interval_us: int = 0  # between the source's events; 0: an answer comes in one write
    cores: int = 1

    def requests(self, most_per_s: int) -> int:
        """How many to ask of a tool that cannot be told for how long: as many as it can do in
        the time, or as the source's pace allows.
        """
        rate = float(most_per_s)
        if self.streams and self.interval_us:
            rate = min(rate, self.clients / (self.tokens * self.interval_us / 1e6))
        return max(self.clients, round(rate * self.seconds))


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A load generator to compare with."""

    name: str
    packages: tuple[str, ...]  # from the package index, into its own environment
    version: Callable[[], str | None]  # None: not installed
    command: Callable[[Work], list[str]]


def venv(name: str) -> Path:
    return HOME / name


def python_of(name: str) -> str:
    return str(venv(name) / "bin" / "python")


def _package_version(name: str, package: str) -> str | None:
    code = f"import importlib.metadata as m; print('version', m.version({package!r}))"
    said = _said([python_of(name), "-c", code])
    return said.removeprefix("version ") if said and said.startswith("version ") else None


def _said(command: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    # Some print their version and then fail for want of work.
    return (done.stdout + done.stderr).strip() or None


# --- wrk


def _wrk_version() -> str | None:
    said = _said(["wrk", "-v"])
    return said.split("[")[0].replace("wrk", "").strip() if said else None


def _wrk(work: Work) -> list[str]:
    return [
        *("wrk", f"-t{work.cores}", f"-c{work.clients}", f"-d{work.seconds:.0f}"),
        *("-s", str(HERE / "peers" / "wrk.lua")),
        f"http://127.0.0.1:{work.port}/v2/models/m/generate",
    ]


# --- aiohttp, locust


def _aiohttp(work: Work) -> list[str]:
    return [
        *(python_of("aiohttp"), str(HERE / "peers" / "aiohttp_client.py")),
        *(str(work.port), str(work.clients), f"{work.seconds:.0f}"),
        *(str(work.tokens), str(int(work.streams))),
    ]


def _locust(work: Work) -> list[str]:
    return [
        *("env", f"TOKENS={work.tokens}", f"STREAM={int(work.streams)}"),
        *(python_of("locust"), "-m", "locust", "-f", str(HERE / "peers" / "locustfile.py")),
        *("--headless", "-u", str(work.clients), "-r", str(work.clients)),
        *("-t", f"{work.seconds:.0f}s", "--host", f"http://127.0.0.1:{work.port}"),
        *("--only-summary", "--stop-timeout", "1"),
        *(("--processes", str(work.cores)) if work.cores > 1 else ()),
    ]


# --- perf_analyzer


def glibc() -> tuple[int, ...]:
    return tuple(int(part) for part in platform.libc_ver()[1].split(".")[:2])


def perf_analyzer() -> list[str]:
    """How perf_analyzer is called here."""
    if glibc() >= PERF_ANALYZER_GLIBC:
        return [str(next(venv("perf_analyzer").glob("lib/*/site-packages/perf_analyzer/bin/*")))]
    return ["chroot", str(PERF_ANALYZER_ROOT), "perf_analyzer"]


def perf_analyzer_file(name: str, content: object) -> str:
    """A JSON file that perf_analyzer can read, wherever it runs."""
    inside = glibc() < PERF_ANALYZER_GLIBC
    folder = PERF_ANALYZER_ROOT / "tmp" if inside else HOME
    (folder / name).write_text(json.dumps(content))
    return f"tmp/{name}" if inside else str(folder / name)  # chroot goes to the root's top


def _perf_analyzer_version() -> str | None:
    try:
        said = _said([*perf_analyzer(), "--version"])
    except StopIteration:
        return None
    commit = re.search(r"commit (\w+)", said or "")
    wheel = next(HOME.glob("perf_analyzer-*.whl"), None)
    number = wheel.name.split("-")[1] if wheel else "?"
    return f"{number} ({commit.group(1)})" if commit else None


def _perf_analyzer(work: Work) -> list[str]:
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": work.tokens,
        "stream": work.streams,
    }
    requests = work.requests({False: 9_000, True: 5_000}[work.streams])
    return [
        *(*perf_analyzer(), "-m", "m", "--service-kind", "openai", "-i", "http", "--async"),
        *("-u", f"127.0.0.1:{work.port}", "--endpoint", "v1/chat/completions"),
        *("--input-data", perf_analyzer_file("chat.json", {"data": [{"payload": [body]}]})),
        *("--concurrency-range", str(work.clients), "--request-count", str(requests)),
        *("-s", "99"),  # the request itself asks for a stream
    ]


# --- aiperf, guidellm, vLLM


def tokenizer() -> Path:
    """A small tokenizer of our own, made once: no hub is asked."""
    folder = HOME / "tokenizer"
    if not (folder / "tokenizer.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        words = {word: index for index, word in enumerate(["<unk>", "<s>", "</s>", *_words()])}
        model = {"type": "WordLevel", "vocab": words, "unk_token": "<unk>"}
        layout = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [],
            "normalizer": None,
            "pre_tokenizer": {"type": "WhitespaceSplit"},
            "post_processor": None,
            "decoder": None,
            "model": model,
        }
        (folder / "tokenizer.json").write_text(json.dumps(layout))
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": "<unk>",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "model_max_length": 4096,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return folder


def _words() -> list[str]:
    text = (HERE.parent / "data" / "prompts" / "plain.txt").read_text()
    return sorted(set(text.split()))


def _aiperf(work: Work) -> list[str]:
    return [
        *(str(venv("aiperf") / "bin" / "aiperf"), "profile", "-m", "m"),
        *("--tokenizer", str(tokenizer()), "--url", f"http://127.0.0.1:{work.port}"),
        *("--endpoint-type", "chat", "--concurrency", str(work.clients)),
        *("--benchmark-duration", f"{work.seconds:.0f}", "--benchmark-grace-period", "2"),
        *("--num-prompts", "100", "--synthetic-input-tokens-mean", "8"),
        *("--output-tokens-mean", str(work.tokens), "--ui", "none"),
        *("--no-server-metrics", "--no-gpu-telemetry", "--artifact-dir", str(work.folder)),
        *(("--streaming",) if work.streams else ()),
    ]


def _guidellm(work: Work) -> list[str]:
    backend = {
        "kind": "openai_http",
        "target": f"http://127.0.0.1:{work.port}",
        "model": "m",
        "request_format": "/v1/chat/completions",
        "stream": work.streams,
    }
    data = {"kind": "synthetic_text", "prompt_tokens": 8, "output_tokens": work.tokens}
    return [
        *("env", f"GUIDELLM__MAX_WORKER_PROCESSES={work.cores}"),  # else ten, whatever there is
        *(str(venv("guidellm") / "bin" / "guidellm"), "run"),
        *("--backend", json.dumps(backend), "--data", json.dumps(data)),
        *("--profile", f"kind=concurrent,streams={work.clients}"),
        *("--constraint", f"kind=max_duration,seconds={work.seconds:.0f}"),
        *("--tokenizer", f"kind=huggingface_auto,model={tokenizer()}"),
        *("--disable-console-interactive", "--output", f"kind=json,path={work.folder}/report.json"),
    ]


def _vllm_environment() -> tuple[str, dict[str, str]] | None:
    """The real vLLM that `make vllm` installs, with its bench: (python, environment)."""
    home = platformdirs.user_cache_path("triton-crash-kit") / "vllm"
    base = next(home.glob("base-*/bin/python"), None)
    version = max(home.glob("vllm-*"), default=None)
    if base is None or version is None:
        return None
    return str(base), {"PYTHONPATH": str(version), "PYTHONSAFEPATH": "1", "HF_HUB_OFFLINE": "1"}


def vllm_version() -> str | None:
    home = platformdirs.user_cache_path("triton-crash-kit") / "vllm"
    version = max(home.glob("vllm-*"), default=None)
    return version.name.removeprefix("vllm-") if version and _vllm_environment() else None


def _vllm(work: Work) -> list[str]:
    found = _vllm_environment()
    python, env = found if found else (sys.executable, {})
    requests = work.requests(1_200)
    return [
        *("env", *(f"{name}={value}" for name, value in env.items())),
        *(python, str(HERE / "peers" / "vllm_bench.py")),
        *("--backend", "openai-chat", "--endpoint", "/v1/chat/completions"),
        *("--base-url", f"http://127.0.0.1:{work.port}", "--model", "m"),
        *("--tokenizer", str(tokenizer()), "--dataset-name", "random"),
        *("--random-input-len", "8", "--random-output-len", str(work.tokens)),
        *("--num-prompts", str(requests), "--max-concurrency", str(work.clients)),
        "--disable-tqdm",
    ]


def _peer(
    name: str,
    command: Callable[[Work], list[str]],
    version: Callable[[], str | None] | None = None,
    *packages: str,
) -> Peer:
    return Peer(
        name=name,
        packages=packages or (name,),
        version=version or (lambda: _package_version(name, name)),
        command=command,
    )


PEERS = {
    peer.name: peer
    for peer in (
        _peer("wrk", _wrk, _wrk_version),
        _peer("perf_analyzer", _perf_analyzer, _perf_analyzer_version),
        _peer("aiohttp", _aiohttp, None, "aiohttp", "uvloop"),
        _peer("locust", _locust),
        _peer("aiperf", _aiperf),
        _peer("guidellm", _guidellm),
        _peer("vllm", _vllm, vllm_version),
    )
}
