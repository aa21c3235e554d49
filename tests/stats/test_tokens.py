"""Tokens of a study, apart by who counted them."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_studies import START_NS, append, write_study, write_trial

from kit.stats.frames import requests_frame
from kit.stats.tokens import token_sentence, token_totals
from kit.study.folder import REQUESTS, StudyFolder, TrialFolder
from kit.study.pack import pack_study

#: Long before the other request of the trial has been answered.
BEGIN_NS = START_NS - 10**9


def counted(trial: TrialFolder, rows: list[tuple[str | None, int | None, int | None]]) -> None:
    """Requests of 100 ms, one after the other, with these counts."""
    append(
        trial,
        "requests-1.arrows",
        REQUESTS,
        [
            dict.fromkeys(REQUESTS.names)
            | {"request": 100 + n, "outcome": "ok" if by else "timeout", "tokens_by": by}
            | {"sent_ns": BEGIN_NS + n * 10**8, "end_ns": BEGIN_NS + (n + 1) * 10**8}
            | {"scheduled_ns": BEGIN_NS + n * 10**8, "tokens_in": into, "tokens_out": out}
            for n, (by, into, out) in enumerate(rows)
        ],
    )


@pytest.fixture
def study(tmp_path: Path) -> StudyFolder:
    made = write_study(tmp_path / "study", ["23.10"], ["cancel-race"])
    trial = write_trial(made, "23.10", requests=1)
    counted(trial, [("server", 10, 20), ("server", 30, 40), ("words", 7, 5), (None, None, None)])
    return made


@pytest.mark.parametrize("packed", [False, True])
def test_counts_of_different_kinds_are_never_added_up(study: StudyFolder, packed: bool) -> None:
    if packed:
        pack_study(study)
    totals = token_totals(study)
    columns = ["release", "tokens_by", "requests", "tokens_in", "tokens_out"]
    assert totals[columns].to_numpy().tolist() == [
        ["23.10", "server", 2, 40, 60],
        ["23.10", "words", 1, 7, 5],
    ]
    assert totals["seconds"].between(1.0, 2.0).all()
    assert token_sentence(study) == (
        "Tokens: 20.0 in a prompt and 30.0 in an answer, counted by the server (its usage) "
        "(2 requests); 7.0 in a prompt and 5.0 in an answer, counted by words, each taken for a "
        "token (1 request). These are not the same, and not added up."
    )
    frame = requests_frame(study)
    assert frame["tokens_by"].tolist()[1:4] == ["server", "server", "words"]
    assert frame["tokens_out"].isna().tolist() == [True, False, False, False, True]


def test_of_older_records_nothing_is_said(tmp_path: Path) -> None:
    made = write_study(tmp_path / "study", ["23.10"], ["cancel-race"])
    write_trial(made, "23.10")
    assert token_totals(made).empty
    assert token_sentence(made) == ""


def test_a_study_is_asked_once_whether_it_is_large(
    study: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_trial(study, "23.10", repeat=1)
    asked: list[StudyFolder] = []
    monkeypatch.setattr("kit.stats.tokens.is_large", lambda of: bool(asked.append(of)))
    token_totals(study)
    assert len(asked) == 1 < len(study.trials())
