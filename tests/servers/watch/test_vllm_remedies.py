"""The two remedies for servers that tell nothing, as far as they go without vLLM itself."""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
from importlib.metadata import Distribution
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from kit.servers.repository import build_repository
from kit.servers.watch import names
from kit.study.paths import MODELS
from kit.study.spec import Engine, EngineKind, ServerSpec, TrialSpec

HOOK = MODELS / "vllm_log_hook"
MODEL = MODELS / "vllm" / "1"
COMMON = MODELS / "common"


def load(path: Path, monkeypatch: pytest.MonkeyPatch, **beside: ModuleType) -> ModuleType:
    """A module of kit/servers/models, which Triton's stub would find beside model.py."""
    for name, module in beside.items():
        monkeypatch.setitem(sys.modules, name, module)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def mark_of(remedy: str) -> str:
    """What the remedy prints before the lines that come through it."""
    [mark] = (mark for mark, via in names.LOG_MARKS.items() if via == remedy)
    return mark


class FakeLogger:
    """Stands for vLLM's LoggingStatLogger."""

    def __init__(self) -> None:
        self.logged = threading.Event()
        self.lines = 0

    def log(self) -> None:
        self.lines += 1
        if self.lines == 3:
            self.logged.set()
            threading.Event().wait()  # the hook's thread ends with the process: rest until then


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> type[FakeLogger]:
    """vLLM's module of stat loggers, with a class of its own in each test."""
    logger = type("LoggingStatLogger", (FakeLogger,), {})
    loggers = ModuleType("vllm.v1.metrics.loggers")
    loggers.LoggingStatLogger = logger  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm.v1.metrics.loggers", loggers)
    return logger


def test_the_hook_logs_again_and_again_and_says_so_once(
    vllm: type[FakeLogger], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KIT_LOG_INTERVAL_S", "0.01")
    hook = load(HOOK / "kit_vllm_log_hook.py", monkeypatch)
    hook.register()
    hook.register()  # vLLM asks once a process, and some processes several times
    logger = vllm()

    assert logger.logged.wait(30)
    assert capsys.readouterr().out == f"{mark_of(names.VIA_HOOK)} 0.01 s\n"


def test_the_hook_leaves_a_vllm_without_that_logger_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "vllm.v1.metrics.loggers", None)

    load(HOOK / "kit_vllm_log_hook.py", monkeypatch).register()


def test_vllm_finds_the_hook_on_the_path_by_its_entry_point() -> None:
    [found] = Distribution.discover(path=[str(HOOK)])
    [entry] = found.entry_points

    assert (entry.group, entry.value) == ("vllm.general_plugins", "kit_vllm_log_hook:register")


def test_the_words_by_which_the_remedies_are_known_are_the_same_on_both_sides() -> None:
    """The models import nothing of the kit, so they say them again."""
    model, gauges = (path.read_text() for path in (MODEL / "model.py", COMMON / "engine_stats.py"))

    assert f'VIA_METRICS = "{names.VIA_METRICS}"' in model
    assert f'"{names.VIA}": VIA_METRICS' in model
    assert f'LOG_MARK = "{mark_of(names.VIA_MODEL)}"' in model
    exported = [name for name in names.VLLM_NAMES if f'"{name}"' in gauges]
    assert {names.VLLM_NAMES[name] for name in exported} == {
        names.KV_USAGE,
        names.RUNNING,
        names.WAITING,
        names.PREEMPTIONS,
    }


