"""Tests which factor decides whether servers crash: Triton's release, the engine, the load."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kit.errors import NotEnoughDataError
from kit.study.spec import Engine, EngineKind, StudySpec, embedded

#: Two releases that the racing cancellation check takes down, and between them one that stands.
RELEASES: Final = ("23.10", "24.05", "24.10")
VLLM_VERSIONS: Final = ("0.27.1", "0.32.0")
FACTORS: Final = ("release", "engine", "concurrency")
#: Below this chance a factor is taken to matter.
SURE: Final = 0.01
SHUFFLES: Final = 4000
#: What may be said of a factor that does not matter: more than "not significant" only if it
#: changed the outcome nowhere.
EVERYWHERE: Final = "wherever the rest was alike, so was the outcome"
NOT_SHOWN: Final = "shows no effect in these trials, which is not proof that it has none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One value of a factor, and what became of its trials."""

    name: str
    crashed: int
    trials: int

    def __str__(self) -> str:
        return f"{self.name} {self.crashed} of {self.trials}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Factor:
    """What one factor has to do with which trials crashed."""

    name: str
    levels: tuple[Level, ...]
    explained: float  # share of the variance of "crashed" between the levels, 0-1
    p_value: float  # of a share so high if this factor did nothing, the others held fixed
    changes_nothing: bool  # wherever the others were alike, all its levels had the same outcome

    @property
    def matters(self) -> bool:
        return self.p_value < SURE


def factor_study() -> StudySpec:
    """The experiment: real vLLM in two versions, and no vLLM at all, in three Triton releases.

    The racing check and its control, each with the same traffic in every cell.
    """
    none = Engine(blocks=32, block_size_tokens=32, max_model_tokens=512)
    real = (replace(none, kind=EngineKind.VLLM_CPU, version=v) for v in VLLM_VERSIONS)
    return StudySpec(
        name="vllm-or-triton",
        servers=embedded(*RELEASES),
        scenarios=("control", "cancel-race"),
        engines=(*real, none),
        grid={"concurrency": (1, 4, 16)},
        requests=64,
        repeats=1,
    )


def factors(trials: pd.DataFrame, *, seed: int = 0) -> list[Factor]:
    """How much each of FACTORS decides, over the trials of fault scenarios that count.

    trials: kit.stats.frames.trials_frame; reads release, engine, concurrency, scenario, kind,
        counted, crashed. Chances by shuffling a factor's levels among trials that are alike in
        all others.

    Raises:
        NotEnoughDataError: no such trials.
    """
    faults = trials[trials["counted"] & (trials["kind"] == "fault")]
    if faults.empty:
        raise NotEnoughDataError(
            "no trial of a fault scenario", "some of each release and engine", "run the study"
        )
    crashed = faults["crashed"].to_numpy(np.float64)
    random = np.random.default_rng(seed)
    found = []
    for name in FACTORS:
        others = [other for other in (*FACTORS, "scenario") if other != name]
        numbers, levels = pd.factorize(faults[name], sort=True)
        codes: NDArray[np.intp] = np.asarray(numbers, dtype=np.intp)
        strata = faults.groupby(others, observed=True, dropna=False).ngroup().to_numpy()
        dealt = _dealt(codes, strata, random)
        seen = float(_explained(codes[None, :], crashed)[0])
        as_high = int((_explained(dealt, crashed) >= seen - 1e-12).sum())
        found.append(
            Factor(
                name=name,
                levels=tuple(
                    Level(
                        name=str(level),
                        crashed=int(crashed[codes == number].sum()),
                        trials=int((codes == number).sum()),
                    )
                    for number, level in enumerate(levels)
                ),
                explained=seen,
                p_value=(1 + as_high) / (1 + SHUFFLES),
                changes_nothing=_changes_nothing(codes, strata, crashed),
            )
        )
    return found


def engine_name(engine: str) -> str:
    """An engine's label for people: "vLLM 0.32.0", "no vLLM (simulated)"."""
    if engine.startswith("vllm-cpu"):
        return f"vLLM {engine.removeprefix('vllm-cpu').strip()}".strip()
    return "no vLLM (simulated)" if engine.startswith("simulated") else engine


def vllm_or_triton(found: list[Factor]) -> str:
    """The answer in one or two sentences, with the counts that it rests on."""
    by_name = {factor.name: factor for factor in found}
    release, engine = by_name["release"], by_name["engine"]
    counts = {f.name: ", ".join(map(str, f.levels)) for f in found}
    counts["engine"] = ", ".join(
        f"{engine_name(level.name)} {level.crashed} of {level.trials}" for level in engine.levels
    )
    if not any(level.crashed for level in release.levels):
        total = sum(level.trials for level in release.levels)
        return f"Nothing crashed in {total} trials, so they cannot tell."
    if release.matters and not engine.matters:
        said, rest = (
            ("It is Triton, not vLLM", f"does not: {EVERYWHERE}")
            if engine.changes_nothing
            else ("It is Triton", NOT_SHOWN)
        )
        return (
            f"{said}: the release decides which trials crash ({counts['release']}); "
            f"what runs behind it {rest} ({counts['engine']})."
        )
    if engine.matters and not release.matters:
        said, rest = (
            ("It is the engine, not Triton", f"does not: {EVERYWHERE}")
            if release.changes_nothing
            else ("It is the engine", NOT_SHOWN)
        )
        return (
            f"{said}: the engine decides which trials crash ({counts['engine']}); "
            f"the release {rest} ({counts['release']})."
        )
    if engine.matters:
        return (
            f"It is both: crashes depend on the release ({counts['release']}) and on the engine "
            f"({counts['engine']})."
        )
    return (
        f"These trials cannot tell: crashes differ neither between releases ({counts['release']}) "
        f"nor between engines ({counts['engine']}) by more than chance."
    )


def _explained(codes: NDArray[np.intp], crashed: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the variance that lies between the levels, one a row; 0 where nothing varies."""
    mean = crashed.mean()
    total = ((crashed - mean) ** 2).sum()
    between = np.zeros(len(codes))
    for level in range(int(codes.max()) + 1):
        of_level = codes == level
        sizes = of_level.sum(axis=1)
        means = of_level @ crashed / np.maximum(sizes, 1)
        between += sizes * (means - mean) ** 2
    return between / total if total else between


def _changes_nothing(
    codes: NDArray[np.intp], strata: NDArray[np.integer[Any]], crashed: NDArray[np.float64]
) -> bool:
    """Whether the levels had one share of deaths in each stratum; each must have two or more."""
    for stratum in np.unique(strata):
        own = strata == stratum
        levels = np.unique(codes[own])
        shares = {float(crashed[own & (codes == level)].mean()) for level in levels}
        if len(levels) < 2 or len(shares) > 1:
            return False
    return True


def _dealt(
    codes: NDArray[np.intp], strata: NDArray[np.integer[Any]], random: np.random.Generator
) -> NDArray[np.intp]:
    """The levels dealt anew within each stratum, SHUFFLES times, one a row."""
    shuffled = np.argsort(strata + random.random((SHUFFLES, len(codes))), axis=1)
    dealt = np.empty_like(shuffled)
    dealt[:, np.argsort(strata, kind="stable")] = codes[shuffled]
    return dealt
