"""The model repository that a trial's server gets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

from kit.errors import SpecError
from kit.servers import repository
from kit.servers.repository import build_repository, models
from kit.study.engines import GPU_FIELDS
from kit.study.spec import Engine, ServerSpec, TrialSpec


def spec(
    model: str = "simulated",
    parameters: dict[str, str] | None = None,
    engine: Engine | None = None,
) -> TrialSpec:
    return TrialSpec(
        trial_id="t",
        server=ServerSpec(release="23.10"),
        scenario="s",
        model=model,
        parameters=parameters or {},
        engine=engine or Engine(),
    )


def read_config(folder: Path) -> model_config_pb2.ModelConfig:
    return text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def parameters(config: model_config_pb2.ModelConfig) -> dict[str, str]:
    return {name: value.string_value for name, value in config.parameters.items()}


@pytest.mark.parametrize("model", models())
def test_every_model_gives_a_configuration_that_protobuf_reads(model: str, tmp_path: Path) -> None:
    config = read_config(build_repository(spec(model), tmp_path / "r") / model)
    assert config.name == model
    assert config.backend == "python"
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_CPU


@pytest.mark.parametrize("model", models())
def test_every_parameter_line_of_a_template_is_understood(model: str) -> None:
    text = (repository.MODELS / model / "config.pbtxt").read_text()
    understood = len(list(repository._PARAMETER.finditer(text)))
    assert understood == sum(line.startswith("parameters") for line in text.splitlines())


def test_engine_fields_and_parameters_reach_the_configuration(tmp_path: Path) -> None:
    engine = Engine(blocks=256, max_sequences=7, log_stats=False, prefill_tokens_per_s=123.5)
    folder = build_repository(spec(parameters={"cancel_check": "none"}, engine=engine), tmp_path)
    written = parameters(read_config(folder / "simulated"))
    assert written["blocks"] == "256"
    assert written["max_sequences"] == "7"
    assert written["log_stats"] == "false"
    assert float(written["prefill_tokens_per_s"]) == 123.5
    assert written["cancel_check"] == "none"
    assert written["final"] == "with-last"  # untouched: the default


def test_a_parameter_of_the_trial_outranks_the_engine(tmp_path: Path) -> None:
    folder = build_repository(spec(parameters={"decode_step_ms": "0.5"}), tmp_path)
    assert parameters(read_config(folder / "simulated"))["decode_step_ms"] == "0.5"


def test_every_engine_number_has_a_parameter_in_the_simulated_model(tmp_path: Path) -> None:
    written = parameters(read_config(build_repository(spec(), tmp_path) / "simulated"))
    own = set(Engine.__dataclass_fields__) - {"kind", "version", *GPU_FIELDS}
    assert own <= set(written)


def test_the_shared_modules_lie_beside_the_model(tmp_path: Path) -> None:
    version = build_repository(spec(), tmp_path) / "simulated" / "1"
    shared = {path.name for path in (repository.MODELS / "common").glob("*.py")}
    assert shared
    assert shared | {"model.py"} <= {path.name for path in version.iterdir()}


def test_an_unknown_model_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="simulated"):
        build_repository(spec("simulate"), tmp_path)


def test_an_unknown_parameter_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="did you mean 'cancel_check'"):
        build_repository(spec(parameters={"cancel_chek": "none"}), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_word_that_the_parameter_does_not_allow_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="coroutine, second-thread, after-final, none"):
        build_repository(spec(parameters={"cancel_check": "sometimes"}), tmp_path)


def test_a_cache_too_small_for_one_sequence_is_refused(tmp_path: Path) -> None:
    build_repository(spec(engine=Engine(blocks=33, max_model_tokens=512)), tmp_path / "fits")
    with pytest.raises(SpecError, match="496 tokens"):
        build_repository(spec(engine=Engine(blocks=32, max_model_tokens=512)), tmp_path / "not")


@pytest.mark.slow
@given(st.text())
def test_any_text_survives_the_escaping(text: str) -> None:
    line = f'parameters {{ key: "k" value {{ string_value: "{repository._escaped(text)}" }} }}'
    config = text_format.Parse(line, model_config_pb2.ModelConfig())
    assert config.parameters["k"].string_value == text


def test_the_configuration_is_what_the_model_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = build_repository(spec(), tmp_path) / "simulated"
    monkeypatch.syspath_prepend(str(folder / "1"))
    from settings import Settings  # the model's own module

    given_parameters = parameters(read_config(folder))
    as_triton_gives = {name: {"string_value": v} for name, v in given_parameters.items()}
    settings = Settings(json.dumps({"parameters": as_triton_gives}))
    assert settings.whole("blocks") == Engine().blocks
    assert settings.flag("log_stats") is True
    with pytest.raises(ValueError, match="final"):
        settings.whole("final")
