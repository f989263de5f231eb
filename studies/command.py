"""What a module of the command line offers: a subcommand, or a study."""

from __future__ import annotations

import argparse
from typing import Protocol


class Command(Protocol):
    """A module with one command.

    Attributes:
        HELP: A line that says what it does, an empty line, then examples and what else ``--help`` shows.
    """

    HELP: str

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add this command's arguments."""

    def run(self, args: argparse.Namespace) -> None:
        """Do the work; errors are raised, not printed."""
