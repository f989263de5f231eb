from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import studies.large_model
from hwsim.trace import InputError, read_json
from studies.large_model.model import RandomLlama
from studies.large_model.plot import write_figure
from studies.large_model.report import print_table
from studies.large_model.run import Settings, run_large_model

SMALL = RandomLlama(256, 688, 10, 4, 4, 300)


def test_kept_run_is_printed_and_drawn(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    kept = Path(studies.large_model.__file__).parent / "results"
    shutil.copytree(kept, tmp_path / "results")
    rows = [
        row for file in ("nested", "nested-fisher", "gptq") for row in read_json(kept / f"{file}.json")["processes"]
    ]
    print_table(rows)
    assert [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()[1:]] == [row["case"] for row in rows]
    (tmp_path / "results" / "memory.png").unlink()
    write_figure(tmp_path / "results")
    assert (tmp_path / "results" / "memory.png").stat().st_size > 10_000


def measured(folder: Path) -> dict[str, int]:
    """When each measurement was written."""
    files = set(folder.glob("*.json")) - {folder / "manifest.json"}
    return {file.name: file.stat().st_mtime_ns for file in files}


@pytest.mark.slow
def test_small_model_is_quantised_in_every_case_one_of_them_killed(tmp_path: Path) -> None:
    rows = run_large_model(Settings(tmp_path, SMALL, texts=2, max_tokens=32, progress=False))
    assert [(row["case"], row["process"]) for row in rows] == [
        ("nested", "whole"),
        ("nested, Fisher", "killed"),
        ("nested, Fisher", "resumed"),
        ("GPTQ", "whole"),
    ]
    assert rows[1]["blocks"] >= 5
    assert rows[1]["blocks"] + rows[2]["blocks"] == 10
    assert all(row["peak_rss_bytes"] >= row["peak_anonymous_bytes"] > 0 for row in rows)
    assert rows[0]["relative_error"]["2"] < rows[2]["relative_error"]["2"], "Fisher weights trade plain error away"
    assert (tmp_path / "memory.png").exists()
    assert not (tmp_path / "work").exists()
    manifest = (tmp_path / "manifest.json").read_text()
    written = measured(tmp_path)
    assert run_large_model(Settings(tmp_path, SMALL, texts=2, max_tokens=32, progress=False)) == rows
    assert measured(tmp_path) == written, "what was measured is not measured again"
    assert (tmp_path / "manifest.json").read_text() == manifest
    assert read_json(tmp_path / "gptq.json")["asked"]["texts"] == 2
    with pytest.raises(InputError, match="was measured with other settings"):
        run_large_model(Settings(tmp_path, SMALL, texts=3, max_tokens=32, progress=False))
