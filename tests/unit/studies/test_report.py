"""A report's page, its JSON and its Markdown: what is in them, and what never gets in."""

import json
import math
import re
from html.parser import HTMLParser
from itertools import combinations

import matplotlib.pyplot as plt
import pytest

from hwsim.trace import InputError
from studies.common import style
from studies.common.report import (
    Cell,
    FigureFile,
    Markdown,
    Report,
    Section,
    Table,
    Text,
    read_report_file,
    write_report_file,
)
from studies.common.report_markdown import write_markdown
from studies.common.report_page import PAGE_ROWS, THEMES, write_page
from studies.common.style import figure_style, save_figure
from studies.common.svg import inline_svg


class Collector(HTMLParser):
    def __init__(self):
        super().__init__()
        self.ids, self.links, self.uses, self.tags = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in {"src", "href", "xlink:href"}:
                (self.uses if value.startswith("#") else self.links).append(value)


def make_figure(stem):
    with figure_style():
        figure, axes = plt.subplots()
        axes.plot([1, 2, 3], [1, 4, 9], "o-", label="a < b")
        axes.legend()
        paths = save_figure(figure, stem)
        plt.close(figure)
    return paths


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return make_figure(tmp_path_factory.mktemp("figure") / "drawn")


def page_of(path, *blocks, **options):
    write_page(path, [Report("T & Q", "x < y", [Section("Part", list(blocks))], {"seed": "0"})], **options)
    collected = Collector()
    collected.feed(path.read_text(encoding="utf-8"))
    return path.read_text(encoding="utf-8"), collected


def test_the_page_is_one_file_with_unique_ids_and_nothing_to_load(tmp_path, drawn):
    png, svg = drawn
    figures = [FigureFile(path, "A caption", "a curve") for path in (svg, svg, png)]
    table = Table(["name", "value"], [["<script>", "1,000"]], caption="T")
    page, found = page_of(tmp_path / "r.html", *figures, table, Text("a & b"), Markdown("*so* <b>"))
    assert len(found.ids) == len(set(found.ids)) > 0
    assert [link for link in found.links if not link.startswith("data:")] == []
    assert {use.removeprefix("#") for use in found.uses} <= set(found.ids)
    assert page.count("<svg") == 2
    assert "&lt;script&gt;" in page
    assert "x &lt; y" in page
    assert "<em>so</em> &lt;b&gt;" in page


def test_text_and_drawings_cannot_bring_scripts_handlers_or_outside_addresses(tmp_path):
    evil = tmp_path / "evil.svg"
    evil.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 1 1" '
        'onload="alert(1)"><script>alert(2)</script><style>@import url(http://x.test/a.css);</style>'
        '<image xlink:href="http://x.test/b.png"/><a href="javascript:alert(3)"><text onclick="x()">kept</text></a>'
        '<rect style="fill: url(http://x.test/c.svg#d)"/><foreignObject><p>html</p></foreignObject></svg>'
    )
    prose = Markdown("[a](javascript:alert(1)) [b](../c.md) ![d](http://x.test/e.png) <img src=x onerror=alert(1)>")
    page, found = page_of(tmp_path / "r.html", FigureFile(evil, "c", "a"), prose, Text("<script>alert(4)</script>"))
    assert "x.test" not in page.replace("http://www.w3.org", "")
    assert found.tags.count("script") == 1
    assert not {"foreignobject", "iframe", "object"} & set(found.tags)
    drawing = page[page.index("<svg") : page.index("</svg>")]
    assert not re.search(r"onload|onclick|alert", drawing)
    assert "kept" in drawing
    assert [link for link in found.links if not link.startswith("data:")] == []


@pytest.mark.parametrize(
    "content",
    [
        "<SCRIPT>alert(1)</SCRIPT>",
        "<STYLE>body { display: none }</STYLE>",
        '<p><img src="http://x.test/a.png"/></p>',
        '<meta http-equiv="refresh" content="0; url=http://x.test/"/>',
        '<form action="http://x.test/"><button>go</button></form>',
        '<g ONCLICK="alert(1)"/>',
        '<x:iframe xmlns:x="http://www.w3.org/1999/xhtml" src="http://x.test/"/>',
        '<style/><text xmlns="http://www.w3.org/1999/xhtml">alert</text>',
    ],
)
def test_only_shapes_and_words_of_a_drawing_get_into_a_page(tmp_path, content):
    # A browser reads names in any case, and an HTML element's within a drawing as the end of the drawing.
    path = tmp_path / "drawn.svg"
    path.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1">{content}<rect width="1"/></svg>')
    drawing = inline_svg(path, "a", "b")
    assert "<rect" in drawing
    assert not re.search(r"script|style|x\.test|alert|display|<p|<form|<meta|iframe", drawing, flags=re.IGNORECASE)


