"""kit.stats.survival and .hazard against figures printed in textbooks and manuals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from lifelines.datasets import load_leukemia, load_rossi

from kit.errors import NotEnoughDataError, SpecError
from kit.stats.hazard import hazard_ratios
from kit.stats.survival import at_risk_table, log_rank, median_survival, survival_table


def leukemia() -> pd.DataFrame:
    """Freireich et al. 1963: weeks in remission of 42 children, 6-MP against placebo."""
    data = load_leukemia()
    return pd.DataFrame(
        {
            "completed": data["t"],
            "crashed": data["status"] == 1,
            "counted": True,
            "release": data["Rx"].map({1: "placebo", 0: "6-MP"}),
            "log_wbc": data["logWBC"],
            "wbc": pd.cut(data["logWBC"], [0, 2.30, 3.0, 9]).astype(str),
        }
    )


def trials(**columns: list[object]) -> pd.DataFrame:
    return pd.DataFrame({"counted": True} | columns)


def test_kaplan_meier_of_6_mp_equals_the_textbook() -> None:
    """Kleinbaum and Klein, Survival Analysis, group 1; the bounds as SAS prints them."""
    table = survival_table(leukemia())
    died = table[(table["group"] == "6-MP") & (table["events"] > 0)].set_index("t")
    assert died["survival"].round(4).to_dict() == {
        6: 0.8571,
        7: 0.8067,
        10: 0.7529,
        13: 0.6902,
        16: 0.6275,
        22: 0.5378,
        23: 0.4482,
    }
    assert died["at_risk"].tolist() == [21, 17, 15, 12, 11, 7, 6]
    assert died["low"].round(4).tolist() == [0.6197, 0.5631, 0.5032, 0.4316, 0.3675, 0.2678, 0.1881]
    assert died["high"].round(4).tolist() == [
        0.9516,
        0.9228,
        0.8894,
        0.8491,
        0.8049,
        0.7468,
        0.6801,
    ]


def test_median_remission_is_23_and_8_weeks() -> None:
    assert median_survival(survival_table(leukemia())).to_dict() == {"6-MP": 23, "placebo": 8}


def test_log_rank_equals_the_textbook() -> None:
    """Kleinbaum and Klein: chi2 16.79 with 19.25 and 10.75 expected; over white cells 10.14."""
    test = log_rank(leukemia())
    assert round(test.statistic, 2) == 16.79
    assert {k: round(v, 2) for k, v in test.expected.items()} == {"6-MP": 19.25, "placebo": 10.75}
    assert test.observed == {"6-MP": 9, "placebo": 21}
    assert test.degrees == 1
    stratified = log_rank(leukemia(), strata=["wbc"])
    assert (round(stratified.statistic, 2), round(stratified.p_value, 4)) == (10.14, 0.0014)


def test_log_rank_of_three_groups_agrees_with_lifelines() -> None:
    from lifelines.statistics import multivariate_logrank_test

    data = leukemia()
    theirs = multivariate_logrank_test(data["completed"], data["wbc"], data["crashed"])
    ours = log_rank(data, by="wbc")
    assert ours.statistic == pytest.approx(theirs.test_statistic, rel=1e-9)
    assert (ours.degrees, ours.p_value) == (2, pytest.approx(theirs.p_value, rel=1e-6))


def test_hazard_ratio_of_placebo_equals_r() -> None:
    """R survival's coxph with Efron's ties: coefficient 1.5721, ratio 4.817, 2.147 to 10.81."""
    (row,) = hazard_ratios(leukemia(), baselines={"release": "6-MP"}).to_dict("records")
    assert round(np.log(row["ratio"]), 4) == 1.5721
    assert [round(row[c], 3) for c in ("ratio", "low", "high")] == [4.817, 2.147, 10.809]
    assert row["penalised"] is False


def test_hazard_ratios_of_rossi_equal_the_published_ones() -> None:
    """Fox, "Cox Proportional-Hazards Regression" (appendix to An R Companion), first model."""
    data = load_rossi()
    words = {c: data[c].astype(str) for c in ("fin", "race", "wexp", "mar", "paro")}
    frame = trials(
        completed=data["week"],
        crashed=data["arrest"] == 1,
        age=2.0 ** data["age"],  # per doubling of this = per year
        prio=2.0 ** data["prio"],
        **words,
    )
    factors = ["fin", "age", "race", "wexp", "mar", "paro", "prio"]
    table = hazard_ratios(frame, factors, baselines=dict.fromkeys(words, "0"))
    ratios = table.set_index("factor")["ratio"].round(3)
    # mar is coded the other way round in the article: 1 / 0.648 = 1.543 for "not married"
    assert ratios.to_dict() == {
        "fin": 0.684,
        "age": 0.944,
        "race": 1.369,
        "wexp": 0.861,
        "mar": 0.648,
        "paro": 0.919,
        "prio": 1.096,
    }
    p_values = table.set_index("factor")["p_value"].round(3)
    assert p_values.loc[["fin", "age", "prio"]].tolist() == [0.047, 0.009, 0.001]


def test_a_release_that_never_died_gives_a_penalised_fit_that_says_so() -> None:
    frame = trials(
        release=["23.10"] * 4 + ["24.05"] * 4,
        completed=[28, 51, 33, 40, 200, 200, 200, 200],
        crashed=[True] * 4 + [False] * 4,
    )
    (row,) = hazard_ratios(frame).to_dict("records")
    assert (row["baseline"], row["level"]) == ("23.10", "24.05")
    assert row["penalised"] is True
    assert 0 < row["ratio"] < 1


def test_deaths_that_always_come_first_are_noticed_as_separation() -> None:
    frame = trials(
        release=["a"] * 4 + ["b"] * 4,
        completed=[1, 2, 3, 4, 11, 12, 13, 14],
        crashed=[True] * 8,
    )
    (row,) = hazard_ratios(frame, baselines={"release": "b"}).to_dict("records")
    assert row["penalised"] is True
    assert row["ratio"] > 1


@pytest.mark.parametrize(
    "frame",
    [
        trials(release=["a", "b"], completed=[5, 6], crashed=[False, False]),
        trials(release=["a", "a"], completed=[5, 6], crashed=[True, True]),
    ],
)
def test_nothing_to_compare_is_a_named_error(frame: pd.DataFrame) -> None:
    with pytest.raises(NotEnoughDataError):
        hazard_ratios(frame)
    with pytest.raises(NotEnoughDataError):
        log_rank(frame)


def test_trials_that_say_nothing_are_left_out() -> None:
    frame = trials(release=["a", "a"], completed=[5, 6], crashed=[True, False])
    frame["counted"] = [True, False]
    assert survival_table(frame)["at_risk"].max() == 1
    frame["counted"] = False
    with pytest.raises(NotEnoughDataError, match="no trial"):
        survival_table(frame)


def test_a_death_at_the_very_first_request_counts() -> None:
    frame = trials(release=["a", "a"], completed=[0, 9], crashed=[True, False])
    first = survival_table(frame).iloc[0]
    assert (first["t"], first["survival"]) == (0, 0.5)


def test_the_interval_is_missing_where_it_does_not_exist() -> None:
    frame = trials(release=["a"] * 3, completed=[200] * 3, crashed=[False] * 3)
    table = survival_table(frame)
    assert table["survival"].eq(1).all()
    assert table[["low", "high"]].isna().all(axis=None)


def test_at_risk_counts_trials_alive_just_before() -> None:
    table = at_risk_table(leukemia(), [0, 6, 10, 23])
    assert table.loc["6-MP"].tolist() == [21, 21, 15, 6]


def test_seconds_below_one_half_are_told_apart() -> None:
    """Only a count of requests has a smallest step; a clock in seconds has none."""
    seconds = [0.1, 0.2, 0.15, 0.3, 0.25, 0.4]
    frame = trials(release=["a", "b"] * 3, exposure_s=seconds, crashed=[True] * 6)
    thousandfold = frame.assign(exposure_s=frame["exposure_s"] * 1000)
    (short,) = hazard_ratios(frame, over="exposure_s").to_dict("records")
    (long,) = hazard_ratios(thousandfold, over="exposure_s").to_dict("records")
    assert short["ratio"] == pytest.approx(long["ratio"])
    assert short["ratio"] != pytest.approx(1, abs=0.05)


def test_an_open_loop_has_no_concurrency_and_is_a_stratum_of_its_own() -> None:
    frame = trials(
        release=["a", "b"] * 4,
        completed=[3, 90, 5, 80, 4, 70, 6, 95],
        crashed=[True, False] * 4,
        concurrency=pd.array([16] * 4 + [None] * 4, dtype="Int64"),
    )
    found = log_rank(frame, strata=["concurrency"])
    assert sum(found.observed.values()) == 4, "deaths in the open loop count as well"
    with pytest.raises(SpecError, match="4 of 8 trials without concurrency"):
        hazard_ratios(frame, ["concurrency"])
