"""The pages that are made from the code say what the code says."""

import argparse
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel, Field

from docs.generators import commands, readmes, records, studies
from docs.generators.notices import CONSTRAINTS, MARK, NOTICES, licence, pinned
from docs.generators.references import exists
from documents import REPOSITORY
from hwsim.config import NpuConfig
from studies.commands.study import STUDIES


class Inner(BaseModel):
    size_kib: float = Field(gt=0, le=8, description="How much.")


class Outer(BaseModel):
    """A record.

    Attributes:
        name: Not repeated.
    """

    name: str = Field(min_length=1)
    inner: Inner | None = Field(None, description="See ``size_kib``.")
    rates: tuple[int, ...] = ()


def test_a_field_has_type_unit_default_bounds_and_meaning():
    page = records.record_page("p", "Title", [Outer])
    assert "| `name` | text |  | **required** | not empty |  |" in page
    assert "| `inner` | [Inner](#fields-p-inner) or null |  | `null` |  | See `size_kib`. |" in page
    assert "| `rates` | list of whole number |  | empty |  |  |" in page
    assert "| `size_kib` | number | KiB | **required** | > 0, <= 8 | How much. |" in page
    assert "Not repeated" not in page


@pytest.mark.parametrize("page", records.REFERENCES)
def test_every_field_of_every_file_is_described(page):
    title, models = records.REFERENCES[page]
    for line in records.record_page(page, title, models).splitlines():
        if line.startswith("| `"):
            assert line.rstrip(" |").count(" | ") == 5, line


def test_the_npu_reference_has_every_field_of_a_file_and_the_bounds_of_its_validators():
    page = records.pages()["fields/npu.md"]
    config = yaml.safe_load((REPOSITORY / "hwsim/npus/pmpd-4k.yaml").read_text())

    def fields(value):
        for name, inner in value.items():
            if name in {"functions", "lookups_per_cycle"}:
                continue
            yield name
            yield from fields(inner) if isinstance(inner, dict) else ()

    assert all(f"| `{name}` |" in page for name in fields(config))
    assert ">= 1e+06" in page or ">= 1,000,000" in page
    with pytest.raises(ValueError, match="clock_hz"):
        NpuConfig.model_validate({**config, "clock_hz": 999_999})


def test_a_command_page_lists_arguments_with_choices_and_defaults():
    parser = argparse.ArgumentParser(prog="tool", description="does *it*")
    parser.add_argument("--mode", choices=["a", "b"], default="a", help="how (default %(default)s)")
    parser.add_argument("--out", required=True, metavar="FILE", help="where")
    below = parser.add_subparsers().add_parser("part", description="one part", epilog="examples:\n  tool part")
    below.add_argument("--quiet", action="store_true", help="say nothing")
    page = "\n".join(commands.sections(parser, 1))
    assert "does \\*it\\*" in page
    assert "| `--mode` | `a`, `b` | `a` | how (default a) |" in page
    assert "| `--out` | `FILE` | **required** | where |" in page
    assert "## tool part" in page and "| `--quiet` |  |  | say nothing |" in page and "tool part\n```" in page


def test_links_of_a_readme_lead_to_pages_pictures_and_files(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "README.md").write_text("x")
    known = {Path("a/README.md"): "files/a/README.md", Path("b/README.md"): "files/b/README.md"}
    text = "[b](../b/README.md#top) ![p](p.png) `[not](this.md)` [out](https://x.org) [dir](../b) [here](#h)"
    found = readmes.relinked(text, tmp_path, Path("a/README.md"), tmp_path / "docs" / "_generated", known)
    assert found == (
        "[b](../b/README.md#top) ![p](../../../../a/p.png) `[not](this.md)` [out](https://x.org) "
        "[dir](../b/README.md) [here](#h)"
    )


def test_every_study_is_in_the_gallery_and_every_figure_exists():
    out = REPOSITORY / "docs" / "_generated"
    pages = studies.pages(REPOSITORY, out)
    for name in STUDIES:
        assert f"{{grid-item-card}} {name}\n" in pages["studies/index.md"]
        for figure in studies.kept_figures(REPOSITORY / "studies" / name.replace("-", "_")):
            assert figure.is_file()
            assert figure.name in pages["studies/gallery.md"]


def test_a_figure_is_shown_once_as_png_where_there_is_one(tmp_path):
    for name in (
        "results/a.png",
        "results/a.svg",
        "results/b.svg",
        "results/part/a.png",
        "example/c.png",
        "other/d.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "README.md").write_text("![the last](example/c.png)")
    found = [str(path.relative_to(tmp_path)) for path in studies.kept_figures(tmp_path)]
    assert found == ["example/c.png", "results/a.png", "results/b.svg", "results/part/a.png"]


def test_a_name_in_a_docstring_must_exist():
    assert exists("hwsim.trace.Schedule.label") and exists("hwsim.metrics.StepColumns.cycles")
    assert not exists("hwsim.trace.Schedule.lable") and not exists("hwsim.nothing")


def test_the_notices_name_every_pinned_package_with_its_licence():
    text = NOTICES.read_text(encoding="utf-8")
    rows = dict(line.strip("| ").split(" | ", 1) for line in text.split(MARK)[1].splitlines() if line.startswith("| "))
    assert set(pinned()) == set(rows) - {"package", "---"}, "run: python -m docs.generators.notices"
    assert len(pinned()) == CONSTRAINTS.read_text().count("==")
    for name in ("numpy", "pydantic", "simpy", "optuna", "torch", "matplotlib"):
        assert rows[name] == licence(name)


def test_a_page_written_by_hand_leads_to_the_page_of_what_it_names_in_the_repository():
    known = readmes.sources(REPOSITORY)
    page = Path("docs/start/architect")
    text = "[a](../../studies/pmpd/README.md#how) [b](../notebooks/architect.ipynb) [c](../npu.md) `](../../README.md)`"
    assert readmes.relinked(text, REPOSITORY, page, REPOSITORY / "docs/_generated", known) == (
        "[a](../_generated/files/studies/pmpd/README.md#how) [b](../_generated/notebooks/architect.md) [c](../npu.md) "
        "`](../../README.md)`"
    )
