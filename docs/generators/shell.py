"""Shell blocks whose long lines wrap between words: each line hangs behind its command, and no option is cut in two.

Browsers may break a line behind any hyphen, which style sheets cannot forbid; so what must stay whole is marked here.
The text of a block, which the copy button takes, stays as it is.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

_BLOCK = re.compile(
    r'(<div class="highlight-sh\b[^>]*><div class="highlight"><pre><span></span>)(.*?)(</pre>)', re.DOTALL
)
_TAG = re.compile(r"(<[^>]*>)")
_HYPHENATED = re.compile(r"[^\s&]*-[^\s&]*")


def with_whole_words(page: str) -> str:
    """Mark the lines of every shell block of a page, and the words in which a hyphen stands."""
    return _BLOCK.sub(lambda block: f"{block[1]}{_lines(block[2])}{block[3]}", page)


def _lines(block: str) -> str:
    return "".join(f'<span class="command">{_words(line)}</span>' for line in block.splitlines(keepends=True))


def _words(line: str) -> str:
    parts = _TAG.split(line)
    # Every second part is a tag.
    parts[::2] = (_HYPHENATED.sub(r'<span class="whole">\g<0></span>', text) for text in parts[::2])
    return "".join(parts)


def _mark(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    if "body" in context:
        context["body"] = with_whole_words(context["body"])


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect it."""
    app.connect("html-page-context", _mark)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
