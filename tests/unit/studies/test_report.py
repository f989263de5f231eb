from html.parser import HTMLParser

import matplotlib.pyplot as plt

from studies.common.report import FigureFile, Report, Section, Table
from studies.common.report_markdown import write_markdown
from studies.common.report_page import write_page
from studies.common.style import figure_style, save_figure


class Collector(HTMLParser):
    def __init__(self):
        super().__init__()
        self.ids, self.links, self.uses, self.open = [], [], [], []

    def handle_starttag(self, tag, attrs):
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


def test_the_report_is_one_file_with_unique_ids_and_no_outside_links(tmp_path):
    section = Section("Figures")
    for name in ("first", "second"):
        _, svg = make_figure(tmp_path / name)
        section.figure(FigureFile(svg, f"Caption of {name}", "a curve"))
    section.table(Table(["name", "value"], [["<script>", "1,000"]], caption="T"))
    write_page(tmp_path / "r.html", [Report("T & Q", "x < y", [section], {"seed": "0"})])
    page = (tmp_path / "r.html").read_text()
    collected = Collector()
    collected.feed(page)
    assert len(collected.ids) == len(set(collected.ids)) > 0
    assert collected.links == ["data:,"]
    assert {use.removeprefix("#") for use in collected.uses} <= set(collected.ids)
    assert "&lt;script&gt;" in page
    assert "x &lt; y" in page


def test_the_same_figure_is_written_to_the_same_bytes(tmp_path):
    first = make_figure(tmp_path / "a")
    second = make_figure(tmp_path / "b")
    assert [path.suffix for path in first] == [".png", ".svg"]
    assert first[1].read_bytes() == second[1].read_bytes()


def test_markdown_says_the_same_and_means_itself(tmp_path):
    (tmp_path / "drawn.svg").write_text('<svg width="1" height="1"></svg>')
    section = Section("Speed | size")
    section.text("2 * 3 < 7")
    section.table(Table(["a", "b"], [["x|y", "1"], ["p4:4>3@40", "2"]], caption="Some rows"))
    section.figure(FigureFile(tmp_path / "drawn.svg", "What is drawn.", "a drawing"))
    path = tmp_path / "report.md"
    write_markdown(path, Report("T", "L", [section], {"commit": "abc"}))
    assert path.read_text(encoding="utf-8") == (
        "# T\n\nL\n\n## Speed \\| size\n\n2 \\* 3 \\< 7\n\nSome rows\n\n| a | b |\n|---|---:|\n| x\\|y | 1 |\n"
        "| p4:4>3@40 | 2 |\n\n![a drawing](drawn.svg)\n\nWhat is drawn.\n\n## Provenance\n\n- commit: abc\n"
    )
