import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hwsim.trace import InputError, Schedule, read_schedule, write_schedule

widths = st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 16])
schedules = st.builds(
    Schedule.from_pairs,
    widths,
    st.lists(st.tuples(st.integers(1, 300), widths), max_size=5).flatmap(
        lambda rest: widths.map(lambda first: [(0, first), *rest])
    ),
)


@given(schedules, st.integers(0, 400))
def test_runs_expand_and_bits_at_agree(schedule, steps):
    expanded = schedule.expand(steps)
    assert len(expanded) == steps == sum(count for _, count in schedule.runs(steps))
    assert expanded == [schedule.bits_at(step) for step in range(steps)]
    assert all(count > 0 for _, count in schedule.runs(steps))


@given(schedules)
def test_from_pairs_merges_so_that_neighbouring_segments_differ(schedule):
    bits = [segment.weight_bits for segment in schedule.decode]
    assert all(before != after for before, after in itertools.pairwise(bits))


@given(schedules, schedules)
def test_hash_is_equal_exactly_for_equal_schedules(a, b):
    assert (a.sha256() == b.sha256()) == (a == b)
    assert Schedule.model_validate_json(a.model_dump_json()).sha256() == a.sha256()


def test_mean_bits_of_a_four_to_three_switch_in_the_middle_is_three_and_a_half():
    assert Schedule.from_pairs(4, [(0, 4), (10, 3)]).mean_bits(20) == 3.5


def test_mean_bits_ignore_segments_the_response_never_reaches():
    assert Schedule.from_pairs(4, [(0, 4), (10, 3)]).mean_bits(10) == 4.0


def test_mean_bits_of_no_step_are_refused():
    with pytest.raises(InputError, match="steps = 0"):
        Schedule.uniform(4).mean_bits(0)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {"prefill_weight_bits": 9, "decode": [{"start_step": 0, "weight_bits": 4}]},
            "prefill_weight_bits = 9.*1..8",
        ),
        ({"prefill_weight_bits": 4, "decode": [{"start_step": 0, "weight_bits": 0}]}, "weight_bits = 0.*1..8"),
        ({"prefill_weight_bits": 4, "decode": [{"start_step": 2, "weight_bits": 4}]}, "must start at step 0"),
        ({"prefill_weight_bits": 4, "decode": []}, "decode"),
        (
            {
                "prefill_weight_bits": 4,
                "decode": [{"start_step": 0, "weight_bits": 4}, {"start_step": 0, "weight_bits": 3}],
            },
            "starts must increase",
        ),
        ({"prefill_bit": 4, "decode": [{"start_step": 0, "weight_bits": 4}]}, "prefill_"),
        (
            {
                "schema_version": "2.0",
                "prefill_weight_bits": 4,
                "decode": [{"start_step": 0, "weight_bits": 4}],
            },
            "schema_version = '2.0'.*1.0",
        ),
    ],
)
def test_a_broken_schedule_file_is_refused_in_one_line_that_names_file_and_field(tmp_path, record, message):
    path = tmp_path / "schedule.json"
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match=message) as caught:
        read_schedule(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_schedule_file_reads_back_equal(tmp_path):
    schedule = Schedule.from_pairs(16, [(0, 4), (7, 3), (9, 2)])
    write_schedule(tmp_path / "s.json", schedule)
    assert read_schedule(tmp_path / "s.json") == schedule


def test_a_missing_or_foreign_schedule_file_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_schedule(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{\n oops")
    with pytest.raises(InputError, match="bad.json:2: not JSON"):
        read_schedule(tmp_path / "bad.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        read_schedule(tmp_path / "binary.json")


def test_a_schedule_cannot_be_changed():
    with pytest.raises(ValidationError):
        Schedule.uniform(4).prefill_weight_bits = 3


@given(schedules)
def test_a_label_reads_back_as_the_schedule_it_names(schedule):
    assert Schedule.from_label(schedule.label()) == schedule


def test_a_bare_width_is_a_uniform_schedule():
    assert Schedule.from_label("3") == Schedule.uniform(3)


@pytest.mark.parametrize("text", ["", "p4", "p4:", "four", "p4:4>3", "p4:4>3@x", "p4:4@3", "p:3", "p4:4>3@-1"])
def test_text_that_is_no_label_is_refused_with_the_form(text):
    with pytest.raises(InputError, match="p4:4>3@40"):
        Schedule.from_label(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("p4:9", r"weight_bits = 9.*1\.\.8"),
        ("p4:4>3@9>2@5", "starts must increase"),
        ("p0:4", "prefill_weight_bits = 0"),
    ],
)
def test_a_label_out_of_bounds_names_the_bound(text, message):
    with pytest.raises(InputError, match=message):
        Schedule.from_label(text)
