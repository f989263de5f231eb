"""The event engine against timelines worked out by hand."""

from __future__ import annotations

import pytest

from hwsim.events import EventEngine, State, run_stages
from hwsim.program import Kind, Pool, Program, Stage, StageRun, Timing, Work


def _tiles(tiles, load, matrix, sfu=None, *, joins=True, latencies=(0, 0, 0), pool=Pool.WEIGHT):
    return Timing(Kind.TILES, pool, joins, tiles, load, matrix, sfu, load, matrix, sfu, *latencies)


def _finish(*timings, state=None):
    return run_stages(timings, state or State()).state


def test_one_tile_is_load_then_latency_then_product_then_pipeline_then_function():
    state = _finish(_tiles(1, 10, 7, 3, latencies=(4, 2, 5)))
    assert (state.memory, state.matrix, state.sfu, state.output) == (10, 21, 26, 31)
    assert (state.weight_old, state.weight_new) == (0, 21)


@pytest.mark.parametrize("tiles", [1, 2, 3, 10])
def test_a_stream_that_loads_longer_than_it_computes_ends_one_product_after_its_last_load(tiles):
    state = _finish(_tiles(tiles, 10, 4))
    assert (state.memory, state.matrix) == (10 * tiles, 10 * tiles + 4)


@pytest.mark.parametrize("tiles", [1, 2, 3, 10])
def test_a_stream_that_computes_longer_than_it_loads_ends_after_one_load_and_all_products(tiles):
    assert _finish(_tiles(tiles, 4, 10)).matrix == 4 + 10 * tiles


def test_two_slots_let_the_memory_run_two_tiles_ahead_and_no_further():
    # Product t ends at 1 + 10 t; load 3 may start when product 1 has freed its slot, at 11, and so on.
    state = _finish(_tiles(4, 1, 10))
    assert state.memory == 21 + 1
    assert (state.weight_old, state.weight_new) == (31, 41)


def test_latency_longer_than_a_tile_is_hidden_by_two_slots_only_partly():
    # A slot turns around in load 2 + latency 20 + product 3 = 25 cycles. The first slot's three tiles end at 25,
    # 50 and 75; the second slot's last one one product later.
    assert _finish(_tiles(6, 2, 3, latencies=(20, 0, 0))).matrix == 78


def test_the_next_stages_loads_run_ahead_but_its_products_wait_for_their_input():
    first, second = _tiles(1, 5, 100), _tiles(1, 5, 1)
    state = _finish(first, second)
    assert (state.memory, state.matrix) == (10, 106)


def test_siblings_share_their_input_and_do_not_wait_for_each_others_function():
    joined = _finish(_tiles(1, 1, 1, 50), _tiles(1, 1, 1, 50))
    shared = _finish(_tiles(1, 1, 1, 50), _tiles(1, 1, 1, 50, joins=False))
    assert joined.output == 2 + 50 + 1 + 50
    assert shared.output == 2 + 50 + 50


def test_both_pools_have_slots_of_their_own():
    state = _finish(_tiles(2, 1, 100), _tiles(2, 1, 1, pool=Pool.KV))
    assert state.memory == 4


def test_a_store_waits_for_its_mark_and_holds_up_the_loads_behind_it():
    mark, store = Timing(Kind.MARK), Timing(Kind.STORE, load=6)
    state = _finish(_tiles(1, 5, 20), mark, store, _tiles(1, 3, 1))
    assert state.mark == 25
    assert state.memory == 25 + 6 + 3


def test_a_load_without_slots_waits_for_the_stage_before_and_feeds_the_next():
    load = Timing(Kind.LOAD, load=5, load_latency=2)
    state = _finish(_tiles(1, 5, 20), load, Timing(Kind.TILES, sfu=4, last_sfu=4))
    assert state.memory == 30
    assert state.output == 36


def test_a_sync_waits_for_every_output_and_delays_the_next_stage_only():
    state = _finish(_tiles(1, 5, 20), Timing(Kind.SYNC, load=9), _tiles(1, 5, 1))
    assert (state.memory, state.matrix) == (10, 35)


def test_running_stages_together_or_one_after_another_is_the_same():
    stages = [_tiles(3, 7, 5, 2, latencies=(3, 1, 1)), _tiles(2, 1, 9, joins=False), Timing(Kind.SYNC, load=2)]
    stages += [Timing(Kind.MARK), Timing(Kind.STORE, load=4), _tiles(5, 2, 2, 8, pool=Pool.KV)]
    state = State()
    for stage in stages:
        state = _finish(stage, state=state)
    assert state == _finish(*stages)


def _program(*timings, layers):
    block = tuple(Stage("s", "MV", timing, Work()) for timing in timings)
    return Program((), (StageRun(block, layers),), ())


def test_the_memo_gives_the_same_cycles_and_says_what_it_saved():
    program = _program(_tiles(3, 7, 5, 2), _tiles(2, 1, 9), layers=50)
    exact, memo = EventEngine(exact=True), EventEngine()
    assert memo.steps(program, 1).cycles == exact.steps(program, 1).cycles
    assert exact.memoised == 0
    assert 0 < memo.simulated < memo.memoised
