"""Renders a report as one HTML page, which neither loads nor sends data.

Texts from a table or a model are untrusted. In the markup jinja2 escapes them; for the script they
are JSON in a block that is not executed; and the page's content security policy allows one script,
by its hash. Only the figures' SVG, which vlmscope generates, is inserted unescaped.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from vlmscope.plots import DARK_PALETTE, PALETTE
from vlmscope.report.document import AttentionGrid, Card, Document
from vlmscope.shown import encodable

STYLES = ("light.css", "page.css", "tables.css", "gallery.css", "print.css")
SCRIPTS = (
    "elements.js",
    "state.js",
    "theme.js",
    "tables.js",
    "choosing.js",
    "attention.js",
    "dialog.js",
    "gallery.js",
    "start.js",
)

UNKNOWN = "–"
"""Shown for an unknown number."""

ORDER = {"selected": 0, "combined": 1, "probe": 2, "baseline": 3}
"""Order of the kinds of results: the finding first, then the results it is compared with."""

WIDE = ("auroc_by_layer", "category_rates")
"""Figures with the full width."""

SPACES = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"}


@dataclass(frozen=True, slots=True)
class Scale:
    """The range of a table's interval graphics."""

    low: float
    high: float

    def position(self, value: float) -> str:
        """Return the position of ``value``, in percent of the width.

        >>> Scale(0.5, 1.0).position(0.6)
        '20.00%'
        """
        share = (value - self.low) / (self.high - self.low)
        return f"{100 * min(max(share, 0.0), 1.0):.2f}%"


