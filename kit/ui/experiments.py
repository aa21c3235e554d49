"""The front door's experiments that are more than one study: `kit.bisect`, `kit.kv_experiment`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit.ui.arguments import folder as as_folder
from kit.ui.console import remark

if TYPE_CHECKING:
    from kit.ui.choices import Servers
    from kit.ui.study_view import Study


def bisect(
    scenario: str,
    servers: Servers = "here",
    *,
    confidence: float = 0.95,
    repeats: int = 20,
    folder: str | Path | None = None,
    progress: bool = True,
    **traffic: Any,
) -> Study:
    """Find every release at which a crash came or went, each trial where it tells most.

    scenario: a name of kit.scenarios(). servers: releases, oldest first; "here": all that run on
    this machine. confidence: with which each flip has to be known. repeats: most trials of a
    release. folder, **traffic: as for kit.run, one value each.

    The study's `map.flips(scenario)` is the answer in a sentence.

    Raises:
        SpecError, UnknownReleaseError, UnknownScenarioError: as kit.run.

    Example, which starts real servers:

        study = kit.bisect("cancel-race", ["24.05", "24.08", "24.10"])
        study.map.flips("cancel-race")
    """
    from kit.runner.bisect import bisect_study, flips_sentence
    from kit.study.folder import StudyFolder
    from kit.ui.choices import choose, study_folder
    from kit.ui.study_view import Study

    spec = choose(servers, scenario, name=f"bisect-{scenario}", repeats=repeats, **traffic)
    path = study_folder(spec) if folder is None else as_folder("folder", folder)
    _say(f"study folder: {path}", progress)
    bisect_study(
        spec,
        path,
        confidence=confidence,
        on_trial=lambda now: _say(f"{now.trials:3} trials: {flips_sentence(now)}", progress),
    )
    return Study(StudyFolder(path))


def kv_experiment(folder: str | Path = "studies/kv", *, progress: bool = True) -> Study:
    """Run real vLLM and the simulated engine under the same pressure on the KV cache.

    It needs real vLLM for the CPU: `make vllm`. folder: where its two studies go; the same call
    resumes them. Returns the study of both engines, whose `kv` answers.

    Raises:
        DownloadError: it is not installed.

    Example, which takes some minutes:

        study = kit.kv_experiment("studies/kv")
        study.kv.table
    """
    from kit.kv.experiment import KV_STUDY, run
    from kit.study.folder import StudyFolder
    from kit.ui.study_view import Study

    root = as_folder("folder", folder)
    run(root, lambda text: _say(text, progress))
    return Study(StudyFolder(root / KV_STUDY))


def _say(text: str, progress: bool) -> None:
    if progress:
        remark(text)
