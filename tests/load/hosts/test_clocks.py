"""The comparison of clocks on simulated ones, whose truth is known."""

import random

import numpy as np
import pytest

from kit.load.hosts.clocks import ClockLine, ClockOffset, RoundTrip, offset_of

AHEAD_NS = 86_400_000_000_000


class World:
    """A caller's clock and a host's, and ways between them that take as long as a test says."""

    def __init__(self, *, ahead_ns: int = AHEAD_NS, gain: float = 0.0) -> None:
        self.now_ns = 5_000_000_000
        self._ahead_ns, self._gain = ahead_ns, gain

    def offset_ns(self, at_ns: float) -> float:
        return self._ahead_ns + self._gain * (at_ns - 5_000_000_000)

    def ask(self, there_ns: int, back_ns: int) -> RoundTrip:
        asked = self.now_ns
        read_at = asked + there_ns
        self.now_ns = read_at + back_ns
        return RoundTrip(
            asked_ns=asked, read_ns=round(read_at + self.offset_ns(read_at)), came_ns=self.now_ns
        )


@pytest.mark.parametrize("seed", range(20))
def test_the_bound_holds_however_unequal_the_two_ways_are(seed: int) -> None:
    draw, world = random.Random(seed), World()
    trips = [
        world.ask(*(round(draw.expovariate(1 / 2e6)) + least for least in (100_000, 3_000_000)))
        for _ in range(16)
    ]
    found = offset_of(trips)
    assert abs(found.offset_ns - AHEAD_NS) <= found.error_ns
    assert found.error_ns == (min(trip.delay_ns for trip in trips) + 1) // 2
    assert found.error_ns < max(trip.delay_ns for trip in trips) / 2


def test_all_of_the_delay_on_one_way_is_just_the_bound() -> None:
    for there_ns, back_ns in ((4_000_000, 0), (0, 4_000_000)):
        found = offset_of([World().ask(there_ns, back_ns)])
        assert abs(found.offset_ns - AHEAD_NS) == found.error_ns == 2_000_000


def test_no_round_trip_is_no_offset() -> None:
    with pytest.raises(ValueError, match="empty"):
        offset_of([])


def compared(world: World) -> ClockOffset:
    return offset_of([world.ask(700_000, 200_000), world.ask(300_000, 250_000)])


def test_times_of_a_clock_that_drifts_are_right_within_the_stated_error() -> None:
    world = World(gain=80e-6)  # 80 ppm: a bad oscillator
    before = compared(world)
    world.now_ns += 600_000_000_000
    line = ClockLine(before, compared(world))
    assert line.drift_ppm == pytest.approx(80, abs=0.01)
    true = np.linspace(before.at_ns, line.after.at_ns, 50).astype(np.int64)
    by_host = np.array([round(t + world.offset_ns(t)) for t in true])
    wrong = np.abs(line.all_to_caller(by_host) - true)
    assert wrong.max() <= line.error_ns
    assert np.abs(by_host - before.offset_ns - true).max() > 40_000_000, "without the line: 48 ms"


def test_there_and_back_is_the_same_time() -> None:
    before = ClockOffset(at_ns=10_000, offset_ns=AHEAD_NS, error_ns=5)
    after = ClockOffset(at_ns=10_000 + 10**12, offset_ns=AHEAD_NS + 50_000_000, error_ns=9)
    line = ClockLine(before, after)
    for at_ns in (0, 10_000, 123_456_789_012, 10**12):
        assert abs(line.to_caller(line.to_host(at_ns)) - at_ns) <= 1
    assert line.error_ns == 9


def test_a_clock_that_was_set_forth_and_back_meanwhile_has_a_larger_error() -> None:
    world = World()
    before, between = compared(world), []
    for second in range(10):
        world.now_ns += 1_000_000_000
        steered = World(ahead_ns=AHEAD_NS + (30_000_000 if second in (4, 5) else 0))
        steered.now_ns = world.now_ns
        between.append(steered.ask(1_000_000, 500_000))
    after = compared(world)
    assert ClockLine(before, after, between[:4]).error_ns < 1_000_000
    error_ns = ClockLine(before, after, between).error_ns
    assert 28_000_000 < error_ns < 31_000_000, "30 ms, less what the round trip allows"
