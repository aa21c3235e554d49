"""A soak claims no more than it may, finds what leaks, and leaves what does not alone."""

from __future__ import annotations

from collections.abc import Callable
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from kit.errors import SpecError
from kit.report.soak import checks_table, draw_drift, junit, soak_sentence
from kit.stats.intervals import rate_upper_bound
from kit.stats.soak_study import MEASURES, SoakCheck, SoakFound, SoakStatus, drift_check, is_leak
from kit.stats.trend import trend
from kit.study.soak import SoakClaim

SEEDS = 20
REQUESTS = np.linspace(0, 3000, 900)
MEMORY = next(one for one in MEASURES if one.name == "server_rss_bytes")


def remembering(rng: np.random.Generator, phi: float, deviation: float) -> np.ndarray:
    """Noise of which each value is like the one before it (AR(1))."""
    noise = rng.normal(0, deviation * np.sqrt(1 - phi**2), REQUESTS.size)
    values = np.empty(REQUESTS.size)
    values[0] = rng.normal(0, deviation)
    for index in range(1, REQUESTS.size):
        values[index] = phi * values[index - 1] + noise[index]
    return values


HEALTHY: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "steady": lambda rng: 300 + rng.normal(0, 5, REQUESTS.size),
    "remembers": lambda rng: 300 + remembering(rng, 0.98, 6),
    "fills its caches": lambda rng: (
        300 + 80 * (1 - np.exp(-REQUESTS / 400)) + rng.normal(0, 2, REQUESTS.size)
    ),
    "takes two steps": lambda rng: (
        300 + 15 * (REQUESTS > 900) + 8 * (REQUESTS > 1400) + rng.normal(0, 1, REQUESTS.size)
    ),
    "never changes": lambda rng: np.full(REQUESTS.size, 300.0),
}


@pytest.mark.parametrize("kind", HEALTHY)
def test_a_healthy_server_raises_no_alarm_in_19_of_20(kind: str) -> None:
    alarms = 0
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        found = trend(REQUESTS, HEALTHY[kind](rng))
        assert found is not None
        alarms += is_leak(found, MEMORY)
    assert alarms <= 1


@pytest.mark.parametrize("memory", [0.0, 0.95])
def test_a_leak_is_found_with_its_size(memory: float) -> None:
    found_in = covered = 0
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        values = 300 + 0.010 * REQUESTS + remembering(rng, memory, 2)
        found = trend(REQUESTS, values)
        assert found is not None
        found_in += is_leak(found, MEMORY)
        covered += found.low <= 0.010 <= found.high
    assert found_in >= 19
    assert covered >= 16


@pytest.mark.slow
def test_over_all_measures_a_healthy_server_raises_an_alarm_in_1_of_20() -> None:
    alarms = 0
    for seed in range(2 * SEEDS):
        rng = np.random.default_rng(seed)
        alarms += any(
            is_leak(found, one)
            for one in MEASURES
            if (found := trend(REQUESTS, 100 + remembering(rng, 0.9, 10)))
        )
    assert alarms <= 4


def test_too_few_values_decide_nothing_and_none_is_not_exported() -> None:
    few = pd.DataFrame({"measure": MEMORY.name, "requests": range(40), "value": 1.0})
    assert drift_check(MEMORY, few).status is SoakStatus.UNDECIDED
    none = drift_check(MEMORY, few[:0])
    assert (none.status, none.says) == (SoakStatus.NOT_EXPORTED, "server memory not exported")


@pytest.mark.parametrize("one_in", [2, 10, 100, 1000, 123_456])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_the_number_of_requests_is_exact(one_in: int, confidence: float) -> None:
    claim = SoakClaim(one_in=one_in, confidence=confidence)
    survive = (1 - 1 / one_in) ** claim.requests  # the chance of a server that is just not good
    assert survive <= 1 - confidence + 1e-12
    assert (1 - 1 / one_in) ** (claim.requests - 1) > 1 - confidence
    assert claim.supported(claim.requests) == one_in
    assert claim.supported(claim.requests - 1) < one_in


def test_the_claim_agrees_with_the_bound_that_reports_state() -> None:
    claim = SoakClaim(one_in=1000)
    assert claim.requests == 2995
    assert rate_upper_bound(0, claim.requests) == pytest.approx(1 / 1000, rel=1e-3)


def test_claims_that_make_no_sense_are_refused() -> None:
    for words in ({"one_in": 1}, {"confidence": 1.0}, {"failed": -0.1}):
        with pytest.raises(SpecError, match="one_in=1000"):
            SoakClaim(**words)  # type: ignore[arg-type]


def found_of(*statuses: SoakStatus) -> SoakFound:
    names = ("survives", "answers", "server memory does not grow", "open files do not grow")
    rng = np.random.default_rng(0)
    grown = 300 + 0.02 * REQUESTS + rng.normal(0, 2, REQUESTS.size)
    return SoakFound(
        claim=SoakClaim(one_in=1000),
        server="24.05",
        requests=3000,
        checks=tuple(
            SoakCheck(name=name, status=status, says=f"what was seen \x1b[31m of {name} <&>")
            for name, status in zip(names, statuses, strict=False)
        ),
        series=pd.DataFrame({"measure": MEMORY.name, "requests": REQUESTS, "value": grown}),
    )


OK, BAD, OPEN, NONE = (
    SoakStatus.PASSED,
    SoakStatus.FAILED,
    SoakStatus.UNDECIDED,
    SoakStatus.NOT_EXPORTED,
)


def test_a_verdict_is_as_bad_as_its_worst_check() -> None:
    assert found_of(OK, OK, OK, NONE).status is OK
    assert found_of(OK, OK, BAD, OPEN).status is BAD
    assert found_of(OPEN, OK, OK, OK).status is OPEN
    assert soak_sentence(found_of(OK, OK, OK, OK)).startswith("24.05 passed the soak")
    assert "failed the soak (server memory does not grow)" in soak_sentence(found_of(OK, OK, BAD))
    assert soak_sentence(found_of(OPEN, OK)).startswith("Not decided for 24.05 (survives)")
    assert checks_table(found_of(OK, BAD)).count("✗") == 1


def test_junit_names_each_check_and_holds_whatever_a_server_said() -> None:
    root = ElementTree.fromstring(junit(found_of(OK, OPEN, BAD, NONE), seconds=12.5))
    suite = root[0]
    assert suite.attrib["name"] == "kit.soak"
    counts = [suite.attrib[name] for name in ("tests", "failures", "skipped", "time")]
    assert counts == ["4", "2", "1", "12.500"]
    outcomes = {case.attrib["name"]: [child.tag for child in case] for case in suite}
    assert outcomes["survives"] == ["system-out"]
    assert outcomes["answers"] == ["failure"]
    assert outcomes["server memory does not grow"] == ["failure"]
    assert outcomes["open files do not grow"] == ["skipped"]
    text = suite[2][0].attrib["message"]
    assert "<&>" in text
    assert "\x1b" not in text


def test_the_picture_names_what_grew() -> None:
    ax = draw_drift(found_of(OK, OK, BAD), Figure().add_subplot())
    lines = {line.get_gid(): line for line in ax.get_lines()}
    drawn = lines[f"grows {MEMORY.name}"].get_ydata()
    assert drawn[-1] > 1.1
    assert ax.get_title().replace("\n", " ") == "Server memory grew over the soak"
