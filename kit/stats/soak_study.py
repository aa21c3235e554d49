"""What a soak has shown: survival, failed requests, drift; each a check with its evidence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import pandas as pd

from kit.errors import SpecError
from kit.servers.watch.names import (
    KV_USAGE,
    OPEN_FILES,
    SERVER_RSS,
    SERVER_SHARED,
    STUB_RSS,
)
from kit.stats.frames import requests_frame, samples_frame, trials_frame
from kit.stats.intervals import evidence_sentence
from kit.stats.judged import judged_requests, kv_usage
from kit.stats.timings import measured
from kit.stats.trend import BLOCKS, SETTLING, Trend, is_settled, trend
from kit.study.folder import StudyFolder
from kit.study.soak import SoakClaim

#: Chance of a false alarm over all measures of drift together.
ALPHA = 0.05


class SoakStatus(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    UNDECIDED = "undecided"  # too little was seen to say either
    NOT_EXPORTED = "not exported"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One thing that must not grow while the same traffic goes on."""

    name: str  # of the sample, or "latency"
    words: str
    unit: str
    divisor: float  # from the sample's unit to the shown one
    least: float  # growth below this, in the shown unit, is no leak
    share: float  # nor is less than this share of the level at the start

    @property
    def claim(self) -> str:
        """What is checked: "server memory does not grow"."""
        return f"{self.words} {'do' if self.words.endswith('files') else 'does'} not grow"


