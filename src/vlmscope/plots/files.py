"""A plot as files: SVG for a page or standalone, PNG, and the data.

matplotlib writes a document: a style sheet that would affect the complete page, ids that two plots
would share, a group around everything. Only the parts that a page needs are kept. Text stays text,
so it can be searched and read aloud, and uses the page's font.
"""

from __future__ import annotations

import csv
import re
from io import BytesIO, StringIO
from typing import Any
from xml.etree import ElementTree as ET

from matplotlib.figure import Figure

from vlmscope.plots.canvas import Plot, clean, drawing
from vlmscope.plots.palette import PALETTE
from vlmscope.shown import encodable

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "{http://www.w3.org/1999/xlink}href"
_PIXELS = 700 / (7.2 * 72)
"""A page's pixels for a point of the figure: text of 9 points is 12 pixels high."""

_NAMES = {colour: name for name, colour in PALETTE.items()}
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}\b")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_LONG_NUMBER = re.compile(r"-?\d+\.\d+")
_UNTURNED = re.compile(r"rotate\(-?0 [^)]*\)")


def inline_svg(plot: Plot) -> str:
    """Return an ``<svg>`` element to embed in a page unchanged.

    It fills the width it is given, up to that at which its text is 12 pixels high. Its colours are
    ``var(--plot-<name>, <colour>)`` by the names of ``PALETTE``, its font is the page's, its ids
    start with the plot's name. The same data give the same bytes.
    """
    return _on_page(plot, plot.figure, plot.name)


def narrow_svg(plot: Plot) -> str:
    """Return the ``<svg>`` element for a narrow screen; empty where there is none."""
    return "" if plot.narrow is None else _on_page(plot, plot.narrow, f"{plot.name}-narrow")


def _on_page(plot: Plot, figure: Figure, name: str) -> str:
    root = _element(plot, figure, name, background="none", on_page=True)
    wide = float(root.get("viewBox", "").split()[2])
    root.set("width", "100%")
    root.set("style", f"max-width:{wide * _PIXELS:.0f}px;height:auto;{root.get('style')}")
    return ET.tostring(root, encoding="unicode")


def svg_file(plot: Plot) -> bytes:
    """Return a complete SVG file, on white."""
    root = _element(plot, plot.figure, plot.name, background=PALETTE["paper"], on_page=False)
    _, _, wide, high = root.get("viewBox", "").split()
    root.set("width", f"{wide}pt")
    root.set("height", f"{high}pt")
    root.set("style", f"font-family:'DejaVu Sans',system-ui,sans-serif;{root.get('style')}")
    written: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return written


def _element(
    plot: Plot, figure: Figure, name: str, *, background: str, on_page: bool
) -> ET.Element:
    """Return a figure of the plot as one element, without its size; its ids start with a name."""
    drawn = BytesIO()
    nothing = {"Creator": None, "Date": None, "Format": None, "Type": None}
    with drawing():
        figure.savefig(drawn, format="svg", facecolor=background, metadata=nothing)
    # What is parsed is what matplotlib has just written and escaped.
    old = ET.fromstring(drawn.getvalue())  # noqa: S314
    ids = {old_id: f"{name}-{number}" for number, old_id in enumerate(_references(old), 1)}
    title, description = f"{name}-title", f"{name}-desc"
    root = ET.Element("svg", {"xmlns": _SVG, "viewBox": old.get("viewBox", ""), "role": "img"})
    root.set("aria-labelledby", f"{title} {description}")
    root.set("style", "stroke-linejoin:round;stroke-linecap:butt")
    ET.SubElement(root, "title", {"id": title}).text = clean(plot.title)
    ET.SubElement(root, "desc", {"id": description}).text = clean(plot.description)
    for child in old:
        root.extend(_slim(child, ids, on_page=on_page))
    return root


def _references(root: ET.Element) -> dict[str, None]:
    """Return the ids that something refers to, in the order of the document."""
    found: dict[str, None] = {}
    for element in root.iter():
        for name, value in element.attrib.items():
            if name == _XLINK:
                found[value.removeprefix("#")] = None
            found |= dict.fromkeys(_REFERENCE.findall(value))
    return found


