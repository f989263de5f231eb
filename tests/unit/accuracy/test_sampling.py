from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from accuracy.decoding import Decoder, Prompt, Sampling
from accuracy.decoding.sampling import gumbel_noise, split_mix
from accuracy.schedulers import StaticScheduler, UniformScheduler
from hwsim.trace import InputError, Schedule

from .conftest import FakeSwitch

LOGITS = torch.tensor([[2.0, 1.0, 0.5, 0.5, -1.0, -3.0]])
DRAWS = 20_000


def draw(sampling: Sampling, logits: torch.Tensor, draws: int = DRAWS) -> torch.Tensor:
    """Token 0 of as many prompts as ``draws`` asks for, all of the same logits."""
    return sampling.choose(logits.expand(draws, -1), [f"p{i}" for i in range(draws)], 0)


def chi_square(counts: torch.Tensor, probabilities: torch.Tensor) -> float:
    expected = probabilities * counts.sum()
    kept = expected > 0
    assert not counts[~kept].any()
    return float(((counts - expected)[kept] ** 2 / expected[kept]).sum())


def test_the_generator_is_split_mix_64():
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    (found,) = split_mix(torch.tensor([1234567]), 4).tolist()
    assert [value % 2**64 for value in found] == expected


def test_the_noise_is_standard_gumbel():
    noise = gumbel_noise(torch.arange(200) * 7919, 1000)
    assert float(noise.mean()) == pytest.approx(0.5772156649, abs=0.01)
    assert float(noise.var()) == pytest.approx(torch.pi**2 / 6, abs=0.03)
    for bound in (-1.0, 0.0, 1.0, 3.0):
        share = float((noise <= bound).double().mean())
        assert share == pytest.approx(float(torch.exp(-torch.exp(torch.tensor(-bound)))), abs=0.005)


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), LOGITS[0].softmax(-1)),
        (Sampling(temperature=0.5), (2 * LOGITS[0]).softmax(-1)),
        (Sampling(temperature=3.0, seed=9), (LOGITS[0] / 3).softmax(-1)),
        (Sampling(top_k=2), torch.tensor([2.0, 1.0, *[-torch.inf] * 4]).softmax(-1)),
        (Sampling(top_p=0.7), torch.tensor([2.0, 1.0, *[-torch.inf] * 4]).softmax(-1)),
    ],
)
def test_tokens_are_drawn_from_the_distribution_asked_for(sampling, expected):
    counts = draw(sampling, LOGITS).bincount(minlength=6).double()
    # 99.9% point of chi-square with 5 degrees of freedom; the draws are the same in every run.
    assert chi_square(counts, expected.double()) < 20.5


def test_successive_tokens_of_a_prompt_are_independent():
    drawn = torch.cat(
        [Sampling(seed=3).choose(torch.zeros(500, 2), [f"p{i}" for i in range(500)], t) for t in range(9)]
    )
    pairs = drawn.view(9, 500)
    counts = (2 * pairs[:-1] + pairs[1:]).flatten().bincount(minlength=4).double()
    assert chi_square(counts, torch.full((4,), 0.25, dtype=torch.float64)) < 16.3


@pytest.mark.parametrize(
    ("sampling", "survivors"),
    [
        (Sampling(top_k=1), [0]),
        (Sampling(top_k=3), [0, 1, 2]),  # ids 2 and 3 are tied: the lowest stays
        (Sampling(top_k=99), [0, 1, 2, 3, 4, 5]),
        (Sampling(top_p=0.5), [0]),  # p = .574 .211 .128 .128
        (Sampling(top_p=0.6), [0, 1]),
        (Sampling(top_p=1e-9), [0]),
        (Sampling(top_p=1.0), [0, 1, 2, 3, 4, 5]),
        (Sampling(top_k=2, top_p=0.74), [0, 1]),  # of the two, token 0 has .731
        (Sampling(top_k=2, top_p=0.73), [0]),
        (Sampling(temperature=10.0, top_p=0.5), [0, 1, 2]),
    ],
)
def test_top_k_and_top_p_keep_the_tokens_worked_out_by_hand(sampling, survivors):
    kept = sampling.filter(LOGITS)[0]
    assert kept.isfinite().nonzero()[:, 0].tolist() == survivors
    assert torch.equal(kept[survivors], LOGITS[0, survivors].double() / sampling.temperature)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    vocab=st.integers(1, 50),
    temperature=st.floats(0.1, 10),
    top_k=st.none() | st.integers(1, 60),
    top_p=st.none() | st.floats(0.01, 1),
)
def test_the_surviving_tokens_are_those_of_transformers(seed, vocab, temperature, top_k, top_p):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, vocab, generator=generator, dtype=torch.float64) * 3
    expected = TemperatureLogitsWarper(temperature)(None, logits)
    if top_k is not None:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p is not None:
        expected = TopPLogitsWarper(top_p)(None, expected)
    torch.testing.assert_close(Sampling(temperature, top_k, top_p).filter(logits), expected)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 3))
