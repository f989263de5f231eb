"""Shell blocks are marked so that their lines wrap between words, and hold the same text as before."""

import html
import re

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name

from docs.generators.shell import with_whole_words

COMMANDS = "bittaper simulate --npu pmpd-4k --weight-bits 3 > a.json  # 2 minutes\nbittaper doctor\n"


def page_of(language):
    drawn = highlight(COMMANDS, get_lexer_by_name(language), HtmlFormatter(wrapcode=False))
    return f'<p>a--b</p><div class="highlight-{language} notranslate">{drawn}</div>'


def test_lines_and_hyphenated_words_are_marked_and_no_letter_changes():
    marked = with_whole_words(page_of("sh"))
    assert re.findall(r'<span class="whole">(.*?)</span>', marked) == ["--npu", "pmpd-4k", "--weight-bits"]
    lines = re.findall(
        r'<span class="command">(.*?\n)</span>(?=<span class="command">|</pre>)', marked, flags=re.DOTALL
    )
    assert [html.unescape(re.sub("<[^>]*>", "", line)) for line in lines] == COMMANDS.splitlines(keepends=True)


def test_other_blocks_and_prose_stay_as_they_are():
    assert with_whole_words(page_of("python")) == page_of("python")
