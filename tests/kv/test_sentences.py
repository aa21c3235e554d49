"""The sentences about the KV experiment, on made-up rows whose truth is known."""

from __future__ import annotations

import pandas as pd

from kit.kv.sentences import agreed, predicted, pressed, unsaturated


def table(*rows: tuple[str, bool, float, float, bool]) -> pd.DataFrame:
    columns = ["trial_id", "varied", "expected_peak", "measured_peak", "limited"]
    return pd.DataFrame(list(rows), columns=columns)


FULL = ("full", False, 1.0, 1.0, True)


def test_a_trial_that_is_full_on_both_sides_is_no_evidence_for_the_arithmetic() -> None:
    rows = table(FULL, ("missed", False, 1.0, 0.5, False), ("open", True, 0.4, 0.3, False))

    assert list(unsaturated(rows)["trial_id"]) == ["missed", "open"]
    assert predicted(rows).startswith("In 1 of 3 trials")


def test_where_the_claim_does_not_hold_it_is_said_not_to() -> None:
    wrong = predicted(table(("a", False, 0.4, 0.2, False)))
    right = predicted(table(("a", False, 0.4, 0.39, False)))

    assert "at most 50.0% off the expected one, not within 10 %" in wrong
    assert "at most 2.5% off the expected one, within 10 %" in right


def test_varied_lengths_are_reported_apart_and_as_an_upper_estimate() -> None:
    said = predicted(table(("a", True, 0.07, 0.05, False), ("b", True, 0.2, 0.2, False)))

    assert "In the 2 whose lengths vary it is -29% to +0% off, within 10 % in 1" in said
    assert "upper estimate" in said


def test_a_full_cache_that_held_nobody_up_is_told_from_one_that_did() -> None:
    said = pressed(table(FULL, ("calm", False, 1.0, 1.0, False), ("odd", False, 0.5, 0.5, True)))

    assert "expected to fill in 2 trials; 1 of them were KV-limited" in said
    assert "`calm` filled it to 100 % and held nobody up" in said
    assert said.endswith("Of the 1 others, 1 were.")
    assert pressed(table(("a", False, 0.4, 0.4, False))).startswith("No trial was expected")


def test_without_an_engine_that_logs_its_steps_no_agreement_is_claimed() -> None:
    assert agreed(pd.DataFrame({"step_peak": [float("nan")]})).startswith("No engine here")
