"""A short slice of the fault campaign, and that the campaign counts and goes on as it says."""

from __future__ import annotations

import json
import secrets
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks/ is no part of the package

from benchmarks.faults import campaign  # noqa: E402
from benchmarks.faults.batch import groups  # noqa: E402

#: Groups of which a batch takes three to eight seconds of a processor.
CHEAP = (
    *("http", "grpc", "raw", "metrics", "folders", "logs", "specs", "registers", "guards"),
    *("workers", "foreigners"),
)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(4))
def test_no_fault_of_a_random_batch_breaks_the_kit(number: int) -> None:
    group, seed = CHEAP[secrets.randbelow(len(CHEAP))], secrets.token_hex(4)
    again = f"campaign._batch({group!r}, {seed!r}) runs it again"
    print(again)
    batch = campaign._batch(group, seed)
    assert batch["faults"]
    assert [(kind, why) for kind, why in batch["faults"] if why] == [], again


def test_every_group_can_be_drawn() -> None:
    assert groups().keys() == campaign.WEIGHTS.keys()


def test_a_campaign_goes_on_where_it_was_stopped_and_counts_by_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def batch(group: str, seed: str) -> dict[str, object]:
        ran.append(seed)
        return {"group": group, "seed": seed, "faults": [["a", ""], ["b", "broken"]]}

    monkeypatch.setattr(campaign, "_batch", batch)
    path = tmp_path / "f.jsonl"
    campaign.run(path, seed=3, faults=4, groups=["logs"])
    with path.open("a") as file:
        file.write('{"group": "logs", "fau')  # killed while it wrote
    found = campaign.run(path, seed=3, faults=6, groups=["logs"])
    assert ran == ["3-0", "3-1", "3-2"]
    assert len(path.read_text().splitlines()) == 3
    assert json.loads(path.read_text().splitlines()[2])["seed"] == "3-2"
    assert campaign.table(found).splitlines()[-1] == "| all | 2 kinds | 6 | 3 |"
    assert "| logs | b | 3 | 3 |" in campaign.table(found)
