import argparse
import json

import pytest

from hwsim.trace import InputError, Schedule
from studies.commands.options import (
    check_writable,
    non_negative_int,
    parse_overrides,
    parse_schedule,
    positive_int,
)


def test_a_path_is_read_as_a_file(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(Schedule.uniform(5).model_dump(mode="json")))
    assert parse_schedule(str(path)) == Schedule.uniform(5)
    with pytest.raises(InputError, match="no such file"):
        parse_schedule(str(tmp_path / "other.json"))


def test_anything_else_is_read_as_a_label():
    assert parse_schedule("p4:4>3@40") == Schedule.from_pairs(4, [(0, 4), (40, 3)])


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


def test_a_folder_that_cannot_be_written_to_is_refused_and_not_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    check_writable(tmp_path / "new" / "deep")
    assert not (tmp_path / "new").exists()
    with pytest.raises(InputError, match="file is a file; choose another folder"):
        check_writable(tmp_path / "file" / "deep")
    # The superuser may write everywhere, so that what the system says is stood in for.
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(InputError, match=f"no permission to write to {tmp_path}; choose another folder"):
        check_writable(tmp_path / "new" / "deep")
