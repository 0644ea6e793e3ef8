"""Pages of the site that are made from the code: one a method, one a data set, the command line, the API; and the README's table.

``python docs/generate.py README.md`` writes the table anew; the pages are written by ``conf.py`` at every build. Nothing here is kept by hand
but ``measured.yaml``, which says where in ``results.md`` our figures stand.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from anomaly_suite.cli import help as helps
from anomaly_suite.cli.cards import Card, cards
from anomaly_suite.cli.catalog import Entry, catalog
from anomaly_suite.cli.main import VERBS
from anomaly_suite.cli.samples import Figure, Sample, condition, sample, sample_names, samples_folder

DOCS = Path(__file__).parent
ROOT = DOCS.parent
PACKAGE = ROOT / "anomaly_suite"
MARK = "<!-- methods -->"
SECTIONS = re.compile(r"^([A-Z][\w ]+):\s", re.MULTILINE)
API = {
    "contract": "What flows between data, methods and callbacks, and the base classes of both.",
    "callbacks": "What is done with the outputs of a method.",
    "metrics": "Functions of tensors, and torchmetrics classes.",
    "augment": "Changed images, which training calls anomalous.",
    "adapters": "Models of other packages as methods.",
    "testing": "Contract tests for methods and data modules of your own.",
    "errors": "What is raised where a user can be wrong.",
}


def write_pages(folder: Path) -> None:
    """Write all generated pages.

    Args:
        folder: Is emptied first.
    """
    shutil.rmtree(folder, ignore_errors=True)
    samples = [sample(name) for name in sample_names()]
    pages = {f"methods/{card.name}.md": method_page(card, entry, samples) for card, entry in _methods()}
    pages |= {f"data/{entry.name}.md": data_page(entry, samples) for entry in catalog("data")}
    pages["methods/index.md"] = index_page("Methods", ([card.name for card, _ in _methods()]), methods_by_family())
    pages["data/index.md"] = index_page("Data sets", [entry.name for entry in catalog("data")], data_table())
    pages["command_line.md"] = command_line_page()
    pages |= {f"api/{part}.md": api_page(part, text) for part, text in API.items()}
    pages["callback_table.md"] = table(("callback", "what it does"), _callbacks())
    listed = set((DOCS / "index.md").read_text(encoding="utf-8").splitlines())
    more = sorted({file.stem for file in DOCS.glob("*.md")} - listed - {"index"})
    toctree = "\n".join(f"../{name}" for name in more)  # those that the index does not name, architecture among them
    pages["more.md"] = f"# Further pages\n\n```{{toctree}}\n:maxdepth: 1\n\n{toctree}\n```\n"
    for name, text in pages.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".*"))


def method_page(card: Card, entry: Entry, samples: list[Sample]) -> str:
    """Docstring, card, configurations and figures of one method."""
    own = [each for each in samples if each.method == card.name]
    facts = [("family", f"`{card.family}`"), ("task", card.task), ("paper", card.citation), ("year", card.year)]
    facts += [("file", f"`{_file(entry).relative_to(ROOT)}`")]
    parts = [f"# {card.name}", entry.summary, table(("", ""), facts), _figure(entry), _module_text(entry), "## Results"]
    parts += [table(("", "metric", "value", "of"), list(_figures(card, own))) or "No figure is published or measured."]
    parts += [
        "## Configurations",
        *_configurations(own, measured().get(card.name)),
        "## Options",
        _class(f"anomaly_suite.methods.{card.name}"),
    ]
    return "\n\n".join(parts) + "\n"


def data_page(entry: Entry, samples: list[Sample]) -> str:
    """Docstring, options and configurations of one data set."""
    own = [each for each in samples if each.data == entry.name]
    kind = {"images": "still images", "videos": "snippet features of videos", "scenes": "driving scenes"}[entry.family]
    facts = [("modality", kind), ("file", f"`{_file(entry).relative_to(ROOT)}`")]
    parts = [f"# {entry.name}", entry.summary, table(("", ""), facts), _module_text(entry)]
    parts += [_class(f"anomaly_suite.data.{entry.name}"), "## Configurations", *_configurations(own)]
    return "\n\n".join(parts) + "\n"


def index_page(title: str, names: Iterable[str], text: str) -> str:
    """A page with a table and the pages below it."""
    return f"# {title}\n\n{text}\n\n```{{toctree}}\n:hidden:\n\n" + "\n".join(names) + "\n```\n"


def methods_by_family() -> str:
    """A table of methods for each family, below what the family knows in training."""
    parts = []
    for family in sorted({card.family for card, _ in _methods()}):
        said = ast.get_docstring(ast.parse((PACKAGE / "methods" / family / "__init__.py").read_text(encoding="utf-8")))
        rows = [
            (f"[{card.name}]({card.name}.md)", entry.summary, card.paper)
            for card, entry in _methods()
            if card.family == family
        ]
        parts += [f"## {family}", str(said), table(("method", "what it is", "paper"), rows)]
    return "\n\n".join(parts)


def data_table() -> str:
    """All data sets."""
    rows = [(f"[{entry.name}]({entry.name}.md)", entry.family, entry.summary) for entry in catalog("data")]
    return table(("data module", "modality", "what it is"), rows)


def command_line_page() -> str:
    """What ``--help`` prints, of the program and of every verb."""
    os.environ["COLUMNS"] = "110"
    parts = ["# Command line", _text(helps.HELP)]
    for verb in VERBS:
        if verb in (*helps.VERBS, *helps.FUNCTIONS):
            parts += [f"## {verb}", _text(str(helps.help_for(verb, ["--help"])))]
    return "\n\n".join(parts) + "\n"


def api_page(part: str, text: str) -> str:
    """The public names of a subpackage."""
    file = PACKAGE / part / "__init__.py"
    names = _public(file) if file.is_file() else _classes(file.parent.with_suffix(".py"))
    module = f"anomaly_suite.{part}"
    return "\n\n".join([f"# anomaly_suite.{part}", text, *(_auto(module, name) for name in names)]) + "\n"


def readme_table() -> str:
    """Methods by task: paper, year, and its figure beside ours."""
    samples = [sample(name) for name in sample_names()]
    rows = []
    for card, _ in _methods():
        own = [each for each in samples if each.method == card.name]
        known = measured().get(card.name)
        ours = f"{_words(known['metric'])} {known['value']}, {known['of']}" if known else ""
        theirs = next(iter(_headline(own, known)), None)
        data = sorted({each.data for each in own})
        shown = ", ".join(data[:3]) + (f" and {len(data) - 3} more" if len(data) > 3 else "")
        rows.append((card.task, f"`{card.name}`", card.family, card.paper, shown, ours, theirs or ""))
    rows.sort(key=lambda row: row[0])
    return table(("task", "method", "family", "paper", "configurations for", "ours", "the paper's"), rows)


def update_readme(file: Path) -> str:
    """The README with a new table between its two marks."""
    before, _, rest = file.read_text(encoding="utf-8").partition(MARK)
    after = rest.partition(MARK)[2]
    return f"{before}{MARK}\n{readme_table()}\n{MARK}{after}"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table; nothing without rows."""
    lines = [head, ("---",) * len(head), *rows] if rows else []
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


