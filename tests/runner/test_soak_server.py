"""A soak of a real server: passed, kept, reported, and for a pipeline."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

import kit
from kit.errors import SpecError
from kit.ui.cli import main


def test_a_good_server_passes_a_small_soak_and_the_pipeline_reads_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, report = tmp_path / "study", tmp_path / "soak.xml"
    words = ["soak", "24.05", "--one-in", "40", "--output-tokens", "4", "--prompt-tokens", "8"]
    places = ["--out", str(study), "--junit", str(report), "--reports", str(tmp_path / "r")]
    code = main([*words, *places])
    said = capsys.readouterr().out
    suite = ElementTree.parse(report).getroot()[0]
    outcomes = {case.attrib["name"]: [child.tag for child in case] for case in suite}
    # 119 requests take too short to tell a leak: that is undecided, and so is the whole.
    assert code in (0, 4), said
    assert outcomes["survives"] == ["system-out"]
    assert outcomes["answers"] == ["system-out"]
    assert "0 crashes in 119 requests" in said
    opened = kit.open(study)
    assert opened.soak.status in ("passed", "undecided")
    names = set(opened.samples["name"])
    assert {"server_shared_bytes", "server_open_files"} <= names
    assert 'id="soak"' in next((tmp_path / "r").glob("study.html")).read_text()
    assert opened.plot_drift().get_ylabel().startswith("of the level")


def test_a_claim_that_a_trace_cannot_support_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "short.csv"
    path.write_text("t_s,prompt_tokens,output_tokens\n" + "".join(f"{t},8,4\n" for t in range(50)))
    with pytest.raises(SpecError, match="allows one_in = 17 at most"):
        kit.soak("24.05", trace=path, one_in=100)
    with pytest.raises(SpecError, match="requests"):
        kit.soak("24.05", requests=5)
    with pytest.raises(SpecError, match="a soak of 2"):
        kit.soak("24.05", output_tokens=[4, 8])