def test_two_distributions_seldom_part_under_common_random_numbers(seed, scale):
    generator = torch.Generator().manual_seed(seed)
    one = torch.randn(1, 40, generator=generator)
    other = one + scale * torch.randn(1, 40, generator=generator)
    distance = 0.5 * float((one.softmax(-1) - other.softmax(-1)).abs().sum())
    bound = 2 * distance / (1 + distance)
    draws = 2000
    parted = float((draw(Sampling(seed=seed), one, draws) != draw(Sampling(seed=seed), other, draws)).double().mean())
    assert parted <= bound + 4 * (bound / draws) ** 0.5 + 1e-3


@settings(max_examples=30, deadline=None)
@given(order=st.permutations(range(6)), index=st.integers(0, 300), seed=st.integers(0, 5))
def test_a_draw_depends_on_its_own_row_only(order, index, seed):
    logits = torch.randn(6, 30, generator=torch.Generator().manual_seed(1))
    sampling = Sampling(0.8, top_k=20, top_p=0.95, seed=seed)
    together = sampling.choose(logits[list(order)], [f"p{i}" for i in order], index)
    alone = [int(sampling.choose(logits[i : i + 1], [f"p{i}"], index)) for i in order]
    assert together.tolist() == alone


def test_prompts_indices_and_seeds_have_their_own_random_numbers():
    logits = torch.zeros(1, 10_000)
    drawn = [
        int(Sampling(seed=seed).choose(logits, [prompt], index))
        for seed in (0, 1)
        for prompt in ("a", "b", "0/a")
        for index in (0, 1, 10)
    ]
    assert len(set(drawn)) == len(drawn)


def test_low_temperatures_approach_greedy_decoding(tiny):
    asked = [Prompt("a", (3, 4, 5), 20), Prompt("b", (9,), 20)]
    decoder = Decoder(tiny, FakeSwitch(tiny.model))
    greedy = decoder.decode(asked, UniformScheduler(3))
    sampled = decoder.decode(asked, UniformScheduler(3), sampling=Sampling(temperature=1e-6))
    top_1 = decoder.decode(asked, UniformScheduler(3), sampling=Sampling(temperature=5.0, top_k=1))
    tokens = [response.tokens for response in greedy]
    assert [response.tokens for response in sampled] == tokens
    assert [response.tokens for response in top_1] == tokens


GRID = [
    StaticScheduler(Schedule.from_pairs(prefill, pairs))
    for prefill, pairs in (
        (4, [(0, 3)]),
        (4, [(0, 4), (5, 3)]),
        (4, [(0, 4), (9, 2)]),
        (4, [(0, 4)]),
        (3, [(0, 3), (7, 2)]),
    )
]


@pytest.mark.slow
def test_a_sampled_response_is_the_same_alone_in_a_batch_and_in_a_tree(tiny):
    generator = torch.Generator().manual_seed(2)
    asked = [Prompt(f"p{n}", tuple(torch.randint(3, 61, (n,), generator=generator).tolist()), 24) for n in range(1, 9)]
    decoder, sampling = Decoder(tiny, FakeSwitch(tiny.model)), Sampling(1.2, top_k=30, top_p=0.9, seed=5)
    tree = decoder.decode_grid(asked, GRID, batch_size=8, sampling=sampling)
    assert tree.steps_run < tree.steps
    for scheduler, responses in zip(GRID, tree.responses, strict=True):
        assert responses == decoder.decode(asked, scheduler, 8, sampling=sampling)
        assert untimed(responses) == untimed(decoder.decode(asked[::-1], scheduler, 1, sampling=sampling)[::-1])
    distinct = {response.tokens for responses in tree.responses for response in responses}
    assert len(distinct) > len(asked)


def test_schedules_share_every_token_up_to_where_they_part(tiny):
    asked = [Prompt("a", (3, 4, 5), 24, min_new_tokens=24)]
    grid = Decoder(tiny, FakeSwitch(tiny.model)).decode_grid(asked, GRID[1:4], sampling=Sampling(seed=1))
    for (one, other), agreed in zip(pairwise(row[0] for row in grid.responses), (6, 10), strict=True):
        assert one.tokens[:agreed] == other.tokens[:agreed]


def test_another_seed_gives_another_response(tiny):
    decoder = Decoder(tiny, FakeSwitch(tiny.model))
    asked = [Prompt("a", (3, 4, 5), 20, min_new_tokens=20)]
    found = {decoder.decode(asked, GRID[0], sampling=Sampling(seed=seed))[0].tokens for seed in range(5)}
    assert len(found) == 5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": 0.0}, "temperature = 0.0: must be > 0; leave sampling out for greedy decoding"),
        ({"temperature": -1.0}, "temperature = -1.0: must be > 0"),
        ({"temperature": float("nan")}, "temperature = nan: must be > 0"),
        ({"temperature": float("inf")}, "temperature = inf: must be > 0"),
        ({"top_k": 0}, "top_k = 0: must be >= 1"),
        ({"top_p": 0.0}, "top_p = 0.0: must be > 0 and <= 1"),
        ({"top_p": 1.01}, "top_p = 1.01: must be > 0 and <= 1"),
        ({"top_p": float("nan")}, "top_p = nan: must be > 0 and <= 1"),
        ({"seed": -1}, "seed = -1: must be >= 0"),
    ],
)
def test_settings_out_of_bounds_are_refused_by_name(values, message):
    with pytest.raises(InputError) as caught:
        Sampling(**values)
    assert message in str(caught.value)


def untimed(responses):
    return [dataclasses.replace(response, prefill_ns=None, step_ns=None) for response in responses]
