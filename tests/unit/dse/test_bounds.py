"""Bounds of many designs are those of each, no simulation beats them, and many designs at once give what one gives."""

from __future__ import annotations

import numpy as np
import pytest

from dse.bounds import EXACT_METRICS, Roofline
from dse.candidates import Candidates
from dse.objective import METRICS
from dse.simulator import Simulator
from dse.space import Space
from dse.study import parse_study
from hwsim import load_shape
from hwsim.trace import InputError, Schedule, synthetic_trace, write_trace


@pytest.fixture
def study(tmp_path):
    (tmp_path / "config.json").write_text(
        '{"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 96, "intermediate_size": 250, '
        '"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 700, "max_position_embeddings": 128}'
    )
    model = str(tmp_path / "config.json")
    made = synthetic_trace(load_shape(model), Schedule.uniform(4), prompt_tokens=9, decode_tokens=5, sequences=2)
    long = made.sequences[1].model_copy(
        update={"prompt_tokens": 31, "generated_tokens": 9, "decode_weight_bits": ((4, 8),)}
    )
    write_trace(tmp_path / "trace.jsonl", made.header, [made.sequences[0], long])

    def study(**changes):
        fields = {
            "workloads": [
                {"model": model, "prompt_tokens": 30, "decode_tokens": 12, "weight": 2.3},
                {"trace": str(tmp_path / "trace.jsonl"), "weight": 0.7},
            ],
            "npu": "pmpd-4k",
            "engine": "fast",
            "schedules": ["p4:4", "p4:4>3@5", "p2:4>2@7", "p16:16"],
            "parameters": {
                "memory.bandwidth_bytes_per_s": {"type": "categorical", "choices": [1e6, 4e9, 33.3e9, 5e11]},
                "matrix.macs": {"type": "categorical", "choices": [64, 1024, 4096]},
                "buffers.weight_kib": {"type": "categorical", "choices": [0.05, 2, 64, 1e6]},
                "matrix.weight_widths": {"type": "categorical", "choices": [[2, 3, 4, 16], [3, 4]]},
                "cost.node": {"type": "categorical", "choices": ["14nm", "7nm"]},
                "clock_hz": {"type": "categorical", "choices": [1e9, 2.25e8]},
            },
            "objectives": [{"name": "decode_tokens_per_s", "direction": "maximize"}],
        }
        return parse_study(fields | changes, "s")

    return study


def drawn(study, count):
    space = Space(study.parameters, list(study.schedules))
    rng = np.random.default_rng(7)
    return space, [space.random(rng) for _ in range(count)]


@pytest.mark.parametrize(("mode", "aggregate"), [("realistic", "weighted"), ("pmpd-analytic", "worst")])
def test_many_designs_at_once_give_the_numbers_and_errors_of_each(study, mode, aggregate):
    config = study(mode=mode, aggregate=aggregate)
    simulator = Simulator(config)
    _, designs = drawn(config, 24)
    errors = 0
    for design, many in zip(designs, simulator.many(designs), strict=True):
        try:
            assert simulator(design) == many
        except InputError as error:
            assert str(many) == str(error)
            errors += 1
    assert 0 < errors < len(designs)


def test_bounds_of_many_designs_are_those_of_each_and_hold(study):
    config = study()
    simulator = Simulator(config)
    space, designs = drawn(config, 36)
    roofline = Roofline(simulator)
    bounds = roofline.many(Candidates.of(space, designs))
    for row, (design, actual) in enumerate(zip(designs, simulator.many(designs), strict=True)):
        try:
            alone = roofline(design)
        except InputError:
            assert all(np.isnan(values[row]) for values in bounds.values())
            continue
        assert alone == {name: values[row] for name, values in bounds.items()}
        for name, value in actual.items() if isinstance(actual, dict) else ():
            if name in EXACT_METRICS:
                assert value == alone[name]
            elif METRICS[name].better == "maximize":
                assert value <= alone[name]
            else:
                assert value >= alone[name]


def test_a_batch_is_bounded_by_its_own_steps_and_run_one_by_one(study, tmp_path):
    shape = load_shape(str(tmp_path / "config.json"))
    made = synthetic_trace(shape, Schedule.uniform(4), prompt_tokens=9, decode_tokens=5, sequences=3)
    batch = [one.model_copy(update={"batch_id": 0}) for one in made.sequences]
    write_trace(tmp_path / "batch.jsonl", made.header.model_copy(update={"execution": "batched"}), batch)
    config = study(workloads=[{"trace": str(tmp_path / "batch.jsonl")}])
    simulator = Simulator(config)
    designs = [design for design in drawn(config, 60)[1] if design.schedule == Schedule.uniform(4)]
    found = [(one, many) for one, many in zip(designs, simulator.many(designs), strict=True) if isinstance(many, dict)]
    assert found
    for design, many in found:
        bound = Roofline(simulator)(design)
        assert many == simulator(design)
        assert many["decode_tokens_per_s"] <= bound["decode_tokens_per_s"]
        assert many["energy_j_per_token"] >= bound["energy_j_per_token"]
