"""data/crashes.yaml and data/builds.yaml: what they hold, and what a wrong row gives."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
import yaml
from msgspec import structs

from kit.crash.catalog import CATALOG, FRONTENDS, Crash, Measured, free_releases, load_catalog
from kit.crash.component import Component
from kit.crash.diagnose import diagnose, diagnose_file
from kit.crash.log.backtrace import Backtrace
from kit.crash.log.shapes import Shape
from kit.crash.match import Case, best_of, rank
from kit.crash.origin import release_named
from kit.crash.stack.builds import (
    frontend_of,
    function_at,
    guess_release,
    known_builds,
    load_builds,
    part_at,
)
from kit.errors import CatalogError, UnknownReleaseError
from kit.study.hybrids import hybrid_parts
from kit.study.plain_yaml import from_yaml
from kit.study.releases import embedded_releases, load_releases
from kit.study.result import Frame
from kit.study.scenarios import load_scenarios

CRASHES = load_catalog()
STACKS = Path(__file__).parent / "stacks"


def test_every_release_that_the_catalog_names_is_known_or_newer_than_all_known() -> None:
    known = load_releases()
    for crash in CRASHES.values():
        ends = [end for span in crash.affected.ranges for end in (span.start, span.end)]
        for name in (*ends, crash.first_fixed):
            assert name is None or name in known or name > max(known), (crash.id, name)


def test_a_crash_is_not_known_in_the_release_that_first_fixed_it() -> None:
    for crash in CRASHES.values():
        if crash.first_fixed:
            assert not crash.affected.holds(crash.first_fixed), crash.id


def test_scenarios_and_catalog_name_each_other() -> None:
    scenarios = load_scenarios()
    for scenario in scenarios.values():
        if scenario.crash is not None:
            assert scenario.name in CRASHES[scenario.crash].scenarios
    for crash in CRASHES.values():
        for name in crash.scenarios:
            assert scenarios[name].kind == "fault", (crash.id, name)


def test_what_an_embedded_release_can_show_has_a_scenario_or_a_reason_why_not() -> None:
    for crash in CRASHES.values():
        here = [r.release for r in embedded_releases() if crash.affected.holds(r.release)]
        if here and not crash.needs_gpu:
            assert bool(crash.scenarios) is not bool(crash.not_shown), crash.id
        assert not (crash.scenarios and crash.not_shown), crash.id


def test_a_range_rests_on_something_that_the_entry_states() -> None:
    for crash in CRASHES.values():
        assert {span.by for span in crash.affected.ranges} <= set(crash.evidence), crash.id


#: A release that an advice sends to, "Upgrade to 25.04 or later", or a range of them.
_SENT_ON = re.compile(r"(?:[Uu]pgrade to|[Uu]se) (2\d\.\d\d) or later")
_SENT_BETWEEN = re.compile(r"release from (2\d\.\d\d) to (2\d\.\d\d)")


def test_no_advice_sends_to_a_server_that_was_seen_to_die_of_the_crash() -> None:
    """Of a hybrid the release counts that the crash's part of it is of."""
    followed = 0
    for crash in CRASHES.values():
        spans = [(first, "99.99") for first in _SENT_ON.findall(crash.advice)]
        spans += _SENT_BETWEEN.findall(crash.advice)
        for server, seen in crash.measured.items():
            frontends, core = hybrid_parts(server) or (server, server)
            release = frontends if crash.component in FRONTENDS else core
            inside = [span for span in spans if span[0] <= release <= span[1]]
            followed += len(inside)
            assert not (inside and seen.deaths), (crash.id, server, crash.advice)
    assert followed > 20, "advice that was tried"


def test_no_crash_is_called_fixed_in_a_release_before_a_server_that_died_of_it() -> None:
    for crash in CRASHES.values():
        for server, seen in crash.measured.items():
            frontends, core = hybrid_parts(server) or (server, server)
            release = frontends if crash.component in FRONTENDS else core
            fixed = crash.first_fixed is not None and release >= crash.first_fixed
            assert not (fixed and seen.deaths), (crash.id, server)


