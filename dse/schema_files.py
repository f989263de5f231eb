"""Generate the JSON Schema file of the study: ``python -m dse.schema_files``."""

from __future__ import annotations

from pathlib import Path

from dse.study import StudyConfig
from hwsim.trace import write_text
from hwsim.trace.schema_files import schema_text

SCHEMA_PATH = Path(__file__).parent / "schemas" / "study.schema.json"


def main() -> None:
    """Write the schema file."""
    write_text(SCHEMA_PATH, schema_text(StudyConfig))


if __name__ == "__main__":
    main()
