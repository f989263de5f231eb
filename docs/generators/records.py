"""Field references of the files: every field of a model with type, unit, default, bounds and description.

They are read off the model's JSON Schema, which is what an editor checks a file with.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from docs.generators.markdown import code, prose, table
from dse.study import StudyConfig
from hwsim.config import NpuConfig
from hwsim.load import NPU_NAMES, load_npu, npu_description
from hwsim.trace.quality import QualityTable
from hwsim.trace.schedule import Schedule
from hwsim.trace.trace import TraceHeader, TraceSequence, TraceTrailer

UNITS = {
    "_bytes_per_s": "bytes/s",
    "_w_per_mm2": "W/mm2",
    "_per_cycle": "1/cycle",
    "_cycles": "cycles",
    "_tokens": "tokens",
    "_bytes": "bytes",
    "_bits": "bits",
    "_kib": "KiB",
    "_hz": "Hz",
    "_ns": "ns",
    "_s": "s",
}
"""Unit by the end of a field's name, the longest first."""

REFERENCES: dict[str, tuple[str, Sequence[type[BaseModel]]]] = {
    "npu": ("Fields of an NPU file", [NpuConfig]),
    "study": ("Fields of a study file", [StudyConfig]),
    "schedule": ("Fields of a schedule", [Schedule]),
    "trace": ("Fields of a trace", [TraceHeader, TraceSequence, TraceTrailer]),
    "quality": ("Fields of a quality file", [QualityTable]),
}


def anchor(page: str, record: str) -> str:
    """Label of a record's section."""
    return f"fields-{page}-{record.lower()}"


def pages() -> dict[str, str]:
    """One page for each file format, and a table of the NPUs that have a name."""
    fields = {f"fields/{name}.md": record_page(name, title, models) for name, (title, models) in REFERENCES.items()}
    return {**fields, "fields/npu_names.txt": _named_npus()}


def _named_npus() -> str:
    rows = []
    for name in NPU_NAMES:
        what, validated = npu_description(name)
        npu = load_npu(name)
        peak = npu.memory.bandwidth_bytes_per_s / 1e9
        rows.append((code(name), f"{npu.matrix.macs:,}", f"{npu.clock_hz / 1e9:g}", f"{peak:g}", what, validated))
    return table(("name", "MACs", "GHz", "GB/s", "what it is", "validated against"), rows)


def record_page(page: str, title: str, models: Sequence[type[BaseModel]]) -> str:
    parts = [f"# {title}\n\nGenerated from the models that read the file. **required**: has no default.\n"]
    seen: set[str] = set()
    for model in models:
        schema = model.model_json_schema()
        kinds = schema.pop("$defs", {})
        for name, kind in _in_order(model.__name__, schema, kinds):
            if name not in seen and "properties" in kind:
                seen.add(name)
                parts.append(_section(page, name, kind, kinds))
    return "\n".join(parts)


def _in_order(
    name: str, schema: Mapping[str, Any], kinds: Mapping[str, Any]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """A record and those it holds, each once, in the order in which its fields name them."""
    yield name, schema
    for reference in dict.fromkeys(re.findall(r'"\$ref": "#/\$defs/(\w+)"', json.dumps(schema))):
        yield from _in_order(reference, kinds[reference], kinds)


def _section(page: str, name: str, schema: Mapping[str, Any], kinds: Mapping[str, Any]) -> str:
    required = set(schema.get("required", ()))
    rows = [
        (
            code(field),
            type_text(value, kinds, page),
            unit_of(field),
            "**required**" if field in required else _default(value),
            bounds_text(value),
            prose(value.get("description")),
        )
        for field, value in schema["properties"].items()
    ]
    # Attributes that a docstring lists are in the table.
    told = re.split(r"\n\nAttributes:\n", prose(schema.get("description")))[0]
    header = ("field", "type", "unit", "default", "bounds", "meaning")
    return f"({anchor(page, name)})=\n## {name}\n\n{told}\n\n{table(header, rows)}"


def unit_of(field: str) -> str:
    """Unit that the field's name says.

    >>> unit_of("bandwidth_bytes_per_s"), unit_of("weight_kib"), unit_of("lanes")
    ('bytes/s', 'KiB', '')
    """
    return next((unit for end, unit in UNITS.items() if field.endswith(end)), "")


def type_text(value: Mapping[str, Any], kinds: Mapping[str, Any], page: str) -> str:
    """What may stand there, in words; a record links to its own section."""
    if "$ref" in value:
        name = value["$ref"].rsplit("/", 1)[1]
        return (
            f"[{name}](#{anchor(page, name)})" if "properties" in kinds[name] else type_text(kinds[name], kinds, page)
        )
    if "const" in value:
        return code(json.dumps(value["const"]))
    if "enum" in value:
        return ", ".join(code(choice) for choice in value["enum"])
    if options := value.get("anyOf") or value.get("oneOf"):
        return " or ".join(dict.fromkeys(type_text(option, kinds, page) for option in options))
    match value.get("type"):
        case "array" if "prefixItems" in value:
            items = [type_text(item, kinds, page) for item in value["prefixItems"]]
            shown = items[0] + "s" if len(set(items)) == 1 else ": " + ", ".join(items)
            return f"list of {len(items)} {shown}".replace(" :", ":")
        case "array":
            return f"list of {type_text(value.get('items', {}), kinds, page)}"
        case "object":
            return f"mapping of names to {type_text(value.get('additionalProperties', {}), kinds, page)}"
        case "null":
            return "null"
        case str(kind):
            return {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false"}[kind]
        case _:
            return "any value"


def _default(value: Mapping[str, Any]) -> str:
    default = value.get("default", "empty")
    return "empty" if default in ("empty", [], {}) else code(json.dumps(default))


def _number(bound: float) -> str:
    """A bound as people write it.

    >>> _number(1e6), _number(0.05), _number(1e11)
    ('1,000,000', '0.05', '1e+11')
    """
    return f"{int(bound):,}" if bound == int(bound) and abs(bound) < 1e9 else f"{bound:g}"


def bounds_text(value: Mapping[str, Any]) -> str:
    """Bounds of a value, or of the values of a list, mapping or choice.

    >>> bounds_text({"minimum": 1, "exclusiveMaximum": 8})
    '>= 1, < 8'
    """
    said = [
        f"{sign} {_number(value[key])}"
        for key, sign in (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<"))
        if key in value
    ]
    if value.get("minItems") or value.get("minLength"):
        said.append("not empty" if value.get("maxItems") is None else f"{value['maxItems']} entries")
    inner = [
        value.get("items"),
        value.get("additionalProperties"),
        *value.get("anyOf", ()),
        *value.get("prefixItems", ()),
    ]
    for part in inner:
        if isinstance(part, Mapping) and (text := bounds_text(part)) and text not in said:
            said.append(text)
    return ", ".join(said)
