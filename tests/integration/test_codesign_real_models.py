"""The main job on real trained models beside the checkout (about 2 minutes each)."""

import json
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.full, pytest.mark.timeout(1800)]

PARAGRAPHS = "models/fren-paragraphs-4M/heldout_paragraphs.json"
RUNS = {
    "stories260K": "--task self-completion --max-new-tokens 128 --val-prompts 96 --test-prompts 200",
    "m30k-fren-2M": "--task parallel-text --data {data}/text/multi30k --template <s>{{prompt}}<sep> "
    "--val-prompts 200 --test-prompts 500",
    "fren-paragraphs-4M": "--data {data}/" + PARAGRAPHS + " --prompt-field source --template <s>{{prompt}}<sep> "
    "--max-new-tokens 160 --val-prompts 128 --test-prompts 240",
}


@pytest.mark.parametrize("model", sorted(RUNS))
def test_a_real_model_goes_the_whole_path(shared_data, tmp_path, model):
    options = RUNS[model].format(data=shared_data).split()
    argv = ["study", "codesign", "--model", str(shared_data / "models" / model), "--budget", "200", "--quiet"]
    command = [sys.executable, "-m", "studies.cli", *argv, "--out", str(tmp_path), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    numbers = json.loads((tmp_path / "codesign.json").read_text())
    value = {row["schedule"]: row["value"] for row in numbers["quality"]["val"] if row["metric"] == numbers["metric"]}
    assert value["p8:8"] > 0.95 * value["p16:16"]
    assert value["p2:2"] < value["p4:4"]
    for design in numbers["chosen"]:
        assert design["cycles"]["events"] == design["cycles"]["fast"]