MEASURES = (
    Measure(name="latency", words="latency", unit="ms", divisor=1, least=1.0, share=0.10),
    Measure(name=KV_USAGE, words="KV usage", unit="%", divisor=0.01, least=2.0, share=0.05),
    Measure(name=SERVER_RSS, words="server memory", unit="MiB", divisor=2**20, least=2, share=0.01),
    Measure(
        name=STUB_RSS, words="memory of its stubs", unit="MiB", divisor=2**20, least=2, share=0.01
    ),
    Measure(
        name=SERVER_SHARED, words="shared memory", unit="MiB", divisor=2**20, least=1, share=0.01
    ),
    Measure(name=OPEN_FILES, words="open files", unit="files", divisor=1, least=4, share=0.02),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SoakCheck:
    """One thing that was looked at."""

    name: str
    status: SoakStatus
    says: str  # the evidence, one sentence without its end


@dataclass(frozen=True, slots=True, kw_only=True)
class SoakFound:
    """The checks of a soak, and its series for a picture."""

    claim: SoakClaim
    server: str
    requests: int  # that ended before the server died, or before the soak did
    checks: tuple[SoakCheck, ...]
    series: pd.DataFrame  # measure, requests, value (in its unit)

    @property
    def status(self) -> SoakStatus:
        """Failed if any check is; passed if the claim and the failed share hold."""
        seen = {check.status for check in self.checks}
        if SoakStatus.FAILED in seen:
            return SoakStatus.FAILED
        return SoakStatus.UNDECIDED if SoakStatus.UNDECIDED in seen else SoakStatus.PASSED


def soak_of(study: StudyFolder) -> SoakFound:
    """What the soak in a study folder has shown so far.

    Raises:
        SpecError: the study is no soak.
    """
    claim = study.spec.soak
    if claim is None:
        raise SpecError(
            f"the checks of {study.path.name}, a study that is no soak",
            "a study of kit.soak",
            "run kit.soak(…)",
        )
    trials, requests = trials_frame(study), requests_frame(study)
    counted = trials[trials["counted"]]
    own = requests[requests["trial_id"].isin(counted["trial_id"])]
    judged = judged_requests(own, set(counted.loc[counted["crashed"], "trial_id"]))
    series = pd.concat(
        [_series(study, measure, counted, judged) for measure in MEASURES], ignore_index=True
    )
    checks = [_survival(claim, counted), _failures(claim, judged)]
    checks += [drift_check(measure, series) for measure in MEASURES]
    return SoakFound(
        claim=claim,
        server=study.spec.releases[0],
        requests=int(counted["completed"].sum()),
        checks=tuple(checks),
        series=series,
    )


def _survival(claim: SoakClaim, trials: pd.DataFrame) -> SoakCheck:
    requests, deaths = int(trials["completed"].sum()), int(trials["crashed"].sum())
    says = evidence_sentence(deaths, requests, claim.confidence)
    if deaths:
        first = trials[trials["crashed"]].iloc[0]
        how = first["signature_text"] if pd.notna(first["signature_text"]) else first["reason"]
        return SoakCheck(
            name="survives", status=SoakStatus.FAILED, says=f"{says}; {first['verdict']}: {how}"
        )
    if requests >= claim.requests:
        says = f"0 crashes in {requests:,} requests: {claim.words}"
        return SoakCheck(name="survives", status=SoakStatus.PASSED, says=says)
    return SoakCheck(
        name="survives",
        status=SoakStatus.UNDECIDED,
        says=f"{says}; {claim.words} takes {claim.requests:,} requests",
    )


def _failures(claim: SoakClaim, judged: pd.DataFrame) -> SoakCheck:
    n = len(judged)
    if not n:
        return SoakCheck(name="answers", status=SoakStatus.UNDECIDED, says="no request ended")
    failed = int((~judged["ok"].to_numpy(bool)).sum())
    share = f"{100 * failed / n:.3g} %; {100 * claim.failed:g} % may"
    says = f"{failed:,} of {n:,} requests failed ({share})"
    status = SoakStatus.FAILED if failed > claim.failed * n else SoakStatus.PASSED
    return SoakCheck(name="answers", status=status, says=says)


def _series(
    study: StudyFolder, measure: Measure, trials: pd.DataFrame, judged: pd.DataFrame
) -> pd.DataFrame:
    """A measure against the number of requests that had ended by then."""
    columns = ["measure", "requests", "value"]
    if trials.empty or judged.empty:
        return pd.DataFrame(columns=columns)
    trial = trials["trial_id"].iloc[0]  # one server life: another one begins anew
    own = judged[judged["trial_id"] == trial]
    ended_s = np.sort(own["end_s"].to_numpy(float))
    if measure.name == "latency":
        good = own[own["ok"].to_numpy(bool)].sort_values("end_s")
        times, values = good["end_s"].to_numpy(float), good[measured(own)].to_numpy(float)
    else:
        times, values = _samples(study, measure.name, trial)
        kept = (times >= 0) & (times <= ended_s[-1])
        times, values = times[kept], values[kept]
    done = np.searchsorted(ended_s, times, side="right")
    return pd.DataFrame(
        {"measure": measure.name, "requests": done, "value": values / measure.divisor},
        columns=columns,
    )


def _samples(study: StudyFolder, name: str, trial: str) -> tuple[np.ndarray, np.ndarray]:
    samples = samples_frame(study)
    own = samples[samples["trial_id"] == trial]
    own = kv_usage(own) if name == KV_USAGE else own[own["name"] == name].sort_values("t_s")
    return own["t_s"].to_numpy(float), own["value"].to_numpy(float)


def drift_check(measure: Measure, series: pd.DataFrame) -> SoakCheck:
    """Whether a measure grows with the requests: clearly, enough to matter, and to the end."""
    own = series[series["measure"] == measure.name]
    name = measure.claim
    if own.empty:
        return SoakCheck(
            name=name, status=SoakStatus.NOT_EXPORTED, says=f"{measure.words} not exported"
        )
    found = trend(own["requests"].to_numpy(float), own["value"].to_numpy(float))
    if found is None:
        kept = int(is_settled(own["requests"].to_numpy(float)).sum())
        says = (
            f"{kept} values after the first {100 * SETTLING:g} % of the requests, and {3 * BLOCKS} "
            "are needed: soak for longer (a larger one_in), or with fewer clients"
        )
        return SoakCheck(name=name, status=SoakStatus.UNDECIDED, says=says)
    return SoakCheck(
        name=name,
        status=SoakStatus.FAILED if is_leak(found, measure) else SoakStatus.PASSED,
        says=_drift_words(found, measure),
    )


def is_leak(found: Trend, measure: Measure) -> bool:
    """True for a growth that chance explains with ALPHA over all measures at most, that matters,
    and that has not ended in the second half of the run."""
    return (
        found.p_value < ALPHA / len(MEASURES)
        and found.goes_on
        and found.growth >= measure.least
        and not found.relative < measure.share
    )


def _drift_words(found: Trend, measure: Measure) -> str:
    per = 1000.0
    change = f"{found.slope * per:+.3g} {measure.unit} in 1,000 requests"
    reach = f"{found.low * per:+.3g} to {found.high * per:+.3g} at 95 %"
    return f"{measure.words} {change} ({reach}), from {found.start:.4g} {measure.unit}"


def failing_names(found: SoakFound) -> Iterator[str]:
    """Names of the checks that failed."""
    return (check.name for check in found.checks if check.status is SoakStatus.FAILED)
