"""Notebooks become pages: text, code, and what the code said."""

import base64

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from docs.generators.notebooks import as_markdown

PNG = base64.b64encode(b"picture").decode()


def test_text_code_output_tables_and_pictures_follow_each_other(tmp_path):
    outputs = [
        new_output("stream", name="stdout", text="one\n"),
        new_output("stream", name="stderr", text="a warning\n"),
        new_output("stream", name="stdout", text="two\n"),
        new_output("display_data", data={"image/png": PNG, "text/plain": "<Figure>"}),
        new_output("execute_result", data={"text/html": "<table></table>", "text/plain": "t"}),
        new_output("execute_result", data={"text/plain": "42"}),
    ]
    cells = [new_markdown_cell("# Title"), new_code_cell("print(1)", outputs=outputs), new_code_cell("  ")]
    page = as_markdown(nbformat.from_dict(new_notebook(cells=cells)), "book", tmp_path)
    assert page == (
        "# Title\n\n```python\nprint(1)\n```\n\n```text\none\ntwo\n```\n\n"
        "![What the cell above draws](book-1-3.png)\n\n"
        '```{raw} html\n<div class="notebook-table"><table></table></div>\n```\n\n```text\n42\n```\n'
    )
    assert (tmp_path / "book-1-3.png").read_bytes() == b"picture"
