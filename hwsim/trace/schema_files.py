"""Generate the JSON Schema files of the contracts: ``python -m hwsim.trace.schema_files``."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel

from hwsim.trace.files import write_text
from hwsim.trace.quality import QualityTable
from hwsim.trace.schedule import Schedule
from hwsim.trace.trace import TraceHeader, TraceSequence, TraceTrailer

SCHEMA_FOLDER = Path(__file__).parent / "schemas"
CONTRACTS: dict[str, type[BaseModel]] = {
    "schedule": Schedule,
    "trace_header": TraceHeader,
    "trace_sequence": TraceSequence,
    "trace_trailer": TraceTrailer,
    "quality": QualityTable,
}


def schema_text(contract: type[BaseModel]) -> str:
    """JSON Schema of one contract as the text of its file."""
    return json.dumps(contract.model_json_schema(), indent=2, sort_keys=True) + "\n"


def main() -> None:
    """Write every schema file."""
    for name, contract in CONTRACTS.items():
        write_text(SCHEMA_FOLDER / f"{name}.schema.json", schema_text(contract))


if __name__ == "__main__":
    main()