def test_engines_of_one_model_are_kept_apart_and_told_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Data parallelism: each engine has a KV cache of its own."""
    loggers = ModuleType("vllm.v1.metrics.loggers")
    loggers.StatLoggerBase = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, loggers.__name__, loggers)
    triton = ModuleType("triton_python_backend_utils")
    monkeypatch.setitem(sys.modules, triton.__name__, triton)
    stats = load(COMMON / "engine_stats.py", monkeypatch)
    watch = load(MODEL / "stat_logger.py", monkeypatch, engine_stats=stats).SchedulerWatch()
    one, other = (watch.logger(object(), index) for index in (0, 1))

    def step(usage: float, waiting: int, preempted: int) -> tuple[SimpleNamespace, ...]:
        scheduler = SimpleNamespace(
            kv_cache_usage=usage, num_running_reqs=2, num_waiting_reqs=waiting
        )
        iteration = SimpleNamespace(
            num_preempted_reqs=preempted, num_prompt_tokens=10, num_generation_tokens=3
        )
        return scheduler, iteration

    one.record(*step(0.75, 1, 2))
    other.record(*step(0.25, 4, 0))
    one.record(*step(0.5, 1, 1))

    assert watch.stats == stats.EngineStats(
        kv_usage=0.5, running=4, waiting=5, preemptions=3, prompt_tokens=30, generated_tokens=9
    )


def arguments(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    model_json: object,
    known: frozenset[str] = frozenset({"num_gpu_blocks_override", "kv_cache_memory_bytes"}),
    **parameters: str,
) -> dict[str, object]:
    """What the model would give vLLM."""
    settings = load(COMMON / "settings.py", monkeypatch)
    module = load(MODEL / "engine_arguments.py", monkeypatch, settings=settings)
    (folder / "1").mkdir()
    (folder / "1" / "model.json").write_text(json.dumps(model_json))
    given = {"blocks": "0", "block_size_tokens": "0", "max_sequences": "0"}
    given |= {"max_model_tokens": "0", "engine_arguments": "{}"} | parameters
    config = {"parameters": {name: {"string_value": value} for name, value in given.items()}}
    place = {"model_repository": str(folder), "model_version": "1"}
    found: dict[str, object] = module.engine_arguments(
        settings.Settings(json.dumps(config)), place, known
    )
    return found


def test_a_users_model_json_is_left_as_it_is_but_for_the_statistics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"model": "facebook/opt-125m", "gpu_memory_utilization": 0.5, "disable_log_stats": True}

    assert arguments(monkeypatch, tmp_path, own) == own | {"disable_log_stats": False}


def test_sizes_and_further_arguments_go_before_model_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEIGHTS", "/weights")
    found = arguments(
        monkeypatch,
        tmp_path,
        {"model": "$WEIGHTS", "block_size": 16, "seed": 1},
        blocks="32",
        block_size_tokens="8",
        engine_arguments='{"seed": 2}',
    )

    assert found == {
        "model": "/weights",
        "block_size": 8,
        "num_gpu_blocks_override": 32,
        "seed": 2,
        "disable_log_stats": False,
    }


def test_an_old_vllm_is_not_given_what_it_does_not_know_and_a_null_takes_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {"model": "m", "kv_cache_memory_bytes": 64, "enforce_eager": True, "seed": 1, "typo": 2}
    given = {"engine_arguments": '{"seed": null}', "blocks": "32"}
    found = arguments(monkeypatch, tmp_path, own, frozenset({"enforce_eager"}), **given)

    assert found == {"model": "m", "enforce_eager": True, "typo": 2, "disable_log_stats": False}
    assert "no argument num_gpu_blocks_override; 32 is left out" in capsys.readouterr().out


def test_a_model_json_that_is_no_object_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"model\.json holds no JSON object"):
        arguments(monkeypatch, tmp_path, ["model"])


def test_the_repository_for_vllm_has_the_engines_sizes_and_all_its_modules(
    tmp_path: Path,
) -> None:
    engine = Engine(kind=EngineKind.VLLM_CPU, blocks=32, block_size_tokens=32, max_model_tokens=512)
    spec = TrialSpec(
        trial_id="t",
        server=ServerSpec(release="24.05"),
        scenario="control",
        model="vllm",
        engine=engine,
        parameters={"engine_arguments": '{"seed": 2}'},
    )
    folder = build_repository(spec, tmp_path / "repository") / "vllm"
    config = (folder / "config.pbtxt").read_text()

    assert 'key: "blocks" value { string_value: "32" }' in config
    assert "KIND_CPU" in config
    assert {p.name for p in (folder / "1").glob("*.py")} >= {
        "model.py",
        "stat_logger.py",
        "engine_arguments.py",
        "decoupled.py",
        "cancellation.py",
    }
    assert (folder / "1" / "model.json").exists()
