"""A spec that cannot be run as written is refused when it is made."""

from dataclasses import replace

import pytest

from kit.errors import SpecError
from kit.study.encoding import from_json, to_json
from kit.study.plan import plan
from kit.study.spec import StudySpec, embedded

STUDY = StudySpec(name="t", servers=embedded("24.10"), scenarios=("control",))

BAD_NAMES = [
    "",
    ".",
    "..",
    "../../x",
    "a/b",
    "x$(touch PWNED)y",
    "`id`",
    "a;b",
    "<b>",
    "$x$",
    "a\u202eb",
    "a\nb",
    "a\x1b[2Jb",
    "-rf",
    "*",
    "x" * 151,
    "é" * 76,
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_is_no_plain_folder_name_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match="choose another name"):
        replace(STUDY, name=name)
    with pytest.raises(SpecError, match="choose another name"):
        replace(plan(STUDY)[0], trial_id=name)
    hostile = to_json(STUDY).replace(b'"name": "t"', b'"name": ' + _quoted(name))
    with pytest.raises(SpecError):
        from_json(hostile, StudySpec)


def _quoted(name: str) -> bytes:
    return to_json(name).strip()


@pytest.mark.parametrize("name", ["t", "first-light", "Grüße 2", "メモ", "a (copy), 3 @ 5+1=6"])
def test_names_that_people_give_are_taken(name: str) -> None:
    assert replace(STUDY, name=name).name == name


def test_a_slip_of_the_hand_plans_no_year_of_trials() -> None:
    with pytest.raises(SpecError, match="1000000000 repeats"):
        replace(STUDY, repeats=1_000_000_000)
