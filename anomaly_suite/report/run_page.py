"""The page of one run: its figures, decisions, plots, gallery and where all of it comes from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from anomaly_suite.report.html import Html, element, facts, joined, page, section, table, text
from anomaly_suite.report.results import Results, Row
from anomaly_suite.report.tables import Metric, definition, metrics_of

MEAN = "mean"
HEADLINE = (
    "image_AUROC",
    "video_AUROC",
    "frame_AUROC",
    "pixel_AUROC",
    "pixel_AP",
    "pixel_AUPRO",
    "pixel_FPR95",
    "mIoU",
    "SIoU",
    "MeanF1",
)
SHOWN = 6  # figures at the head of the page


def run_page(
    found: Results,
    items: list[dict[str, Any]],
    published: Sequence[Mapping[str, Any]],
    sections: Mapping[str, Mapping[str, Any]],
    tests: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
) -> str:
    """The report of a run as one HTML file.

    Args:
        found: What the run left.
        items: Of the gallery.
        published: Figures of this method and data set, each with ``metric``, ``value``, ``source`` and ``condition``.
        sections: The parts of ``metrics.json`` that have metrics, by name; the top level is ``""``.
        tests: The same of the last test on each data set, by its name.
    """
    result = found.result
    unit = str(result.get("data", {}).get("unit", "images"))
    title = f"{result.get('method', 'unknown')} on {result.get('dataset', 'unknown')}"
    definitions = result.get("definitions", {})
    parts = [
        _head(found, title, unit, sections),
        section("metrics", "Metrics", *_metrics(sections.get("", {}), definitions, published)),
        *(_other_section(name, part, definitions) for name, part in sections.items() if name),
        section("data-sets", "All data sets", *_side_by_side(tests or {})),
        section("decisions", "Decisions", *_decisions(found, unit)),
        Html(_PANEL.replace("UNIT", text(unit))) if found.rows else Html(),
        section("plots", "Scores", *_plots(found.rows)),
        section("gallery", "Videos" if found.curves else "Pictures", *_gallery(found, items, unit)),
        section("groups", "By loader, category and kind of defect", element("div", "", id="group-tables"))
        if _groups(found.rows)
        else Html(),
        section("origin", "Where this comes from", *_origin(found)),
        section("configuration", "Configuration", *_configuration(found)),
    ]
    return page(title, parts, script=bool(found.rows), data=_data(found, items, unit))


def _head(found: Results, title: str, unit: str, sections: Mapping[str, Mapping[str, Any]]) -> Html:
    result = found.result
    data = result.get("data", {})
    counts = [f"{count} {kind.replace('_', ' ')}" for kind, count in data.items() if isinstance(count, int)]
    words = [f"{', '.join(counts)} {unit}" if counts else "", f"seed {result.get('seed', 'unknown')}"]
    tiles: dict[str, float] = {}
    for part in sections.values():
        for metric in metrics_of(part):
            if (
                metric.name in HEADLINE
                and not metric.loader
                and metric.category in ("", MEAN)
                and metric.value is not None
            ):
                tiles.setdefault(metric.name, metric.value)
    shown = sorted(tiles.items(), key=lambda item: HEADLINE.index(item[0]))[:SHOWN]
    warning = (
        "Validation was the test set: thresholds and the chosen epoch have seen it."
        if result.get("validation") == "test"
        else None
    )
    return element(
        "header",
        joined(
            [
                element("h1", title),
                element("p", " · ".join(filter(None, words)), class_="sub"),
                element("p", warning, class_="warning", role="alert") if warning else "",
                element(
                    "ul",
                    joined(
                        element("li", joined([element("b", f"{value:.4f}"), " ", element("span", name)]))
                        for name, value in shown
                    ),
                    class_="tiles",
                )
                if shown
                else "",
                *(element("p", sentence, class_="missing") for sentence in found.missing),
            ]
        ),
    )


# Figures -----------------------------------------------------------------------------------------------------------------


def _metrics(
    part: Mapping[str, Any], definitions: Mapping[str, str], published: Sequence[Mapping[str, Any]] = ()
) -> Iterable[Html]:
    metrics = metrics_of(part)
    whole = [metric for metric in metrics if not metric.category and not metric.loader]
    theirs = {figure["metric"]: figure["value"] for figure in published if not {"options", "of"} & figure.keys()}
    beside = any(metric.name in theirs for metric in whole)
    bounds = part.get("error_bound", {})
    if whole:
        rows = []
        for metric in whole:
            bound = bounds.get(metric.name, bounds.get(f"pooled/{metric.name}"))
            value = f"{metric.value:.4f}" if metric.value is not None else f"no value: {metric.reason}"
            value += f" ± {bound:.1g}" if bound and bound >= 5e-5 else ""
            rows.append(
                [
                    metric.name,
                    value,
                    *([theirs.get(metric.name)] if beside else []),
                    definition(metric.name, definitions),
                ]
            )
        yield table(["metric", "value", *(["published"] if beside else []), "what it is"], rows, class_="metrics")
    if published:
        lines = (
            f"{figure['metric']} {figure['value']:.4f} {figure.get('condition', '')}: {figure['source']}"
            for figure in published
        )
        yield element("ul", joined(element("li", f"published {line}") for line in lines), class_="small")
    by_category: dict[str, list[Metric]] = {}
    for metric in metrics:
        if metric.category:
            by_category.setdefault(metric.loader, []).append(metric)
    for loader, some in by_category.items():
        yield _matrix(some, "category", f"By category, loader {loader}" if loader else "By category")
    if by_loader := [metric for metric in metrics if metric.loader and not metric.category]:
        yield _matrix(by_loader, "loader", "By loader")


def _side_by_side(tests: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Iterable[Html]:
    """A column for each data set that the run was tested on, where there are several."""
    if len(tests) > 1:
        values = {name: dict(_plain(test)) for name, test in tests.items()}
        names = list(dict.fromkeys(metric for found in values.values() for metric in found))
        yield table(["metric", *values], ([name, *(found.get(name) for found in values.values())] for name in names))


def _plain(test: Mapping[str, Mapping[str, Any]]) -> Iterable[tuple[str, float | None]]:
    """Figures of all samples together, of all sections."""
    for part in test.values():
        for metric in metrics_of(part):
            if not metric.category and not metric.loader:
                yield metric.name, metric.value


def _matrix(metrics: Sequence[Metric], by: str, caption: str) -> Html:
    """A row for each category or loader, a column for each metric."""
    names = list(dict.fromkeys(metric.name for metric in metrics))
    cells: dict[str, dict[str, Any]] = {}
    for metric in metrics:
        value = metric.value if metric.value is not None else element("abbr", "none", title=metric.reason)
        cells.setdefault(getattr(metric, by), {})[metric.name] = value
    rows = sorted(cells, key=lambda name: (name == MEAN, int(name) if name.isdigit() else 0, name))
    return table([by, *names], ([name, *(cells[name].get(each) for each in names)] for name in rows), caption)


def _other_section(name: str, part: Mapping[str, Any], definitions: Mapping[str, str]) -> Html:
    """A section of another callback: how it was set, its figures, confusion matrices and groups."""
    plain = {
        key: value
        for key, value in part.items()
        if isinstance(value, str | int | float) and not isinstance(value, bool)
    }
    matrices = [(key, value) for key, value in part.items() if _is_matrix(value)]
    names = [key.removeprefix("IoU_") for key in part.get("metrics", {}) if key.startswith("IoU_")]
    content = [facts(plain) if plain else "", *_metrics(part, definitions)]
    for key, matrix in matrices:
        classes = names if len(names) == len(matrix) else list(map(str, range(len(matrix))))
        content.append(_confusion(key.replace("_", " "), classes, matrix))
    if isinstance(groups := part.get("groups"), Mapping) and groups:
        count = max(len(each) for each in groups.values())
        rows = (
            [str(row + 1), *(each[row] if row < len(each) else None for each in groups.values())]
            for row in range(count)
        )
        content.append(table(["group", *groups], rows, "By group"))
    return section(f"section-{name}", name.replace("_", " ").capitalize(), *content)


def _is_matrix(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(row, list) and len(row) == len(value) for row in value)
    )


def _confusion(caption: str, classes: Sequence[str], matrix: Sequence[Sequence[int]]) -> Html:
    """Shares of the pixels of each true class, as numbers and as shades."""
    rows = []
    for name, counts in zip(classes, matrix, strict=True):
        total = sum(counts)
        cells = [
            element(
                "span",
                f"{100 * count / total:.1f}" if total else "",
                class_="shade",
                style=f"--share:{count / total:.3f}" if total else None,
            )
            for count in counts
        ]
        rows.append([name, f"{total:,}", *cells])
    said = f"{caption[:1].upper()}{caption[1:]}: per cent of the pixels of a true class (rows) that are given each class (columns)"
    return table(["true class", "pixels", *classes], rows, said, class_="confusion")


# Decisions ---------------------------------------------------------------------------------------------------------------


def _decisions(found: Results, unit: str) -> Iterable[Html]:
    result = found.result
    records = result.get("calibration") or {}
    lists = []
    for level, record in records.items():
        title = f"Threshold of {'videos' if level == 'image' and unit == 'videos' else level + 's'}"
        lists.append(element("div", joined([element("h3", title), facts(_fitted(level, record))])))
    if lists:
        yield element("div", joined(lists), class_="beside")
    if not records:
        yield element(
            "p",
            "No threshold was calibrated, so the run decided nothing. The slider starts at the best F1 on these very samples, which flatters.",
            class_="warning",
        )
    if found.rows:
        yield Html(_COUNTS)


def _fitted(level: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """What a threshold was fitted on, and what to expect of it."""
    left = dict(record)
    unit = left.pop("unit", f"{level}s")
    values: dict[str, Any] = {"threshold": f"{left.pop('threshold'):.6g}", "rule": left.pop("rule", "unknown")}
    if "normal" in left:
        values["fitted on"] = f"{left.pop('normal')} normal and {left.pop('anomalous', 0)} anomalous {unit}"
    values["validation"] = left.pop("split", None)
    if "expected_fpr" in left:
        values["to expect"] = f"{100 * left.pop('expected_fpr'):.3g} % of normal {unit} called anomalous"
    if {"low", "high"} <= left.keys():
        values["scores there"] = f"{left.pop('low'):.6g} to {left.pop('high'):.6g}"
    return {**values, **left}


_PANEL = """<div id="panel" class="panel" role="group" aria-label="threshold" hidden>
<div class="slide"><label for="slider">Threshold of UNIT</label>
<input type="range" id="slider" min="0" value="0" step="1" aria-describedby="counts">
<input type="number" id="threshold" step="any" aria-label="threshold as a number">
<button type="button" id="reset"></button></div>
<p id="counts" role="status"></p>
</div>"""

_COUNTS = """<p class="small">A score of at least the threshold is called anomalous. The slider below changes decisions on this page alone.</p>
<div class="beside"><div class="wide"><table id="confusion" class="two"><caption>Decisions at this threshold</caption>
<thead><tr><td></td><th scope="col">called anomalous</th><th scope="col">called normal</th></tr></thead>
<tbody><tr><th scope="row">anomalous</th><td><b id="tp"></b> found (TP)</td><td><b id="fn"></b> missed (FN)</td></tr>
<tr><th scope="row">normal</th><td><b id="fp"></b> false alarms (FP)</td><td><b id="tn"></b> left alone (TN)</td></tr></tbody></table></div>
<div class="wide"><table class="two"><caption>Rates</caption><thead><tr><th scope="col">precision</th><th scope="col">recall</th><th scope="col">F1</th></tr></thead>
<tbody><tr><td id="precision"></td><td id="recall"></td><td id="f1"></td></tr></tbody></table></div></div>"""


def _plots(rows: Sequence[Row]) -> Iterable[Html]:
    if rows:
        yield element("div", "", id="filters", class_="controls")
        figures = (element("figure", "", id=f"plot-{name}") for name in ("histogram", "roc", "pr", "timeline"))
        yield element("div", joined(figures), class_="plots")


def _gallery(found: Results, items: Sequence[Mapping[str, Any]], unit: str) -> Iterable[Html]:
    if not items:
        return
    if len(items) < len(found.rows):
        how = (
            "those whose curve the test drew (--curves.limit)"
            if found.curves
            else "every category, kind of defect and decision in turn (--pictures N takes more)"
        )
        yield element(
            "p",
            f"{len(items)} of {len(found.rows)} {unit} are shown, {how}; counts and plots are of all.",
            class_="small",
        )
    if 0 < (mapped := sum("heat" in item for item in items)) < len(items):
        yield element(
            "p",
            f"{mapped} of them have a heat map: the test wrote no more panels (--heatmaps.max_images).",
            class_="small",
        )
    yield element("div", "", id="gallery-controls", class_="controls")
    yield element("ul", "", id="cards", class_="cards")


def _groups(rows: Sequence[Row]) -> bool:
    return any(len({getattr(row, name) for row in rows}) > 1 for name in ("loader", "category", "kind"))


# Origin ------------------------------------------------------------------------------------------------------------------


def _origin(found: Results) -> Iterable[Html]:
    result = found.result
    written = datetime.fromtimestamp((found.folder / "metrics.json").stat().st_mtime, timezone.utc)
    yield facts(
        {
            "method": result.get("method"),
            "data": result.get("dataset"),
            "version of the data": result.get("dataset_version"),
            "validation": result.get("validation"),
            "labelled anomalies": _moved(result.get("labelled_anomalies")),
            "seed": result.get("seed"),
            "checkpoint": result.get("checkpoint"),
            "command": element("code", result.get("command", "")),
            "run folder": found.folder,
            "results written": result.get("date") or f"{written:%Y-%m-%d %H:%M} UTC",
        }
    )
    if versions := result.get("versions"):
        yield table(["package", "version"], versions.items(), "Versions")


def _moved(moved: Mapping[str, Any] | None) -> str | None:
    if not moved:
        return None
    types = ", ".join(f"{kind}: {count}" for kind, count in moved.get("types", {}).items())
    return f"{moved.get('count')} ({types}) {'in training' if moved.get('trained_on') else 'left out of training and of the test'}"


def _configuration(found: Results) -> Iterable[Html]:
    summary = element("summary", "config.yaml")
    content = element("pre", found.config, tabindex="0")
    yield element("details", joined([summary, content]))


def _data(found: Results, items: list[dict[str, Any]], unit: str) -> dict[str, Any]:
    """What the script of the page works on."""
    rows = found.rows
    threshold = (found.result.get("calibration") or {}).get("image", {}).get("threshold")
    data: dict[str, Any] = {
        "unit": unit,
        "threshold": None if threshold is None or math.isnan(threshold) else float(threshold),
        "score": [row.score for row in rows],
        "label": "".join("?" if row.label is None else str(row.label) for row in rows),
        "items": _with_short_names(items),
    }
    for name in ("loader", "category", "kind"):
        values = [str(value) if (value := getattr(row, name)) is not None else "" for row in rows]
        if len(set(values)) > 1:
            known = sorted(set(values))
            places = {value: place for place, value in enumerate(known)}
            data[name] = {"names": known, "of": [places[value] for value in values]}
    return data


def _with_short_names(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The items with names less the folders that all have in common."""
    parts = [Path(item["name"]).parts for item in items]
    common = 0
    while all(len(each) > common + 1 for each in parts) and len({each[common] for each in parts}) == 1:
        common += 1
    return [{**item, "name": "/".join(each[common:])} for item, each in zip(items, parts, strict=True)]
