"""Signatures: equal for equal crashes, apart for others; and their groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit.crash.groups import TrialDeath, group_deaths, site_of
from kit.crash.stack.maps import MemoryMap
from kit.crash.stack.signature import signal_of, signature_of
from kit.crash.stack.symbols import SymbolTable, find_module
from kit.study.encoding import from_json, to_json
from kit.study.result import Frame, Signature, Verdict

STACKS = Path(__file__).parent / "stacks"


def _log(name: str) -> str:
    return (STACKS / f"{name}.log").read_text()


def _measured(name: str, *, maps: bool = True) -> Signature:
    found = signature_of(
        _log(name),
        maps=MemoryMap.parse((STACKS / f"{name}.maps").read_text()) if maps else None,
        exit_code=-11,
    )
    assert found is not None
    return found


def test_two_runs_of_one_release_have_one_key_although_every_address_differs() -> None:
    first, second = _measured("measured-23.10-1"), _measured("measured-23.10-2")
    assert first.key == second.key
    assert first.frames[0].address != second.frames[0].address
    assert [f.offset for f in first.frames] == [f.offset for f in second.frames]
    assert first.key == (
        "SIGSEGV|libtritonserver.so!TRITONBACKEND_ResponseFactoryIsCancelled"
        "|libtriton_python.so+0x34af9|libtriton_python.so+0x3ad4d"
    )
    assert first.text == "SIGSEGV in TRITONBACKEND_ResponseFactoryIsCancelled"


def test_without_a_memory_map_two_runs_still_have_one_key() -> None:
    first = _measured("measured-23.10-1", maps=False)
    assert first.key == _measured("measured-23.10-2", maps=False).key
    assert first.key.endswith("|libtriton_python.so~af9|libtriton_python.so~d4d")


def test_another_release_has_another_key() -> None:
    assert _measured("measured-23.10-1").key != _measured("measured-24.10-1").key


def test_the_report_and_its_second_thread_have_one_key() -> None:
    first, second = (signature_of(_log(name)) for name in ("server-7332", "server-5702"))
    assert first is not None
    assert second is not None
    assert first.key == second.key


def test_all_frames_stay_on_the_record() -> None:
    assert [frame.index for frame in _measured("measured-23.10-1").frames] == list(range(8))


def test_a_signature_survives_json() -> None:
    signature = _measured("measured-23.10-1")
    assert from_json(to_json(signature), Signature) == signature


@pytest.mark.parametrize(
    ("code", "number"),
    [(-11, 11), (139, 11), (134, 6), (137, 9), (0, None), (1, None), (255, None)],
)
def test_an_exit_codes_signal(code: int, number: int | None) -> None:
    assert signal_of(code) == number


def test_a_log_without_a_crash_has_no_signature() -> None:
    for name in ("alive-stopped", "alive-handled-errors", "alive-model-load-failed"):
        assert signature_of(_log(name), exit_code=0) is None
        assert signature_of(_log(name)) is None


def test_a_signal_without_a_stack_is_a_signature_of_its_own() -> None:
    found = signature_of("", exit_code=-11)
    assert found is not None
    assert (found.signal, found.frames, found.key) == (11, (), "SIGSEGV")
    killed = signature_of("", exit_code=137)
    assert killed is not None
    assert killed.text == "SIGKILL, no stack"
    assert signature_of("", exit_code=-15) is None


def test_the_exit_code_decides_between_the_stacks_of_a_log() -> None:
    log = _log("server-8882") + "\n" * 100 + _log("server-7332")
    aborted, fault = signature_of(log, exit_code=-6), signature_of(log, exit_code=-11)
    assert aborted is not None
    assert fault is not None
    assert (
        aborted.text == "SIGABRT after boost::interprocess::lock_exception in libtriton_python.so"
    )
    assert fault.text == "SIGSEGV in TRITONBACKEND_ResponseFactoryIsCancelled"


def test_numbers_in_words_do_not_tell_crashes_apart() -> None:
    keys = {
        found.key
        for n in (1, 2)
        if (found := signature_of(f"malloc(): corrupted top size {n}\nAborted (core dumped)\n"))
    }
    assert len(keys) == 1


def _signature(*frames: tuple[str, int | None, str | None], key: str) -> Signature:
    return Signature(
        signal=11,
        frames=tuple(
            Frame(index=i, module=module, offset=offset, symbol=symbol)
            for i, (module, offset, symbol) in enumerate(frames)
        ),
        key=key,
        text=f"SIGSEGV in {frames[-1][2]}",
    )


HANDLER: tuple[tuple[str, int | None, str | None], ...] = (
    ("tritonserver", 1, "H"),
    ("libc.so.6", 2, None),
)


def _death(
    trial: str, release: str, signature: Signature | None, verdict: Verdict = Verdict.CRASHED
) -> TrialDeath:
    return TrialDeath(
        trial_id=trial,
        release=release,
        scenario="cancel-race",
        verdict=verdict,
        signature=signature,
    )


def test_crashes_at_one_place_are_grouped_over_trials_and_builds() -> None:
    in_one = _signature(
        *HANDLER, ("tritonserver", 16, "a::b(int)"), key="SIGSEGV|tritonserver+0x10"
    )
    in_two = _signature(
        *HANDLER, ("tritonserver", 32, "a::b(int)"), key="SIGSEGV|tritonserver+0x20"
    )
    elsewhere = _signature(
        *HANDLER, ("tritonserver", 64, "c::d()"), key="SIGSEGV|tritonserver+0x40"
    )
    groups = group_deaths(
        [
            _death("t1", "23.10", in_one),
            _death("t2", "23.10", elsewhere),
            _death("t3", "24.10", in_two),
            _death("t4", "23.10", in_one),
        ]
    )
    assert [(len(group.deaths), len(group.builds), group.stacks) for group in groups] == [
        (3, 2, 1),
        (1, 1, 1),
    ]
    assert [death.trial_id for death in groups[0].deaths] == ["t1", "t3", "t4"]
    assert groups[0].releases == ("23.10", "24.10")
    assert [[death.trial_id for death in own] for own in groups[0].builds] == [["t1", "t4"], ["t3"]]


def test_deaths_without_a_stack_are_grouped_by_verdict_and_stand_last() -> None:
    named = _signature(*HANDLER, ("tritonserver", 16, "a::b(int)"), key="SIGSEGV|tritonserver+0x10")
    hung = [_death(f"h{n}", "24.05", None, Verdict.HUNG) for n in range(3)]
    groups = group_deaths([*hung, _death("t", "23.10", named)])
    assert [(group.has_stack, len(group.deaths)) for group in groups] == [(True, 1), (False, 3)]
    assert groups[1].text == "hung, without a stack"


def test_stacks_without_names_are_one_group_only_when_their_keys_are_equal() -> None:
    one = _signature(*HANDLER, ("tritonserver", 16, None), key="SIGSEGV|tritonserver+0x10")
    two = _signature(*HANDLER, ("tritonserver", 32, None), key="SIGSEGV|tritonserver+0x20")
    assert len(group_deaths([_death("a", "23.10", one), _death("b", "24.10", two)])) == 2
    assert site_of(one) == one.key


def test_an_exported_name_far_before_a_frame_names_no_place() -> None:
    near = _signature(*HANDLER, ("libtriton_python.so", 16, "TRITONBACKEND_X+0x5000"), key="k")
    assert site_of(near) == "k"


def test_a_crash_measured_on_two_releases_is_one_group() -> None:
    (group,) = group_deaths(
        _death(name, name[9:14], _measured(name))
        for name in ("measured-23.10-1", "measured-23.10-2", "measured-24.10-1")
    )
    assert (len(group.deaths), len(group.builds), group.stacks) == (3, 2, 1)


def test_a_file_that_is_no_binary_has_no_functions(tmp_path: Path) -> None:
    for content in (b"", b"\x7fELF", b"\x7fELF" + bytes(60), b"text" * 100):
        path = tmp_path / "module.so"
        path.write_bytes(content)
        table = SymbolTable.read(path)
        assert (len(table), table.at(0x1000)) == (0, None)
    assert len(SymbolTable.read(tmp_path / "missing.so")) == 0
    assert find_module(tmp_path, "other.so") is None
