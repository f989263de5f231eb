"""SVG drawings made fit to stand inside a page: nothing in them runs, loads, or clashes with another drawing."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

from hwsim.trace import InputError, read_text

_SVG = "{http://www.w3.org/2000/svg}"
_XLINK = "{http://www.w3.org/1999/xlink}"
# What draws and does nothing else. In a page any other name may be read as HTML, which ends the drawing (<p>), leaves
# the page (<meta>) or holds for all of it (<style>); the page gives matplotlib's one rule (joins and caps of lines).
_KEPT = {
    f"{_SVG}{name}"
    for name in (
        "a",
        "circle",
        "clipPath",
        "defs",
        "desc",
        "ellipse",
        "g",
        "image",
        "line",
        "linearGradient",
        "marker",
        "mask",
        "path",
        "pattern",
        "polygon",
        "polyline",
        "radialGradient",
        "rect",
        "stop",
        "svg",
        "symbol",
        "text",
        "title",
        "tspan",
        "use",
    )
}
_LOCAL = re.compile(r"url\(\s*['\"]?#([^'\")\s]+)['\"]?\s*\)")


def inline_svg(path: Path, prefix: str, alt: str) -> str:
    """Read a drawing for a page: all but shapes and words, handlers and outside references are left out, ids unique.

    Args:
        path: The SVG file.
        prefix: Put before its ids.
        alt: What it shows, for those who cannot see it.

    Raises:
        InputError: If the file is cut or is no SVG.
    """
    try:
        root = ET.fromstring(read_text(path))
    except ET.ParseError as error:
        raise InputError(f"{path}: not an SVG drawing ({error}); it was cut: run its study again") from None
    if root.tag != f"{_SVG}svg":
        raise InputError(f"{path}: not an SVG drawing; its outermost element is '{root.tag}'")
    _scale_by_view_box(root)
    for element in root.iter():
        for child in [child for child in element if child.tag not in _KEPT]:
            element.remove(child)
        for name, value in list(element.attrib.items()):
            kept = _attribute(name, value, prefix)
            if kept is None:
                del element.attrib[name]
            else:
                element.set(name, kept)
    root.set("role", "img")
    root.set("aria-label", alt)
    ET.register_namespace("", _SVG[1:-1])
    ET.register_namespace("xlink", _XLINK[1:-1])
    return ET.tostring(root, encoding="unicode")


def _scale_by_view_box(root: ET.Element) -> None:
    """The page scales the drawing, so that it needs its own coordinates instead of a size."""
    width, height = (root.attrib.pop(name, "") for name in ("width", "height"))
    if "viewBox" not in root.attrib:
        sizes = [re.match(r"[\d.]+", size) for size in (width, height)]
        if all(sizes):
            root.set("viewBox", "0 0 " + " ".join(size[0] for size in sizes if size))


def _attribute(name: str, value: str, prefix: str) -> str | None:
    """The attribute's value inside the page, or None for one that must not get there."""
    if name == "id":
        return f"{prefix}-{value}"
    if name in {"href", f"{_XLINK}href"}:
        if value.startswith("#"):
            return f"#{prefix}-{value[1:]}"
        # Pixels of an image drawn into the figure, as matplotlib's imshow makes them.
        return value if value.startswith("data:image/png;base64,") else None
    if name.lower().startswith("on"):
        return None
    value = _LOCAL.sub(rf"url(#{prefix}-\1)", value)
    return None if re.search(r"url\((?!#)|@import|javascript:", value, flags=re.IGNORECASE) else value