def test_no_evidence_is_called_measured_without_a_release_it_was_measured_on() -> None:
    versions = [row.triton for row in load_releases().values()]
    names = list(load_releases())
    for crash in CRASHES.values():
        words = crash.evidence.get("measured")
        if words and crash.links:
            assert any(name in words for name in (*versions, *names)), crash.id


def _case(component: Component, *frames: tuple[str, str | None], releases: str = "") -> Case:
    stack = tuple(
        Frame(index=i, module=module, offset=None, symbol=symbol)
        for i, (module, symbol) in enumerate(frames)
    )
    return Case(
        signal=11,
        frames=stack,
        component=component,
        releases=tuple(releases.split()),
        said={},
    )


REPORTED = (
    ("libtritonserver.so", "TRITONBACKEND_ResponseFactoryIsCancelled"),
    ("libtriton_python.so", None),
)


@pytest.mark.parametrize(
    ("release", "best"),
    [
        ("23.10", "is-cancelled-after-final"),
        ("23.11", "rf-map-address-reuse"),
        ("24.08", "is-cancelled-after-final"),
        ("26.07", "is-cancelled-after-final"),
    ],
)
def test_the_release_decides_between_the_two_causes_of_the_reported_stack(
    release: str, best: str
) -> None:
    matches = rank(_case(Component.PYTHON_BACKEND, *REPORTED, releases=release), CRASHES)
    assert matches[0].id == best
    assert release in matches[0].why
    assert matches[0].score == 0.9


def test_a_release_that_is_not_known_to_have_a_crash_lowers_its_score_and_the_reason_says_so() -> (
    None
):
    (first, *_) = rank(_case(Component.PYTHON_BACKEND, *REPORTED, releases="24.02"), CRASHES)
    assert first.score < 0.4
    assert "24.02 is not known to have it" in first.why


def test_an_unknown_release_is_said_to_be_unknown() -> None:
    (first, *_) = rank(_case(Component.PYTHON_BACKEND, *REPORTED), CRASHES)
    assert 0.7 < first.score < 0.9
    assert "this release is not known" in first.why


def test_a_likeness_by_component_alone_names_no_crash() -> None:
    matches = rank(
        _case(Component.GRPC_FRONTEND, ("tritonserver", None), releases="24.05"), CRASHES
    )
    assert matches
    assert not any(match.precise for match in matches)
    assert best_of(matches) == []
    assert all("only the component fits" in match.why for match in matches)


def test_a_stack_with_two_causes_is_named_after_both_and_sent_to_releases_without_either() -> None:
    found = diagnose_file(STACKS / "server-7332.log")
    assert "most like rf-map-address-reuse or is-cancelled-after-final" in found.summary
    assert "Releases without any of them: 23.12 to 24.07." in found.advice
    for name in ("rf-map-address-reuse", "is-cancelled-after-final"):
        assert f"If it is {name}: {CRASHES[name].advice}" in found.advice


def test_advice_for_a_release_that_is_not_known_says_which_it_is_for() -> None:
    found = diagnose_file(STACKS / "server-7938.log")
    assert "If it ran one of the releases that have it (up to 23.11): " in found.advice


@pytest.mark.parametrize(
    ("ids", "free"),
    [
        (["is-cancelled-after-final"], "23.12 to 24.07"),
        (["http-generate-disconnect"], "23.12 to today"),
        (["bls-decoupled-map-and-gil"], "23.12 to today"),
        (["bls-decoupled-map-and-gil", "bls-decoupled-deadlock"], None),
        (["gil-held-is-cancelled", "response-path-perf"], "24.10 to today"),
    ],
)
def test_the_releases_without_any_of_some_crashes(ids: list[str], free: str | None) -> None:
    assert free_releases([CRASHES[name] for name in ids]) == free


