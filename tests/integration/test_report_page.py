"""The report in a real browser: nothing is loaded, tables sort and turn pages, themes, print, and a narrow screen."""

import re
from pathlib import Path

import pytest

import studies
from browser import open_chromium, watched
from studies.common.collection import write_collection

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

RESULTS = Path(studies.__file__).parent
LONG = "steps.csv"


@pytest.fixture(scope="module")
def chromium():
    with open_chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    """Two studies: short tables, a table of 1,719 rows, drawings."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_collection([RESULTS / "trace_replay" / "results", RESULTS / "pmpd_bandwidth" / "results"], path)
    return path


@pytest.fixture
def opened(chromium, page_file):
    with watched(chromium) as watch:
        yield watch.open(page_file.as_uri()), watch
    assert watch.foreign("file://") == []
    assert watch.requests == [page_file.as_uri()]
    assert watch.complaints == []


def long_table(page):
    part = page.locator("details", has=page.locator("summary", has_text=LONG))
    part.locator("summary").click()
    return part


def column(table, number):
    return table.locator(f"tbody td:nth-child({number})").all_inner_texts()


def test_a_heading_sorts_up_and_down_by_the_keyboard_and_says_so(opened):
    page, _ = opened
    table = page.locator("table", has=page.locator("th", has_text="saving")).first
    head = table.locator("th", has_text="saving").first
    place = 1 + head.evaluate("head => head.cellIndex")
    assert head.get_attribute("aria-sort") is None

    def numbers():
        found = [re.match(r"\d+", text) for text in column(table, place)]
        return [int(number[0]) for number in found if number]

    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert numbers() == sorted(numbers())
    page.keyboard.press("Space")
    assert head.get_attribute("aria-sort") == "descending"
    assert numbers() == sorted(numbers(), reverse=True)
    table.locator("th button").first.click()
    assert head.get_attribute("aria-sort") is None
    assert column(table, 1) == sorted(column(table, 1), key=str.lower)


def test_a_long_table_turns_pages_and_sorts_all_of_its_rows(opened):
    page, _ = opened
    table = long_table(page)
    assert table.locator("tbody tr").count() == 20
    assert table.locator("[role=status]").inner_text() == "rows 1 to 20 of 1,719"
    first = table.locator("tbody tr").first.inner_text()
    assert table.get_by_role("button", name="Previous").is_disabled()
    table.get_by_role("button", name="Next").click()
    assert table.locator("[role=status]").inner_text() == "rows 21 to 40 of 1,719"
    assert table.locator("tbody tr").first.inner_text() != first
    heads = table.locator("th").all_inner_texts()
    step = 1 + heads.index("step")
    for _ in range(2):
        table.locator(f"th:nth-child({step}) button").click()
    shown = [int(text) for text in column(table, step)]
    assert shown == sorted(shown, reverse=True)
    assert shown[0] == max(int(line.split(",")[step - 1]) for line in steps()[1:])


def steps():
    return (RESULTS / "trace_replay" / "results" / LONG).read_text(encoding="utf-8").splitlines()


def test_the_theme_follows_the_system_and_the_button(chromium, page_file):
    ground = "getComputedStyle(document.body).backgroundColor"
    turned = "getComputedStyle(document.querySelector('figure svg')).filter"
    with watched(chromium, scheme="dark") as watch:
        page = watch.open(page_file.as_uri())
        assert page.evaluate(ground) == "rgb(23, 23, 23)"
        assert "invert" in page.evaluate(turned)
        page.get_by_role("button", name="Light theme").click()
        assert page.evaluate(ground) == "rgb(255, 255, 255)"
        assert page.evaluate(turned) == "none"
        assert page.get_by_role("button", name="Dark theme").is_visible()


def test_print_is_light_without_controls_and_makes_pages(opened):
    page, _ = opened
    long_table(page)
    page.get_by_role("button", name="Dark theme").click()
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.querySelector('figure svg')).filter") == "none"
    assert not page.locator("#theme").is_visible()
    assert not page.get_by_role("button", name="Next").first.is_visible()
    assert page.locator(".rest", has_text="Rows 1 to 20 of 1,719; all are in steps.csv").is_visible()
    printed = page.pdf(format="A4")
    assert printed.startswith(b"%PDF")
    assert printed.count(b"/Type /Page\n") >= 4


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_but_tables_is_wider_than_the_screen(chromium, page_file, width):
    with watched(chromium, width=width) as watch:
        page = watch.open(page_file.as_uri())
        long_table(page)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.locator("nav details").evaluate("part => part.open") == (width > 640)


def test_markup_in_results_is_shown_and_never_runs(chromium, tmp_path):
    folder = tmp_path / "study"
    folder.mkdir()
    evil = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script>"
    (folder / "manifest.json").write_text('{"provenance": {"commit": "<b>x</b>"}}')
    (folder / "prompts.csv").write_text('prompt\n"' + evil.replace('"', '""') + '"\n')
    (folder / "words.md").write_text(f"# {evil}\n\n{evil}\n")
    write_collection([folder], tmp_path / "page.html")
    with watched(chromium) as watch:
        page = watch.open((tmp_path / "page.html").as_uri())
        assert page.title() == "study"
        for part in page.locator("main details").all():
            part.locator("summary").first.click()
        assert page.locator("td", has_text="onerror").inner_text() == evil
        assert page.locator("main img").count() == 0
    assert len(watch.requests) == 1
    assert watch.complaints == []
