import json

import pandas as pd
import pytest

from hwsim.trace import InputError
from studies.pmpd.report import claim_counts
from studies.pmpd.run import Settings, run_pmpd


def test_an_unknown_model_or_result_is_refused_with_the_nearest_name(tmp_path):
    with pytest.raises(InputError, match="selvic"):
        run_pmpd(Settings(tmp_path, models=("selvik",), progress=False))
    with pytest.raises(InputError, match="fig3"):
        run_pmpd(Settings(tmp_path, experiments=("fig8",), progress=False))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_quick_run_measures_everything_and_a_second_one_takes_it_as_it_is(tmp_path):
    settings = Settings(tmp_path, quick=True, progress=False)
    run_pmpd(settings)
    scores, comparisons = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("scores", "comparisons"))
    assert set(scores["experiment"]) == {"table4", "fig3", "table1", "fig7", "table9"} == set(comparisons["experiment"])
    assert (scores["n"] == 6).all()
    assert (scores["ci_low"] <= scores["value"]).all()
    assert (scores["value"] <= scores["ci_high"]).all()
    patterns = comparisons[comparisons["claim"].str.startswith("high bits first")]
    assert patterns["equal_bits"].all()
    dense = comparisons[comparisons["claim"].str.contains("dense-and-sparse at equal bits")]
    assert dense["equal_bits"].all()
    high = scores[(scores["experiment"] == "table1") & (scores["method"] == "baseline-h")]
    assert (high["minus_high_value"] == 0).all()
    assert sum(len(rows) for _, rows in claim_counts(tmp_path)) > 20
    for name in ("phases", "patterns", "schedulers", "inputs", "gptq"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["models"]["selvic"]["settings"]["report"].endswith("test, 6 prompts")
    kept = {path.name: path.read_bytes() for path in tmp_path.glob("*.csv")}
    began = (tmp_path / "models" / "selvic.json").stat().st_mtime_ns
    run_pmpd(settings)
    assert (tmp_path / "models" / "selvic.json").stat().st_mtime_ns == began
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.csv")} == kept