# Parts ---------------------------------------------------------------------------------------------------------------------


def _methods() -> list[tuple[Card, Entry]]:
    return list(zip(cards(), catalog("methods"), strict=True))


def _callbacks() -> list[tuple[str, ...]]:
    return [
        (f"[{each.name}](generated/api/callbacks.md)", each.summary.replace(":meth:", ""))
        for each in catalog("callbacks")
    ]


@lru_cache
def measured() -> dict[str, dict[str, str]]:
    """Our figures by method: what ``measured.yaml`` says, with the ``value`` that stands in ``results.md``.

    Raises:
        KeyError: there is no such section or cell.
    """
    parts = re.split(r"^#{2,3} (.*)$", (DOCS / "results.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    rows = yaml.safe_load((DOCS / "measured.yaml").read_text(encoding="utf-8"))
    return {method: {**row, "value": _cell(sections[row["section"]], row)} for method, row in rows.items()}


def _cell(section: str, wanted: dict[str, Any]) -> str:
    """A cell of the tables of a section; a row of exactly that label goes before one that begins with it."""
    found = []
    for lines in re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE):
        head, _, *rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in lines.splitlines()]
        if wanted["column"] in head and wanted.get("table", head[0]) in (head[0], *range(99)):
            place = head.index(wanted["column"])
            labelled = [(row[0].strip("`"), row[place]) for row in rows if row[place]]
            exact = [value for label, value in labelled if label == wanted["row"]]
            found += exact or [value for label, value in labelled if label.startswith(wanted["row"])]
    place = wanted.get("table", 0)
    if len(found) <= (place if isinstance(place, int) else 0):
        raise KeyError(f"results.md has no row {wanted['row']!r} with {wanted['column']!r} in {wanted['section']!r}.")
    return found[place if isinstance(place, int) else 0].partition(" (")[0]