def test_only_the_pages_own_script_may_run(tmp_path):
    page, _ = page_of(tmp_path / "r.html", Text("t"))
    policy = re.search(r'content="(default-src[^"]*)"', page)[1]
    assert "default-src 'none'" in policy
    assert re.fullmatch(r"script-src 'sha256-[\w+/=]+'", policy.split("; ")[-1])


def test_a_report_without_provenance_has_no_empty_heading_of_it(tmp_path):
    for title in (None, "Several"):
        write_page(tmp_path / "r.html", [Report("T", "L", [Section("A", [Text("t")])] * 2, {})], title=title)
        assert "rovenance" not in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_a_cut_drawing_is_named(tmp_path):
    cut = tmp_path / "cut.svg"
    cut.write_text('<svg xmlns="http://www.w3.org/2000/svg"><g>')
    with pytest.raises(InputError, match=r"cut.svg: not an SVG drawing .*; it was cut: run its study again"):
        inline_svg(cut, "a", "b")
    cut.write_text("<html></html>")
    with pytest.raises(InputError, match="its outermost element is 'html'"):
        inline_svg(cut, "a", "b")
    picture = tmp_path / "cut.png"
    picture.write_bytes(b"\x89P")
    with pytest.raises(InputError, match="cut.png: not a PNG image"):
        page_of(tmp_path / "r.html", FigureFile(picture, "c", "a"))


def test_a_long_table_shows_a_page_and_carries_every_row(tmp_path):
    rows = [[str(number), Cell(f"{number} kB", 1000.0 * number), "</script>"] for number in range(3 * PAGE_ROWS)]
    page, found = page_of(tmp_path / "r.html", Table(["n", "size", "t"], rows, source="all.csv"))
    assert found.tags.count("tr") == 1 + PAGE_ROWS
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', page, flags=re.DOTALL)[1])
    assert data == {"rows": [[row[0], [*row[1]], row[2]] for row in rows], "page": PAGE_ROWS}
    assert "all are in <code>all.csv</code>" in page


def test_a_report_file_reads_back_as_it_was_written(tmp_path, drawn):
    for path in drawn:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    figure = FigureFile(tmp_path / "drawn.svg", "c", "a")
    table = Table(["a", "b"], [["x", Cell("1 kB", 1e3)]], "T", collapsed=True, source="t.csv")
    sections = [Section("S", [Text("t"), Markdown("*m*"), table, figure]), Section("F", [], collapsed=True)]
    write_report_file(tmp_path, Report("T", "L", sections, {}))
    found = read_report_file(tmp_path, {"seed": "0"})
    assert (found.title, found.lead, found.provenance) == ("T", "L", {"seed": "0"})
    assert found.sections[1] == sections[1]
    text, prose, read, shown = found.sections[0].blocks
    assert (text, prose, shown) == (Text("t"), Markdown("*m*"), figure)
    assert [list(row) for row in read.rows] == table.rows
    assert (tuple(read.header), read.caption, read.collapsed, read.source) == (("a", "b"), "T", True, "t.csv")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": "2.0"}, "schema_version = 2.0: another version of bittaper wrote it, this one reads 1.x"),
        ({"titel": "x"}, "titel.*no such field"),
        ({"sections": [{"title": "a", "blocks": [{"kind": "figure", "file": "../b.svg"}]}]}, "file = '../b.svg'"),
        (
            {"sections": [{"title": "a", "blocks": [{"kind": "figure", "file": "b.svg"}]}]},
            "'b.svg', which is not there",
        ),
    ],
)
def test_a_report_file_of_another_version_or_with_foreign_fields_is_refused(tmp_path, change, message):
    (tmp_path / "report.json").write_text(json.dumps({"title": "T", "lead": "", "sections": []} | change))
    with pytest.raises(InputError, match=f"report.json: .*{message}"):
        read_report_file(tmp_path, {})