def test_a_release_that_died_of_it_here_is_not_free_of_it_whatever_its_range_says() -> None:
    measured = {"24.01": Measured(trials=5, deaths=5), "24.02": Measured(trials=5, deaths=0)}
    crash = structs.replace(CRASHES["is-cancelled-after-final"], measured=measured)
    assert free_releases([crash]) == "23.12, 24.02 to 24.07"
    (match, *_) = rank(
        _case(Component.PYTHON_BACKEND, *REPORTED, releases="24.01"), {crash.id: crash}
    )
    assert match.score == 0.9
    assert "measured here: 5 of 5 trials died on 24.01" in match.why


def test_address_bits_of_no_known_build_speak_against_a_release_whose_bits_are_known() -> None:
    log = (STACKS / "server-7332.log").read_text().replace("1667D in", "162AD in")
    found = diagnose(log, believed_release="23.10")
    assert (found.release_guess, found.origin.agrees) == (None, False)
    assert "(…2AD) are not those of 23.10 (…13D)" in found.advice
    assert all("this release is not known" in match.why for match in found.matches)
    stated = diagnose(f"NVIDIA Release 24.05 (build 94071063)\n{log}")
    assert (stated.release_guess, stated.origin.agrees) == (None, False)
    unheard = diagnose(log, believed_release="25.07")  # its bits are not known
    assert (unheard.release_guess, unheard.origin.agrees) == ("25.07", None)


def test_a_release_that_is_none_is_not_ignored() -> None:
    with pytest.raises(UnknownReleaseError, match=r"23\.10"):
        diagnose("all is well", believed_release="23.1O")


def test_a_crash_in_unknown_code_matches_nothing() -> None:
    assert rank(_case(Component.OTHER, ("libfoo.so", "foo")), CRASHES) == []


def _wrong(change: dict[str, object], tmp_path: Path) -> str:
    document = from_yaml(CATALOG.read_text())
    document["crashes"][0] |= change
    path = tmp_path / "crashes.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(CatalogError) as caught:
        load_catalog(path)
    return str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kinds": ["boom"]}, "kind 'boom'"),
        ({"evidence": {"rumour": "x"}}, "evidence 'rumour'"),
        ({"evidence": {}}, "no kind, evidence or advice"),
        ({"links": ["http://example.com"]}, "link"),
        ({"first_fixed": "2.41.0"}, "release '2.41.0'"),
        ({"affected": {"ranges": [{"from": "9.9", "to": None, "by": "git"}]}}, "release '9.9'"),
        ({"signs": [{"weight": 0.9, "signal": [11]}]}, "a sign that any crash shows"),
        ({"signs": [{"weight": 1.5, "says": "x"}]}, "weight 1.5"),
        ({"signs": [{"weight": 0.5, "calls": "("}]}, "pattern '('"),
        ({"affected": {"ranges": [{"from": "23.10", "to": None}]}}, "`by`"),
        ({"affected": {"ranges": [{"from": None, "to": None, "by": "rumour"}]}}, "rumour"),
        ({"signs": [{"weight": 0.2, "like": "x", "part": "core"}]}, "like without says"),
        ({"signs": [{"weight": 0.2, "part": "engine-room"}]}, "engine-room"),
        ({"signs": [{"weight": 0.5, "part": "core"}]}, "a component alone weighs 0.5"),
        ({"id": "is-cancelled-after-final"}, "occurs twice"),
        ({"unheard": 1}, "unheard"),
        ({"title": 7}, "title"),
    ],
)
def test_a_wrong_row_is_named(change: dict[str, object], said: str, tmp_path: Path) -> None:
    assert said in _wrong(change, tmp_path)


