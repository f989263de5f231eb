import pytest
from hypothesis import given
from hypothesis import strategies as st

from studies.common.output import format_table, print_json, si, write_rows


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e9, "1 GB"),
        (999.6e6, "1 GB"),
        (999.4e6, "999 MB"),
        (1.234e-7, "123 nB"),
        (0.0, "0 B"),
        (-2500, "-2.5 kB"),
    ],
)
def test_si_prefixes(value, text):
    assert si(value, "B") == text


@given(st.floats(1e-9, 1e15))
def test_si_keeps_the_value_within_half_a_percent(value):
    factors = {"T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3, "": 1.0, "m": 1e-3, "µ": 1e-6, "n": 1e-9}
    number, prefix = si(value, "").split(" ")
    assert float(number) * factors[prefix] == pytest.approx(value, rel=5e-3)


def test_columns_align():
    text = format_table(["a", "long"], [["x", "1"], ["yyy", "22"]])
    assert text.splitlines() == ["a    long", "x       1", "yyy    22"]


def test_nan_is_never_printed_as_json():
    with pytest.raises(ValueError, match="not JSON compliant"):
        print_json(float("nan"))


def test_rows_become_a_table_with_the_columns_of_all_of_them(tmp_path):
    write_rows(tmp_path / "new" / "a.csv", [{"a": 1, "b": "x, y"}, {"a": 2.5, "c": None}])
    assert (tmp_path / "new" / "a.csv").read_bytes() == b'a,b,c\n1,"x, y",\n2.5,,\n'
