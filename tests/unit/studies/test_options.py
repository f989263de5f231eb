import argparse
import json

import pytest

from hwsim.trace import InputError, Schedule
from studies.commands.options import non_negative_int, parse_overrides, parse_schedule, positive_int


@pytest.mark.parametrize(
    "schedule",
    [Schedule.uniform(4), Schedule.uniform(3, 8), Schedule.from_pairs(16, [(0, 4), (40, 3), (60, 2)])],
)
def test_a_label_reads_back_as_the_schedule_it_names(schedule):
    assert parse_schedule(schedule.label()) == schedule


def test_a_bare_width_is_a_uniform_schedule():
    assert parse_schedule("3") == Schedule.uniform(3)


def test_a_path_is_read_as_a_file(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(Schedule.uniform(5).model_dump(mode="json")))
    assert parse_schedule(str(path)) == Schedule.uniform(5)
    with pytest.raises(InputError, match="no such file"):
        parse_schedule(str(tmp_path / "other.json"))


@pytest.mark.parametrize("text", ["", "p4", "p4:", "four", "p4:4>3", "p4:4>3@x", "p4:4@3", "p:3"])
def test_text_that_is_no_schedule_is_refused_with_the_form(text):
    with pytest.raises(InputError, match="p4:4>3@40"):
        parse_schedule(text)


def test_an_illegal_width_in_a_label_names_the_bound():
    with pytest.raises(InputError, match=r"p4:9.*1\.\.8"):
        parse_schedule("p4:9")


def test_overrides_are_yaml_values():
    got = parse_overrides(["a.b=16e9", "c=[2, 16]", "d=word", "e=4", "f=true"])
    assert got == {"a.b": 16e9, "c": [2, 16], "d": "word", "e": 4, "f": True}


@pytest.mark.parametrize(
    ("pairs", "message"),
    [(["a.b"], "PATH=VALUE"), (["=3"], "PATH=VALUE"), (["a=1", "a=2"], "given twice"), (["a=[1"], "not YAML")],
)
def test_a_malformed_override_is_refused(pairs, message):
    with pytest.raises(InputError, match=message):
        parse_overrides(pairs)


def test_integer_arguments_name_their_bound():
    assert (positive_int("3"), non_negative_int("0")) == (3, 0)
    for convert, text in ((positive_int, "0"), (non_negative_int, "-1"), (positive_int, "x")):
        with pytest.raises(argparse.ArgumentTypeError, match=text):
            convert(text)
