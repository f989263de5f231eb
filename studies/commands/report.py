"""``bittaper report``: one HTML page of the results of many studies."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = """one self-contained HTML page of study results

A FOLDER is what bittaper study wrote, or holds such folders; without any, the results that come with the program.

examples:
  bittaper report
  bittaper report results --out results/report.html
  bittaper report results/pmpd-bandwidth results/codesign --out mine.html
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("folders", nargs="*", metavar="FOLDER", help="results of a study, or a folder of such folders")
    parser.add_argument("--out", default="report.html", metavar="FILE", help="the page (default report.html)")
    parser.add_argument("--title", help="heading of the page (default: says how many studies it holds)")


def run(args: argparse.Namespace) -> None:
    """Write the page and say where it is."""
    from studies.common.collection import write_collection

    folders = [Path(folder) for folder in args.folders] or [Path(__file__).parent.parent]
    path = Path(args.out)
    count = write_collection(folders, path, title=args.title)
    print(f"report   {path} ({count} {'study' if count == 1 else 'studies'})")
