"""The documentation builds without a warning, its notebooks run, and it opens without a network."""

import re
import subprocess
import sys

import pytest

from browser import open_chromium, watched
from documents import REPOSITORY, blocks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

OPENED = (
    "index.html",
    "start/architect.html",
    "concepts/speed.html",
    "validation.html",
    "_generated/fields/npu.html",
    "_generated/studies/index.html",
)
NARROW_PX = 390


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """The built pages; a warning, a broken reference or a notebook that fails is an error."""
    out = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "sphinx", "-W", "-n", "-q", "-b", "html", "-d", out / "doctrees"]
    done = subprocess.run(
        [*command, REPOSITORY / "docs", out / "html"], capture_output=True, text=True, check=False, cwd=REPOSITORY
    )
    assert done.returncode == 0, done.stderr
    return out / "html"


@pytest.fixture(scope="module")
def chromium():
    with open_chromium() as browser:
        yield browser


def test_every_command_and_file_format_and_notebook_has_a_page(html):
    from studies.cli import COMMANDS

    wanted = {f"_generated/commands/{name}.html" for name in COMMANDS}
    wanted |= {f"_generated/fields/{name}.html" for name in ("npu", "study", "schedule", "trace", "quality")}
    wanted |= {f"_generated/notebooks/{path.stem}.html" for path in (REPOSITORY / "docs/notebooks").glob("*.ipynb")}
    assert {name for name in wanted if not (html / name).is_file()} == set()
    assert "<img" in (html / "_generated/notebooks/architect.html").read_text(encoding="utf-8")


def test_no_page_asks_for_anything_from_a_network(html):
    asked = re.compile(r"""<(?:script|img|iframe|source|link)\b[^>]*?\b(?:src|href)=["'](?:https?:)?//[^"']*["']""")
    for page in html.rglob("*.html"):
        assert asked.findall(page.read_text(encoding="utf-8")) == [], page.name
    for style in html.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", style.read_text(encoding="utf-8")), style.name


def test_equations_are_drawn_by_the_browser_itself(html):
    page = (html / "concepts/energy_area.html").read_text(encoding="utf-8")
    assert page.count("<math") >= 5
    assert not re.search(r"<script[^>]*mathjax", page, flags=re.IGNORECASE)
    assert page.count('id="equation-energy"') == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, NARROW_PX])
def test_pages_open_in_a_browser_without_a_request_or_a_complaint(html, chromium, width, scheme):
    with watched(chromium, width=width, scheme=scheme) as watch:
        for name in OPENED:
            page = watch.open((html / name).as_uri())
            # Wide tables and equations scroll within themselves.
            assert page.evaluate("document.documentElement.scrollWidth") <= width, name
            # Commands are read whole.
            cut = "[...document.querySelectorAll('.highlight-sh pre')].filter(pre => pre.scrollWidth > pre.clientWidth)"
            assert page.evaluate(f"{cut}.length") == 0, name
            page.close()
    assert watch.foreign("file://") == []
    assert watch.complaints == []


def test_what_the_copy_button_takes_of_commands_is_what_the_page_says(html, chromium):
    (first, *_) = (block for block in blocks(REPOSITORY / "docs/start/architect.md") if block.language == "sh")
    with watched(chromium, width=NARROW_PX) as watch:
        page = watch.open((html / "start/architect.html").as_uri())
        # As sphinx-copybutton takes it: from a copy, which nothing has laid out.
        taken = page.evaluate("document.querySelector('.highlight-sh pre').cloneNode(true).innerText")
    assert taken == first.text


def test_the_search_finds_a_word_offline(html, chromium):
    with watched(chromium) as watch:
        page = watch.open((html / "search.html").as_uri() + "?q=roofline")
        page.wait_for_selector("#search-results li")
    assert watch.foreign("file://") == []


def test_notebooks_are_kept_without_outputs():
    import nbformat

    for path in (REPOSITORY / "docs/notebooks").glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            assert cell.cell_type != "code" or (cell.outputs == [] and cell.execution_count is None), path.name
