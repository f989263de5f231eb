"""The command reference: every command of ``bittaper`` with its arguments, from the parsers themselves."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator

from docs.generators.markdown import code, prose, table
from studies.cli import COMMANDS, build_parser

PROGRAM = "bittaper"
WIDTH_COLUMNS = 100


def pages() -> dict[str, str]:
    """An overview and one page for each command."""
    # argparse wraps usage lines to the terminal that happens to be there.
    os.environ["COLUMNS"] = str(WIDTH_COLUMNS)
    parsers = {name: _subparsers(build_parser(name))[name] for name in COMMANDS}
    rows = [(f"[{PROGRAM} {name}]({name}.md)", _text(parser.description)) for name, parser in parsers.items()]
    overview = (
        "# Commands\n\nGenerated from the parsers; `--help` says the same. Exit codes: 0, 2 for bad input, 130 for "
        f"Ctrl-C.\n\n{table(('command', 'what it does'), rows)}\n```{{toctree}}\n:hidden:\n\n"
        + "\n".join(parsers)
        + "\n```\n"
    )
    documents = {f"commands/{name}.md": "\n".join(sections(parser, 1)) for name, parser in parsers.items()}
    return {"commands/index.md": overview, **documents}


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def sections(parser: argparse.ArgumentParser, level: int) -> Iterator[str]:
    """A command's usage, arguments and examples, then those of its own subcommands."""
    yield f"{'#' * level} {parser.prog}\n\n{_text(parser.description)}\n"
    yield f"```text\n{parser.format_usage()}```\n"
    rows = [_row(parser, action) for action in parser._actions if action.help != argparse.SUPPRESS]
    yield table(("argument", "values", "default", "meaning"), [row for row in rows if row])
    if parser.epilog:
        yield f"```text\n{parser.epilog.strip()}\n```\n"
    for subparser in _subparsers(parser).values():
        yield from sections(subparser, level + 1)


def _row(parser: argparse.ArgumentParser, action: argparse.Action) -> tuple[str, str, str, str] | None:
    if isinstance(action, argparse._HelpAction | argparse._VersionAction | argparse._SubParsersAction):
        return None
    name = ", ".join(map(code, action.option_strings)) or code(action.metavar or action.dest)
    values = ""
    if action.choices is not None:
        values = ", ".join(code(choice) for choice in action.choices)
    elif action.option_strings and action.nargs != 0:
        metavar = action.metavar or action.dest.upper()
        values = code(" ".join(metavar) if isinstance(metavar, tuple) else metavar)
    default = ""
    if action.required and action.option_strings:
        default = "**required**"
    elif action.option_strings and action.default not in (None, False, argparse.SUPPRESS, [], ()):
        given = action.default
        default = code(" ".join(map(str, given)) if isinstance(given, list | tuple) else given)
    if action.nargs in {"*", "+"} or isinstance(action, argparse._AppendAction):
        values += " (several)"
    return name, values, default, _text(parser._get_formatter()._expand_help(action)) if action.help else ""


def _text(text: str | None) -> str:
    """Help text in which Markdown finds nothing to format."""
    plain = prose(text)
    for sign in "*_<>[]{}$":
        plain = plain.replace(sign, f"\\{sign}")
    return plain
