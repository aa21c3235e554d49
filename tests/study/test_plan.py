"""What a study asks of its trials, before any server is started."""

import pytest

from kit.errors import SpecError, UnknownReleaseError, UnknownScenarioError
from kit.study.encoding import from_json, to_json
from kit.study.plan import count, not_applicable, plan
from kit.study.spec import Engine, EngineKind, ServerKind, ServerSpec, StudySpec, embedded

HYBRID = ServerSpec(kind=ServerKind.HYBRID, release="24.10", frontends="26.09")


def study(**given: object) -> StudySpec:
    values: dict[str, object] = {
        "name": "test",
        "servers": embedded("23.10", "24.05"),
        "scenarios": ("cancel-race", "control"),
        "grid": {"concurrency": (1, 16)},
        "repeats": 2,
    }
    return StudySpec(**(values | given))  # type: ignore[arg-type]


def test_every_cell_has_all_its_repeats_under_names_of_their_own() -> None:
    trials = plan(study())
    assert len({t.trial_id for t in trials}) == len(trials) == 2 * 2 * 2 * 2


def test_the_first_repeats_of_all_cells_come_first() -> None:
    repeats = [t.repeat for t in plan(study())]
    assert repeats == sorted(repeats)


def test_every_release_gets_the_same_traffic_and_every_repeat_another() -> None:
    trials = plan(study(scenarios=("control",), grid={"concurrency": (16,)}))
    seeds = {(t.repeat, t.workload.seed) for t in trials}
    assert len(seeds) == 2, "one seed for each repeat, whatever the release"
    assert len({seed for _, seed in seeds}) == 2


def test_another_seed_of_the_study_is_other_traffic() -> None:
    one, other = plan(study())[0], plan(study(seed=1))[0]
    assert one.workload.seed != other.workload.seed


def test_the_concurrency_and_the_requests_asked_for_reach_the_workload() -> None:
    trials = plan(study(requests=77))
    assert {t.workload.arrivals.concurrency for t in trials} == {1, 16}
    assert {t.workload.requests for t in trials} == {77}


def test_engines_that_differ_in_anything_have_trials_of_their_own() -> None:
    trials = plan(study(engines=(Engine(), Engine(blocks=64))))
    assert len({t.trial_id for t in trials}) == len(trials) == 32


def test_a_release_without_what_a_scenario_needs_is_left_out_and_said() -> None:
    spec = study(servers=embedded("23.07", "24.05"))
    assert {t.release for t in plan(spec)} == {"24.05"}
    assert "generate" in not_applicable(spec)["23.07", "control"]


def test_a_study_that_cannot_run_at_all_is_refused() -> None:
    with pytest.raises(SpecError, match="choose other"):
        plan(study(servers=embedded("23.07")))


@pytest.mark.parametrize(
    "given",
    [
        {"engines": (Engine(), Engine(gpus="0"))},
        {"servers": (HYBRID,), "engines": (Engine(kind=EngineKind.VLLM_CPU),)},
    ],
)
def test_what_no_trial_can_conduct_is_refused_and_not_run_as_something_else(
    given: dict[str, object],
) -> None:
    with pytest.raises(SpecError, match="Hint"):
        plan(study(**given))


def test_a_hybrid_is_planned_under_its_name_and_one_that_the_kit_has_not_is_refused() -> None:
    [trial] = plan(study(servers=(HYBRID,), scenarios=("control",), grid={}, repeats=1))
    assert trial.release == "frontend 26.09 on core 24.10"
    assert trial.trial_id.startswith("frontend-26.09-on-core-24.10-")
    other = ServerSpec(kind=ServerKind.HYBRID, release="24.05", frontends="24.10")
    with pytest.raises(UnknownReleaseError, match=r"frontend 26\.09 on core 24\.10"):
        plan(study(servers=(other,)))


def test_a_real_engine_may_be_silent_as_long_as_a_client_waits() -> None:
    [trial] = plan(
        study(
            servers=embedded("24.05"),
            scenarios=("control",),
            engines=(Engine(kind=EngineKind.VLLM_CPU),),
            grid={"concurrency": (16,)},
            repeats=1,
        )
    )
    assert trial.hang_after_s >= trial.workload.timeout_s


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UnknownReleaseError):
        plan(study(servers=embedded("23.99")))
    with pytest.raises(UnknownScenarioError):
        plan(study(scenarios=("nothing",)))


def test_specs_survive_json() -> None:
    spec = study()
    assert from_json(to_json(spec), StudySpec) == spec


def test_a_typing_mistake_in_a_spec_is_an_error_and_not_a_default() -> None:
    data = to_json(study()).replace(b'"repeats"', b'"repeat"')
    with pytest.raises(SpecError, match="unknown fields repeat"):
        from_json(data, StudySpec)


@pytest.mark.slow
def test_more_trials_than_anybody_can_run_are_refused_before_any_is_planned() -> None:
    values = tuple(range(1, 1001))
    spec = StudySpec(
        name="s",
        servers=embedded("24.05"),
        scenarios=("control",),
        grid={"concurrency": values, "output_tokens": values},
        repeats=1000,
    )
    for ask in (count, plan):
        with pytest.raises(SpecError, match="1,000,000,000 trials"):
            ask(spec)