def render(document: Document) -> str:
    """Return the page: one self-contained HTML document that works offline.

    Args:
        document: The content of the report. Texts are untrusted; ``Figure.svg`` is trusted.
    """
    script = "".join(_asset(name) for name in SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = (
        _environment()
        .get_template("report.html.j2")
        .render(
            document=document,
            wide_figures=WIDE,
            results=sorted(document.results, key=lambda row: ORDER.get(row.kind, len(ORDER))),
            result_scale=_auroc_scale(
                row.auroc_low for row in document.results if not row.found_nothing
            ),
            baseline=next((r for r in document.results if r.name == document.best_baseline), None),
            detector_scale=_auroc_scale(
                row.auroc_low
                for row in (document.detectors.results if document.detectors else ())
                if not row.found_nothing
            ),
            category_scale=_auroc_scale(row.auroc_low for row in document.categories),
            share_scale=_share_scale(row.share_high for row in document.categories),
            style="".join(map(_asset, STYLES)) + _variables(PALETTE),
            dark_style=_asset("dark.css") + _variables(DARK_PALETTE),
            script=script,
            script_hash=f"sha256-{digest}",
            data=_data(document),
        )
    )
    return encodable(page)


def _asset(name: str) -> str:
    """Return the text of a template, style sheet or script."""
    return (files("vlmscope.report") / "assets" / name).read_text("utf-8")


@cache
def _environment() -> Environment:
    """Return the environment of the templates, with the filters that format numbers.

    It is the same for every report, so that a process compiles each template once.
    """
    environment = Environment(
        autoescape=True,
        loader=FunctionLoader(_asset),
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {
        "code_spans": _code_spans,
        "count": _count,
        "data_uri": _data_uri,
        "image_uri": _image_uri,
        "digits": _digits,
        "per_cent": _per_cent,
        "signed": _signed,
        "sortable": _sortable,
        "visible": _visible,
    }
    return environment


def _digits(value: float | None, digits: int = 3) -> str:
    """Return a number with a fixed number of digits: an AUROC has three."""
    return UNKNOWN if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _signed(value: float | None) -> str:
    """Return a difference with its sign.

    >>> _signed(-0.0634)
    '−0.063'
    """
    if value is None or not math.isfinite(value):
        return UNKNOWN
    return f"{value:+.3f}".replace("-", "−")


def _per_cent(value: float | None) -> str:
    """Return a share in percent with one decimal."""
    return UNKNOWN if value is None or not math.isfinite(value) else f"{100 * value:.1f}%"


def _sortable(value: float | None) -> str:
    """Return a number for sorting by the page's script; unknown numbers are empty."""
    return "" if value is None or not math.isfinite(value) else repr(float(value))


def _count(value: int) -> str:
    """Return a count with separators of thousands."""
    return f"{value:,}"


def _code_spans(text: str) -> Markup:
    """Return escaped text, with parts in backticks as code.

    >>> _code_spans("No labels: `vlmscope label <run>` makes them")
    Markup('No labels: <code>vlmscope label &lt;run&gt;</code> makes them')
    """
    parts = text.split("`")
    if len(parts) % 2 == 0:  # a backtick without a partner is only a backtick
        parts = [text]
    code = Markup("<code>{}</code>")
    return Markup("").join(code.format(p) if i % 2 else p for i, p in enumerate(parts))


def _data_uri(csv: str) -> str:
    """Return a CSV file as a ``data:`` URI."""
    return "data:text/csv;charset=utf-8," + quote(encodable(csv), safe="")


def _image_uri(source: str | None) -> str:
    """Return the ``data:`` URI of an image in one of the formats of a report, else nothing.

    >>> _image_uri("data:image/png;base64,AA=="), _image_uri("javascript:alert(1)")
    ('data:image/png;base64,AA==', '')
    """
    known = re.fullmatch(r"data:image/(jpeg|png|webp);base64,[A-Za-z0-9+/=]*", source or "")
    return known[0] if known else ""


def _visible(text: str) -> str:
    """Return a token's text with white space and unprintable characters made visible.

    >>> _visible(" a" + chr(10)), _visible(chr(0x202E)), _visible("")
    ('␣a↵', '⟨U+202E⟩', '⟨empty⟩')
    """
    shown = "".join(
        SPACES.get(char) or (char if char.isprintable() else f"⟨U+{ord(char):04X}⟩")
        for char in text
    )
    return shown or "⟨empty⟩"


def _auroc_scale(lows: Iterable[float | None]) -> Scale:
    """Return a scale that ends at 1 and begins low enough for chance and for every interval."""
    known = [low for low in lows if low is not None and math.isfinite(low)]
    return Scale(min([0.4, *(math.floor(10 * low) / 10 for low in known)]), 1.0)


def _share_scale(highs: Iterable[float | None]) -> Scale:
    """Return a scale from 0 to a round number above every interval."""
    known = [high for high in highs if high is not None and math.isfinite(high)]
    return Scale(0.0, min(1.0, max([0.1, *(math.ceil(10 * high) / 10 for high in known)])))


def _variables(palette: Mapping[str, str]) -> str:
    """Return the CSS rule with the colours of the figures."""
    colours = ";".join(f"--plot-{name}:{value}" for name, value in palette.items())
    return f":root{{{colours}}}\n"


def _data(document: Document) -> str:
    """Return the data of the gallery's script: JSON that is safe inside a script element.

    Characters that could end the element or open a comment are escaped, and the two line separators
    that are not white space in JSON.
    """
    texts: dict[str, int] = {}
    data: dict[str, Any] = {
        "cards": [_card(card, texts) for card in document.cards],
        "images": dict(document.images),
    }
    if document.attention.layers:
        data["attention"] = {"layers": document.attention.layers, "of": document.attention.of}
    data["lens"] = {"layers": document.lens.layers, "texts": list(texts)}
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _card(card: Card, texts: dict[str, int]) -> dict[str, Any]:
    """Return a card for the script; numbers that JSON cannot represent are None.

    Args:
        card: The card.
        texts: Text of a token of the logit lens → its number, which replaces it; texts are added.
    """
    fields = asdict(replace(card, lens={}, attention=()))
    fields["attention"] = [_grid(grid) for grid in card.attention]
    if not card.attention:
        del fields["attention"]
    fields["lens"] = {
        position.replace("_", " "): [
            [
                (texts.setdefault(_visible(text), len(texts)), _finite(round(prob, 3)))
                for text, prob in layer
            ]
            for layer in layers
        ]
        for position, layers in card.lens.items()
    }
    fields["risk"] = _finite(card.risk)
    for name in ("answer_tokens", "first_tokens"):
        fields[name] = [(_visible(text), *map(_finite, numbers)) for text, *numbers in fields[name]]
    return fields


def _grid(grid: AttentionGrid) -> dict[str, Any]:
    """Return the attention over an image for the script."""
    numbers = {
        name: [[_finite(value) for value in column] for column in getattr(grid, name)]
        for name in ("peaks", "shares")
    }
    levels = base64.b64encode(grid.levels).decode()
    return {**asdict(replace(grid, levels=b"")), **numbers, "levels": levels}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