@pytest.mark.parametrize("text", ["", "][", "schema: 1", "\x00"])
def test_a_file_that_is_no_catalog_is_an_error_with_a_name(text: str, tmp_path: Path) -> None:
    path = tmp_path / "crashes.yaml"
    path.write_text(text)
    with pytest.raises(CatalogError):
        load_catalog(path)
    with pytest.raises(CatalogError):
        load_builds(path)
    with pytest.raises(CatalogError):
        load_catalog(tmp_path / "missing.yaml")


def test_the_catalogs_entries_are_plain_rows() -> None:
    assert all(isinstance(crash, Crash) and crash.id == name for name, crash in CRASHES.items())


def test_builds_and_releases_agree_on_frame_0() -> None:
    releases = load_releases()
    for build in known_builds():
        assert build.release in releases
        frame0 = releases[build.release].frame0
        assert frame0 is None or frame0.upper() == build.frame0
        if build.frame0_offset is not None:
            assert f"{build.frame0_offset & 0xFFF:03X}" == build.frame0
    measured = {build.release for build in known_builds() if build.evidence == "measured"}
    assert measured == {row.release for row in releases.values() if row.wheel is not None}


def test_the_parts_of_an_executable_do_not_overlap() -> None:
    for build in known_builds():
        ends = [(part.start, part.end) for part in build.parts]
        assert all(start < end for start, end in ends)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(ends))
        assert {part.component for part in build.parts} <= {
            "http-frontend",
            "grpc-frontend",
            "other",
        }
        functions = [(function.start, function.end) for function in build.functions]
        assert all(start < end for start, end in functions)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(functions))
        for function in build.functions:
            assert part_at(build, function.start) in (frontend_of(function.name), "other")
            assert function_at([build], function.end - 1) == function.name
        if build.frame0_offset is not None:
            assert build.functions
            assert part_at(build, build.frame0_offset) == "other"
            assert part_at(build, 0) is None


def _stack(*addresses: int, module: str = "tritonserver") -> Backtrace:
    frames = tuple(
        Frame(index=i, module=module, offset=None, symbol=None, address=address)
        for i, address in enumerate(addresses)
    )
    return Backtrace(shape=Shape.TRITON, signal=11, frames=frames, line=1)


def test_any_load_address_gives_the_same_release() -> None:
    for build in known_builds():
        for page in (0x55555555_5000, 0x7F00_0000_0000, 0x5A51_9100_0000):
            guess = guess_release(_stack(page + int(build.frame0, 16)))
            assert build.release in guess.releases
    assert guess_release(_stack(0x55555555_5000 + 0x2AD)).releases == ()
    assert guess_release(_stack(0x55555555_513D, module="python3")).digits is None
    assert guess_release(_stack()).digits is None


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("23.11", "23.11"),
        ("nvcr.io/nvidia/tritonserver:23.11-vllm-python-py3", "23.11"),
        ("2.40.0", "23.11"),
        ("v2.40.0", "23.11"),
        ("Triton 2.39.0", "23.10"),
        ("2.999.0", None),
        ("latest", None),
        ("23.13", None),
    ],
)
def test_a_release_is_known_by_its_names(text: str, release: str | None) -> None:
    assert release_named(text) == release


@pytest.mark.parametrize(
    ("symbol", "part"),
    [
        ("triton::server::grpc::ModelInferHandler::Process(int)", "grpc-frontend"),
        ("grpc_core::ExecCtx::Flush()", "grpc-frontend"),
        ("triton::server::HTTPAPIServer::Infer(evhtp_request*)", "http-frontend"),
        ("evhtp_send_reply_chunk", "http-frontend"),
        ("grpc_event_engine::run()", "grpc-frontend"),
        ("triton::server::TraceManager::SampleTrace()", "other"),
        ("event_engine_run", None),
        ("std::vector<int>::at(unsigned long)", None),
    ],
)
def test_a_functions_name_tells_its_frontend(symbol: str, part: str | None) -> None:
    assert frontend_of(symbol) == part