def _slim(old: ET.Element, ids: dict[str, str], *, on_page: bool) -> list[ET.Element]:
    """Return an element without what a page has no use for: itself, its children, or nothing."""
    tag = old.tag.removeprefix(f"{{{_SVG}}}")
    # The style sheet would apply to the complete page; its rules are on the root element.
    if tag in ("metadata", "style"):
        return []
    attributes = _attributes(old, ids, on_page=on_page)
    children = [kept for child in old for kept in _slim(child, ids, on_page=on_page)]
    if tag == "defs" and not children:
        return []
    if tag == "g" and not attributes:
        return children
    if tag == "path" and "id" not in attributes and _invisible(attributes):
        return []
    new = ET.Element(tag, attributes)
    new.text = old.text if tag == "text" else None
    new.extend(children)
    return [new]


def _attributes(old: ET.Element, ids: dict[str, str], *, on_page: bool) -> dict[str, str]:
    """Return the attributes worth keeping, numbers to a hundredth of a point."""
    kept: dict[str, str] = {}
    for name, value in old.attrib.items():
        if name == "id":
            if value in ids:
                kept["id"] = ids[value]
        elif name == _XLINK:
            kept["href"] = f"#{ids[value.removeprefix('#')]}"
        elif name == "style":
            kept["style"] = _style(value, ids, on_page=on_page)
        elif not (name == "transform" and _UNTURNED.fullmatch(value)):
            rounded = _LONG_NUMBER.sub(_short, " ".join(value.split()))
            kept[name] = _REFERENCE.sub(lambda found: f"url(#{ids[found[1]]})", rounded)
    return kept


def _style(value: str, ids: dict[str, str], *, on_page: bool) -> str:
    """Return the declarations of an element: without a font, with the page's colours."""
    found = dict(part.strip().split(": ", 1) for part in value.split(";") if part.strip())
    found.pop("font-family", None)
    # Older releases of matplotlib write one declaration for size and family.
    if size := re.search(r"[\d.]+px", found.pop("font", "")):
        found["font-size"] = size[0]
    style = ";".join(f"{name}:{_LONG_NUMBER.sub(_short, value)}" for name, value in found.items())
    style = _REFERENCE.sub(lambda reference: f"url(#{ids[reference[1]]})", style)
    return _COLOUR.sub(_named, style) if on_page else style


def _named(found: re.Match[str]) -> str:
    """Return a colour as the page's variable of its name."""
    colour = found[0].lower()
    return f"var(--plot-{_NAMES[colour]}, {colour})"


def _short(found: re.Match[str]) -> str:
    """Return a number with at most two decimals."""
    return f"{round(float(found[0]), 2) + 0.0:g}"


def _invisible(attributes: dict[str, str]) -> bool:
    """Return whether a path is invisible: no fill and no stroke."""
    style = attributes.get("style", "").split(";")
    return "fill:none" in style and not any(part.startswith("stroke:") for part in style)


_DPI = 200
_DIGITS = 6
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""Characters that start a formula in spreadsheets (OWASP, "CSV injection")."""


def csv_text(plot: Plot) -> str:
    """Return the plotted data as CSV, numbers to six significant digits, unknown cells empty.

    A text that a spreadsheet would interpret as a formula is prefixed with an apostrophe.

    Raises:
        ValueError: The columns are not equally long.
    """
    out = StringIO()
    # The line ends of RFC 4180, which also make the module quote a cell that contains one of them.
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(map(_cell, plot.columns))
    writer.writerows([_cell(value) for value in row] for row in _rows(plot))
    return out.getvalue()


def plot_files(plot: Plot) -> dict[str, bytes]:
    """Return the plot's files by name: ``<name>.svg``, ``<name>.png`` and ``<name>.csv``."""
    contents = {".svg": svg_file(plot), ".png": _png(plot), ".csv": csv_text(plot).encode()}
    return {f"{plot.name}{suffix}": data for suffix, data in contents.items()}


def _rows(plot: Plot) -> list[tuple[Any, ...]]:
    """Return the data by row."""
    return list(zip(*plot.columns.values(), strict=True))


def _cell(value: Any) -> Any:
    """Return a value as the csv module should write it."""
    if isinstance(value, str):
        text = encodable(value)
        return f"'{text}" if text.startswith(_FORMULA) else text
    if isinstance(value, float):
        # NaN is the one number that is not itself.
        return f"{value:.{_DIGITS}g}" if value == value else None
    return value


def _png(plot: Plot) -> bytes:
    """Return the figure as pixels on white."""
    out = BytesIO()
    with drawing():
        plot.figure.savefig(out, format="png", dpi=_DPI, facecolor=PALETTE["paper"])
    return out.getvalue()
