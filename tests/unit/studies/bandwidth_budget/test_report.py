"""What the terminal says of a budget holds its error."""

import pandas as pd

from dse.validation import judged_by
from studies.bandwidth_budget.report import print_tables


def test_the_budget_is_printed_with_the_error_of_the_simulator(capsys):
    row = {"model": "m", "prompt_tokens": 8, "schedule": "p3:3", "mean_decode_bits": 3.0, "target_tokens_per_s": 15.0}
    budget = pd.DataFrame([{**row, "bandwidth_bytes_per_s": 46.6e9, "limited_by": None}])
    print_tables({"budget": budget, "bit_value": budget.iloc[:0]})
    printed = capsys.readouterr().out
    assert "46.6" in printed
    assert f"decoding speed was off by {judged_by('realistic', 'decode_tokens_per_s')}" in printed
