"""HTML as text: what is escaped, tables, and the frame that every page has."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from anomaly_suite.io.atomic import printable

_FOLDER = Path(__file__).parent / "page"
_FIELD = re.compile(r"\{\{(\w+)\}\}")


class Html(str):
    """Text that is HTML already; any other is escaped."""


def text(value: Any) -> Html:
    """A value as HTML: numbers with four digits, nothing for None, any other text escaped.

    Example:
        >>> text("<a & b>"), text(0.98765), text(None)
        ('&lt;a &amp; b&gt;', '0.9877', '')
    """
    if isinstance(value, Html):
        return value
    if isinstance(value, float):
        return Html(f"{value:.4f}")
    return Html("" if value is None else escape(printable(str(value))))


def element(tag: str, content: Any = "", **attributes: Any) -> Html:
    """An element; attributes of None are left out, ``_`` at the end of a name too.

    Example:
        >>> element("p", "a < b", class_="note", title=None)
        '<p class="note">a &lt; b</p>'
    """
    words = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{text(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    return Html(f"<{tag}{words}>{text(content)}</{tag}>")


def joined(parts: Iterable[Any]) -> Html:
    """HTML of several parts, one after the other."""
    return Html("".join(map(text, parts)))


def table(header: Sequence[Any], rows: Iterable[Sequence[Any]], caption: str = "", **attributes: Any) -> Html:
    """A table that scrolls sideways where it is too wide; the first cell of a row is its head.

    Args:
        header: Names of the columns.
        rows: A cell for each.
        caption: Says what it is.
        attributes: Of the element.
    """
    head = element("tr", joined(element("th", name, scope="col") for name in header))
    body = [
        element("tr", joined([element("th", first, scope="row"), *(_cell(value) for value in others)]))
        for first, *others in rows
    ]
    whole = joined(
        [element("caption", caption) if caption else "", element("thead", head), element("tbody", joined(body))]
    )
    # It can be scrolled by keyboard.
    return element(
        "div",
        element("table", whole, **attributes),
        class_="wide",
        tabindex="0",
        role="region",
        aria_label=caption or None,
    )


def _cell(value: Any) -> Html:
    return element("td", value, class_="number" if isinstance(value, int | float) else None)


def facts(values: Mapping[str, Any]) -> Html:
    """A list of names and values; those of None and empty text are left out."""
    shown = {name: value for name, value in values.items() if value not in (None, "")}
    return element(
        "dl",
        joined(joined([element("dt", name), element("dd", value)]) for name, value in shown.items()),
        class_="facts",
    )


def section(identifier: str, title: str, *parts: Any) -> Html:
    """A section with a heading; nothing where it has no content."""
    content = joined(parts)
    if not content:
        return content
    heading = element("h2", title, id=f"{identifier}-title")
    return element("section", joined([heading, content]), id=identifier, aria_labelledby=f"{identifier}-title")


def page(title: str, body: Iterable[Html], *, script: bool = False, data: Any = None) -> str:
    """A whole file: all that it needs is inside.

    Args:
        title: Of the page.
        body: Its parts.
        script: Whether it has the script of a run's report.
        data: Plain values for that.
    """
    files = {name: (_FOLDER / name).read_text(encoding="utf-8") for name in ("page.html", "style.css")}
    code = "".join((_FOLDER / name).read_text(encoding="utf-8") for name in ("plots.js", "report.js") if script)
    fields = {
        "title": text(title),
        "style": files["style.css"],
        "body": "\n".join(body),
        "data": as_json(data),
        "script": code,
    }
    return _FIELD.sub(lambda found: fields[found[1]], files["page.html"])


def as_json(value: Any) -> str:
    """JSON inside a script element: nothing in it ends the element; infinity is a number too large, NaN is null."""
    return "".join(_json(value)).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _json(value: Any) -> Iterable[str]:
    if isinstance(value, float):
        yield "null" if math.isnan(value) else f"{'-' * (value < 0)}1e999" if math.isinf(value) else f"{value:.9g}"
    elif isinstance(value, Mapping):
        for number, (name, item) in enumerate(value.items()):
            yield f"{',' if number else '{'}{json.dumps(str(name))}:"
            yield from _json(item)
        yield "}" if value else "{}"
    elif isinstance(value, list | tuple):
        yield "["
        for number, item in enumerate(value):
            yield "," if number else ""
            yield from _json(item)
        yield "]"
    else:
        yield json.dumps(printable(value) if isinstance(value, str) else value)
