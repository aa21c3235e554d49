"""What samples tell about the KV cache, source by source and engine by engine."""

from __future__ import annotations

from collections.abc import Sequence

from kit.kv.expect import footprint
from kit.kv.seen import Room, Seen, room, seen
from kit.servers.watch import names
from kit.study.spec import Engine, fixed

LOG, METRICS = names.ENGINE_LOG, names.TRITON_METRICS
Row = tuple[int, str, str, float, str]


def table(rows: Sequence[Row]) -> dict[str, list[object]]:
    columns = ("t_ns", "source", "name", "value", "labels")
    return {name: [row[i] for row in rows] for i, name in enumerate(columns)}


def moment(
    t_ns: int, usage: float, running: int, waiting: int, *, source: str = LOG, labels: str = ""
) -> list[Row]:
    return [
        (t_ns, source, names.KV_USAGE, usage, labels),
        (t_ns, source, names.RUNNING, running, labels),
        (t_ns, source, names.WAITING, waiting, labels),
    ]


def test_a_runs_samples_give_one_row_a_source_and_keep_those_that_disagree() -> None:
    rows: list[Row] = [
        (0, LOG, names.KV_USAGE, 0.5, ""),
        (0, LOG, names.WAITING, 0.0, ""),
        (0, METRICS, names.KV_USAGE, 0.25, ""),
        (1, METRICS, names.KV_USAGE, 1.0, ""),
        (0, METRICS, names.PREEMPTIONS, 0.0, ""),
        (1, METRICS, names.PREEMPTIONS, 6.0, ""),
    ]

    assert seen(table(rows)) == [
        Seen(
            source=LOG,
            peak_fraction=0.5,
            mean_fraction=0.5,
            preemptions=None,
            waiting_share=0.0,
        ),
        Seen(
            source=METRICS,
            peak_fraction=1.0,
            mean_fraction=0.625,
            preemptions=6,
            waiting_share=None,
        ),
    ]


def test_engines_have_a_peak_each_and_their_preemptions_add_up() -> None:
    zero, one = '{"engine": "000"}', '{"engine": "001", "model": "m"}'
    rows = [
        *moment(0, 0.9, 4, 0, labels=zero),
        *moment(0, 0.2, 1, 0, labels=one),
        *moment(1, 0.4, 2, 0, labels=one),
        (1, LOG, names.PREEMPTIONS, 3.0, zero),
        (2, LOG, names.PREEMPTIONS, 5.0, zero),
        (2, LOG, names.PREEMPTIONS, 4.0, one),
    ]
    [row] = seen(table(rows))

    assert row.engine_peaks == (("000", 0.9), ("001", 0.4))
    assert row.peak_fraction == 0.9
    assert row.preemptions == 9


def test_labels_that_are_none_are_passed_over() -> None:
    rows: list[Row] = [
        (n, LOG, names.KV_USAGE, 0.5, labels)
        for n, labels in enumerate(["[1]", "{", "[" * 5000, '"engine"', ""])
    ]
    (row,) = seen(table(rows))
    assert (row.mean_fraction, row.engine_peaks) == (0.5, ())


def test_what_the_log_says_of_single_steps_is_a_source_of_its_own() -> None:
    step = '{"engine": "000", "step": "7"}'
    rows = [*moment(0, 0.5, 1, 0), (0, LOG, names.KV_USAGE, 0.75, step)]
    found = {row.source: row.peak_fraction for row in seen(table(rows))}

    assert found == {LOG: 0.5, names.ENGINE_STEPS: 0.75}


def test_a_request_is_held_back_if_a_place_is_free_and_the_cache_has_no_room_for_it() -> None:
    within = Room(most_running=4, prompt_fraction=0.25)
    rows = [
        *moment(0, 0.1, 3, 1),  # it came in the middle of a step
        *moment(1, 0.9, 4, 1),  # the scheduler's own limit
        *moment(2, 0.7, 3, 1),  # there is room: it only waits for the step
        *moment(3, 0.8, 3, 1),  # the cache
    ]
    [row] = seen(table(rows), within)

    assert row.waiting_share == 1.0
    assert row.held_back_share == 0.25
    assert row.limited
    assert not seen(table(rows[:9]), within)[0].limited


def test_without_the_room_it_is_not_known_whether_requests_waited_for_the_cache() -> None:
    [row] = seen(table(moment(0, 1.0, 1, 5)))

    assert row.held_back_share is None
    assert not row.limited


def test_the_room_is_that_for_the_longest_prompt_and_for_no_more_than_there_are_clients() -> None:
    engine = Engine(blocks=32, block_size_tokens=32, max_sequences=8)
    one = footprint(engine, fixed(100), fixed(8))

    assert room(engine, one, 4) == Room(most_running=4, prompt_fraction=4 / 31)
    assert room(engine, one, 99).most_running == 8
