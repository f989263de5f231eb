from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from accuracy.decoding.kv_cache import make_cache, take_rows

HEADS, HEAD_DIM, LAYERS, CAPACITY = 2, 3, 2, 40


def states(batch: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(batch, HEADS, length, HEAD_DIM), torch.randn(batch, HEADS, length, HEAD_DIM)


@settings(max_examples=50, deadline=None)
@given(batch=st.integers(1, 4), lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4), data=st.data())
def test_it_holds_what_a_growing_cache_holds_through_updates_and_branches(batch, lengths, data):
    cache, growing = make_cache(LAYERS, CAPACITY), DynamicCache()
    for length in lengths:
        for layer in range(LAYERS):
            keys, values = states(batch, length)
            for one, other in zip(cache.update(keys, values, layer), growing.update(keys, values, layer), strict=True):
                assert torch.equal(one, other)
        assert cache.get_seq_length() == growing.get_seq_length()
        rows = data.draw(st.lists(st.integers(0, batch - 1), min_size=1, max_size=4))
        cache, batch = take_rows(cache, rows), len(rows)
        growing.batch_select_indices(torch.tensor(rows))
        for layer in range(LAYERS):
            assert torch.equal(cache.layers[layer].keys, growing.layers[layer].keys)
            assert torch.equal(cache.layers[layer].values, growing.layers[layer].values)


def test_a_branch_and_its_origin_go_on_apart():
    origin = make_cache(1, CAPACITY)
    first, *_ = states(2, 3)
    origin.update(first, first, 0)
    branch = take_rows(origin, [1, 0])
    here, there = states(2, 1)
    origin.update(here, here, 0)
    branch.update(there, there, 0)
    assert torch.equal(origin.layers[0].keys, torch.cat([first, here], 2))
    assert torch.equal(branch.layers[0].values, torch.cat([first.flip(0), there], 2))


def test_steps_write_in_place_and_never_move_the_cache():
    cache = make_cache(1, CAPACITY)
    cache.update(*states(2, 3), 0)
    address = cache.layers[0].keys.data_ptr()
    for _ in range(CAPACITY - 3):
        keys, _ = cache.update(*states(2, 1), 0)
        assert keys.data_ptr() == address
    assert cache.get_seq_length() == CAPACITY