def linear(channel):
    return channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4


def channels(colour):
    return [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]


def contrast(one, other):
    """Of two colours, by WCAG 2.1."""
    levels = sorted(
        sum(weight * linear(value) for weight, value in zip((0.2126, 0.7152, 0.0722), colour, strict=True)) + 0.05
        for colour in (one, other)
    )
    return levels[1] / levels[0]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_from_every_ground_in_both_themes(theme):
    colours = {name: channels(colour) for name, colour in THEMES[theme].items()}
    for text in ("text", "soft", "link"):
        for ground in ("back", "head"):
            assert contrast(colours[text], colours[ground]) >= 4.5


def turned(colour):
    """What ``invert(.91) hue-rotate(180deg)`` makes of a colour (Filter Effects, section 8)."""
    inverted = [0.91 - 0.82 * value for value in colour]
    grey = 2 * sum(weight * value for weight, value in zip((0.213, 0.715, 0.072), inverted, strict=True))
    return [min(1.0, max(0.0, grey - value)) for value in inverted]


def test_turning_a_figure_for_the_dark_theme_keeps_its_colours_at_least_as_visible():
    paper = [1.0, 1.0, 1.0]
    assert contrast(turned([0.0] * 3), turned(paper)) >= 4.5
    for name in ("BLUE", "ORANGE", "GREEN", "VERMILION", "PURPLE", "SKY", "YELLOW", "GREY"):
        colour = channels(getattr(style, name))
        assert contrast(turned(colour), turned(paper)) >= contrast(colour, paper) or contrast(colour, paper) > 4.5


# Machado, Oliveira and Fernandes, "A Physiologically-based Model for Simulation of Color Vision Deficiency" (2009),
# severity 1, on linear RGB.
DEFICIENCIES = {
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}
XYZ = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))


def product(matrix, vector):
    return [sum(weight * value for weight, value in zip(row, vector, strict=True)) for row in matrix]


def lab(rgb):
    x, y, z = (value / white for value, white in zip(product(XYZ, rgb), (0.9505, 1.0, 1.089), strict=True))
    fx, fy, fz = (value ** (1 / 3) if value > 0.008856 else 7.787 * value + 16 / 116 for value in (x, y, z))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_the_first_five_colours_of_figures_differ_for_the_colour_blind(deficiency):
    seen = {
        name: lab([min(1.0, max(0.0, value)) for value in product(DEFICIENCIES[deficiency], map_linear(name))])
        for name in ("BLUE", "ORANGE", "GREEN", "VERMILION", "BLACK")
    }
    for one, other in combinations(seen, 2):
        assert math.dist(seen[one], seen[other]) > 10, f"{one} and {other}"


def map_linear(name):
    return [linear(value) for value in channels(getattr(style, name))]


def test_the_same_figure_is_written_to_the_same_bytes(tmp_path, drawn):
    again = make_figure(tmp_path / "b")
    assert [path.suffix for path in drawn] == [".png", ".svg"]
    assert drawn[1].read_bytes() == again[1].read_bytes()


def test_markdown_says_the_same_and_means_itself(tmp_path):
    (tmp_path / "drawn.svg").write_text('<svg width="1" height="1"></svg>')
    section = Section("Speed | size")
    section.text("2 * 3 < 7")
    section.table(Table(["a", "b"], [["x|y", "1"], ["p4:4>3@40", Cell("2 kB", 2e3)]], caption="Some rows"))
    section.figure(FigureFile(tmp_path / "drawn.svg", "What is drawn.", "a drawing"))
    section.markdown("- as *it* is")
    path = tmp_path / "report.md"
    write_markdown(path, Report("T", "L", [section], {"commit": "abc"}))
    assert path.read_text(encoding="utf-8") == (
        "# T\n\nL\n\n## Speed \\| size\n\n2 \\* 3 \\< 7\n\nSome rows\n\n| a | b |\n|---|---:|\n| x\\|y | 1 |\n"
        "| p4:4>3@40 | 2 kB |\n\n![a drawing](drawn.svg)\n\nWhat is drawn.\n\n- as *it* is\n\n"
        "## Provenance\n\n- commit: abc\n"
    )
