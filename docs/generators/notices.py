"""``python -m docs.generators.notices`` brings the table of packages in THIRD-PARTY-NOTICES.md up to date.

Run it after ``constraints.txt`` changed. Licences are what the installed packages say of themselves.
"""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

from docs.generators.markdown import table

NOTICES = Path(__file__).parent.parent.parent / "THIRD-PARTY-NOTICES.md"
CONSTRAINTS = NOTICES.parent / "constraints.txt"
MARK = "<!-- packages, written by python -m docs.generators.notices -->\n"
SHORT_CHARACTERS = 60
"""A licence field longer than this holds the licence itself, not its name."""


def pinned() -> list[str]:
    """Names of all packages in ``constraints.txt``."""
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    return [line.split("==")[0] for line in lines if "==" in line and not line.startswith("#")]


def licence(name: str) -> str:
    """What an installed package says its licence is.

    Raises:
        PackageNotFoundError: If it is not installed.
    """
    about = metadata.metadata(name).json
    expression, text = about.get("license_expression"), str(about.get("license", "")).strip()
    if expression:
        return str(expression)
    if text not in {"", "UNKNOWN"} and len(text) <= SHORT_CHARACTERS and "\n" not in text:
        return text
    named = [line.rsplit(" :: ", 1)[1] for line in about.get("classifier", ()) if line.startswith("License ::")]
    return ", ".join(named) or first_line_of_licence_file(name)


def first_line_of_licence_file(name: str) -> str:
    """The first words of a package's licence file, where its metadata says nothing."""
    for path in metadata.files(name) or []:
        if re.match(r"LICEN[CS]E|COPYING", path.name, flags=re.IGNORECASE):
            return next(line.strip() for line in path.read_text().splitlines() if line.strip())
    return "not stated"


def packages() -> str:
    """The table: every pinned package and its licence."""
    return table(("package", "licence"), [(name, licence(name)) for name in pinned()])


def main() -> None:
    """Write the table behind its mark."""
    head, _, _ = NOTICES.read_text(encoding="utf-8").partition(MARK)
    NOTICES.write_text(f"{head}{MARK}\n{packages()}", encoding="utf-8")


if __name__ == "__main__":
    main()
