"""Whether a figure is the client's own."""

from __future__ import annotations

from kit.load.worker.client_limited import client_limited, client_stall_reason


def rows(**columns: list[float | None]) -> dict[str, list[float | None]]:
    quiet: dict[str, list[float | None]] = {
        "cpu_fraction": [0.2] * 100,
        "loop_lag_s": [0.0005] * 100,
        "dispatch_delay_s": [0.0003] * 100,
    }
    return quiet | columns


def test_a_punctual_client_is_not_limited() -> None:
    limit = client_limited(rows(), open_loop=True)
    assert not limit.limited
    assert (limit.busy_fraction, limit.late_dispatch_fraction) == (0.0, 0.0)


def test_a_busy_core_limits() -> None:
    limit = client_limited(rows(cpu_fraction=[0.97] * 100), open_loop=False)
    assert limit.limited
    assert "100%" in limit.reasons[0]


def test_a_late_loop_limits_when_it_is_late_often() -> None:
    now_and_then = [0.05] * 4 + [0.0] * 96
    assert not client_limited(rows(loop_lag_s=now_and_then), open_loop=False).limited
    assert client_limited(rows(loop_lag_s=[0.05] * 8 + [0.0] * 92), open_loop=False).limited


def test_one_tick_of_a_short_trial_is_forgiven() -> None:
    once = rows(cpu_fraction=[0.2] * 5, loop_lag_s=[0.05, 0.0, 0.0, 0.0, 0.0])
    assert not client_limited(once, open_loop=False).limited
    twice = rows(cpu_fraction=[0.2] * 5, loop_lag_s=[0.05, 0.05, 0.0, 0.0, 0.0])
    assert client_limited(twice, open_loop=False).limited


def test_a_late_dispatch_limits_an_open_loop_only() -> None:
    late = rows(dispatch_delay_s=[0.02] * 100)
    assert client_limited(late, open_loop=True).limited
    assert not client_limited(late, open_loop=False).limited


def test_nothing_measured_is_none_and_not_zero() -> None:
    limit = client_limited(
        rows(cpu_fraction=[], loop_lag_s=[], dispatch_delay_s=[None, float("nan")]), open_loop=True
    )
    assert limit.busy_fraction is None
    assert limit.late_dispatch_fraction is None
    assert not limit.limited


def test_a_client_is_deaf_only_if_it_is_late_beside_the_silence() -> None:
    busy = rows(cpu_fraction=[0.97] * 100)
    late = rows(loop_lag_s=[3.0] * 8 + [0.0] * 92)
    assert client_stall_reason(rows(), silence_s=10.0, open_loop=False) is None
    assert client_stall_reason(busy, silence_s=10.0, open_loop=False) is None
    assert client_stall_reason(late, silence_s=100.0, open_loop=False) is None
    one_stall = rows(loop_lag_s=[4.0] + [0.0] * 99)
    assert (
        client_stall_reason(one_stall, silence_s=10.0, open_loop=False) == "once it was 4.0 s late"
    )
    why = client_stall_reason(late, silence_s=10.0, open_loop=False)
    assert why is not None
    assert "8% of the ticks" in why
    assert why.endswith("once it was 3.0 s late")