def _headline(own: list[Sample], known: dict[str, str] | None) -> Iterator[str]:
    """Published figures of the configurations of a method: that on the data and metric that ours is of, if there is one."""
    figures = [
        (each, figure) for each in own for figure in each.published if figure.get("of", each.method) == each.method
    ]
    if known is not None:
        figures.sort(
            key=lambda pair: (
                pair[1].get("data", pair[0].data) != known["data"],
                pair[1]["metric"] != known["metric"],
            )
        )
    for each, figure in figures:
        yield f"{_words(figure['metric'])} {figure['value']}, {figure.get('data', each.data)} ({figure['source'].partition(';')[0]})"


def _figures(card: Card, own: list[Sample]) -> Iterator[tuple[str, ...]]:
    known = measured().get(card.name)
    if known:
        anchor = re.sub(r"[^\w\- ]", "", known["section"].lower()).replace(" ", "-")
        yield (
            "ours",
            _words(known["metric"]),
            known["value"],
            f"{known['of']} ([results](../../results.md#{anchor}))",
        )
    for each in own:
        for figure in each.published:
            yield "published", _words(figure["metric"]), f"{figure['value']:.4f}", _of(each, figure)


def _of(each: Sample, figure: Figure) -> str:
    return " ".join(filter(None, [f"`{each.name}`", condition(figure), f"({figure['source']})"]))


def _words(metric: str) -> str:
    return metric.replace("_", " ")


def _configurations(own: list[Sample], known: dict[str, str] | None = None) -> Iterator[str]:
    if not own:
        yield "There is no sample configuration."
        return
    data = known["data"] if known else ""
    first = min(own, key=lambda each: (len(each.stack), not each.published, each.data != data, each.name))
    yield f"`anomaly-suite fit --config {first.name}`:"
    yield f"```yaml\n{(samples_folder() / first.name).read_text(encoding='utf-8')}```"
    rows = [(f"`{each.name}`", each.method, each.data, each.device) for each in own]
    yield table(("configuration", "method", "data", "device"), rows)


def _figure(entry: Entry) -> str:
    """What the method makes, where a picture begins with its file's name; else how its family works."""
    own = sorted(file for file in (DOCS / "images").glob(f"{_file(entry).stem}_*") if file.suffix in (".png", ".jpg"))
    if own:
        return f"![{entry.name}: {own[0].stem.replace('_', ' ')}](../../images/{own[0].name})"
    name = f"family_{entry.family}.svg"
    said = re.search("<title>(.*?)</title>", (DOCS / "images" / name).read_text(encoding="utf-8"))
    return f"![{said[1] if said else entry.family}](../../images/{name})"


def _file(entry: Entry) -> Path:
    return ROOT.joinpath(*entry.path.split(".")[:-1]).with_suffix(".py")


def _module_text(entry: Entry) -> str:
    """The docstring of a file, its sections as paragraphs; the paper stands in the table."""
    said = ast.get_docstring(ast.parse(_file(entry).read_text(encoding="utf-8"))) or ""
    shown, *paragraphs = _escaped(said).split("\n\n")
    for paragraph in paragraphs:
        before, *rest = SECTIONS.split(paragraph)
        shown += f"\n\n{before}" if before.strip() else ""
        for name, text in zip(rest[::2], rest[1::2], strict=True):
            if name not in ("Paper", "Papers"):  # in the table
                shown += f"\n\n**{name}.** {' '.join(text.split())}"
    return _rst(shown)


def _escaped(text: str) -> str:
    """Strokes and stars outside of literals as themselves."""
    parts = text.split("``")
    return "``".join(re.sub(r"([|*])", r"\\\1", part) if number % 2 == 0 else part for number, part in enumerate(parts))


def _public(file: Path) -> list[str]:
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def _classes(file: Path) -> list[str]:
    return [node.name for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)]


def _auto(module: str, name: str) -> str:
    if name.isupper() and module.endswith(("contract", "augment")):
        return _rst(f".. autodata:: {module}.{name}")
    import importlib

    kind = getattr(importlib.import_module(module), name)
    if isinstance(kind, type):
        return _class(f"{module}.{name}")
    return _rst(
        f".. {'autofunction' if callable(kind) and hasattr(kind, '__code__') else 'autodata'}:: {module}.{name}"
    )


def _class(path: str) -> str:
    return _rst(f".. autoclass:: {path}")


def _rst(text: str) -> str:
    return f"```{{eval-rst}}\n{text}\n```"


def _text(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```"


if __name__ == "__main__":
    readme = Path(sys.argv[1])
    readme.write_text(update_readme(readme), encoding="utf-8")
