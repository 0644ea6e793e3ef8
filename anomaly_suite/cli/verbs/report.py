"""``report``: the metrics of a run folder or a benchmark as tables beside the published figures of its configuration, or as one HTML file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from anomaly_suite.cli.samples import Figure, condition, origins, published, sample, sample_names
from anomaly_suite.errors import ConfigError, DatasetError, DatasetNotFoundError, did_you_mean
from anomaly_suite.io.atomic import printable, save_text
from anomaly_suite.io.results import by_data_set
from anomaly_suite.io.runs import find_run, read_record

RESULTS = ("heatmaps", "plots", "curves", "data_sets", "metrics.json", "config.yaml")
OPTIONS = {
    "--html": None,
    "--output": "the name of a file",
    "--pictures": "a number",
    "--data_set": "the name of a data set",
    "--videos": "the folder of the original videos",
}  # and what each needs
FORMER_FILES = ("segmentation", "components")  # a file each before they became sections of metrics.json


USAGE = """usage: anomaly-suite report RUN_OR_GRID [--html [--output FILE] [--pictures N] [--videos FOLDER] [--data_set NAME]]

The metrics of a run that was tested, beside the published figures of its configuration. RUN is the folder that fit wrote, or one that
holds runs, of which the newest is taken. GRID is the folder of a benchmark, whose tables are shown.

  --html             one HTML file instead of a table: metrics, plots, pictures with their heat maps, a threshold to move, and where all of
                     it comes from; it needs neither network nor this package to be opened
  --output FILE      its name; report.html in the run folder without it
  --pictures N       how many pictures or videos it shows (100): of every category, kind of defect and decision alike
  --data_set NAME    of a run that was tested on several data sets, that of which decisions and pictures are shown; the last one without it
  --videos FOLDER    the original videos, or folders of their frames, for runs on features; a few frames of each are shown"""

PICTURES = 100
GRID = "grid.json"  # in the folder of a benchmark


def report(words: list[str]) -> None:
    """Run the verb ``report``.

    Args:
        words: One run folder, and options.

    Raises:
        ConfigError: not one folder, or options that cannot be.
        DatasetNotFoundError: the folder is no run, or has not been tested.
        DatasetError: its results cannot be read.
    """
    if {"-h", "--help"} & set(words):
        print(USAGE)
        return
    options, words = _options(words)
    if len(words) != 1:
        raise ConfigError(f"report needs one run folder; got {' '.join(words) or 'nothing'}.")
    if options and "--html" not in options:
        raise ConfigError(f"{', '.join(options)} goes with a report in HTML, which was not asked for. Add --html.")
    if (Path(words[0]) / GRID).is_file():
        _report_grid(Path(words[0]), options)
        return
    folder = find_run(words[0])
    result, tests = _tests_of(folder)
    if "--html" in options:
        write_html(with_former_files(result, folder), folder, options, tests)
        return
    for test in tests.values():
        print_report(test, folder, figures_of(folder, test.get("dataset", "unknown")))
    if len(tests) > 1:
        print_side_by_side(tests)


def _report_grid(folder: Path, options: dict[str, str]) -> None:
    """Print the tables of a benchmark, or write them as one HTML file."""
    if wrong := {"--data_set", "--pictures", "--videos"} & options.keys():
        raise ConfigError(f"{' and '.join(sorted(wrong))} goes with a run; '{folder}' is a benchmark. Leave it out.")
    if "--html" in options:
        from anomaly_suite.report.grid_page import grid_page

        target = _target(folder, options)
        content = grid_page(folder)
        save_text(target, content)
        print(f"report: {printable(str(target))} ({len(content) / 1e6:.1f} MB)")
        return
    tables = folder / "results.md"
    if not tables.is_file():
        raise DatasetNotFoundError(
            f"no results.md in {folder}, which a benchmark writes when it ends. Run anomaly-suite benchmark on this folder again."
        )
    print(printable(tables.read_text(encoding="utf-8")), end="")


def _target(folder: Path, options: dict[str, str]) -> Path:
    """The file to write."""
    target = Path(options.get("--output", folder / "report.html"))
    if target.is_dir():
        raise ConfigError(f"--output needs the name of a file; {str(target)!r} is a folder. Give a name below it.")
    return target


def _options(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """Options with their values, and the other words."""
    found: dict[str, str] = {}
    paths: list[str] = []
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if not word.startswith("--"):
            paths.append(word)
        elif name not in OPTIONS:
            raise ConfigError(
                f"report has no option {name}; known are {', '.join(OPTIONS)}.{did_you_mean(name, OPTIONS)}"
            )
        elif OPTIONS[name] is None:
            if equals:
                raise ConfigError(f"{name} takes no value; got {value!r}. Leave it out.")
            found[name] = ""
        else:
            value = value if equals else next(rest, "")
            if not value or value.startswith("--"):
                raise ConfigError(f"{name} needs {OPTIONS[name]}; got {value or 'nothing'}. Write it behind.")
            found[name] = value
    return found, paths


def _tests_of(folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Content of ``metrics.json``, and its tests by data set."""
    file = folder / "metrics.json"
    if not file.is_file():
        raise DatasetNotFoundError(f"no metrics.json in {folder}. Run: anomaly-suite test --run {folder}")
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DatasetError(f"'{file}' is cut or damaged ({error}). Run: anomaly-suite test --run {folder}") from error
    if not isinstance(result, dict):
        raise DatasetError(
            f"'{file}' holds no results but {type(result).__name__}. Run: anomaly-suite test --run {folder}"
        )
    identity = read_record(folder).get("id")
    if identity is not None and result.get("run") not in (None, identity):
        raise DatasetNotFoundError(
            f"'{file}' is of a run that was in this folder before. Run: anomaly-suite test --run {folder}"
        )
    tests = by_data_set(file, identity) or {str(result.get("dataset", "unknown")): result}
    return result, {name: test if len(tests) > 1 else with_former_files(test, folder) for name, test in tests.items()}


def write_html(result: dict[str, Any], folder: Path, options: dict[str, str], tests: dict[str, dict[str, Any]]) -> None:
    """Write the report of a run as one HTML file, and say where.

    Args:
        result: Content of ``metrics.json``.
        folder: The run folder.
        options: Of the command line, by name.
        tests: What it says of each data set.

    Raises:
        ConfigError: ``--pictures`` is no number, ``--videos`` no folder, ``--data_set`` none that was tested, or ``--output`` a folder.
        FileWriteError: the file cannot be written.
    """
    from anomaly_suite.report import items_of, read_results, run_page

    count, videos = options.get("--pictures", str(PICTURES)), options.get("--videos")
    target = _target(folder, options)
    if not count.isdecimal():
        raise ConfigError(f"--pictures needs a number from 0 on; got {count!r}. Give how many to show.")
    if videos is not None and not Path(videos).is_dir():
        raise ConfigError(
            f"--videos needs a folder that is there; got {videos!r}. Give the folder of the original videos."
        )
    name = options.get("--data_set")
    if name is not None and name not in tests:
        raise ConfigError(
            f"--data_set needs a data set that the run was tested on; got {name!r}, known are {', '.join(tests) or 'none'}."
            f"{did_you_mean(name, tests)}"
        )
    test = result if name is None else tests[name]
    found = read_results(folder, test, _files_of(folder, test, tests))
    items = items_of(found, int(count), None if videos is None else Path(videos))
    figures = figures_of(folder, test.get("dataset", "unknown"))
    known = [{**figure, "condition": condition(figure)} for figure in figures]
    content = run_page(found, items, known, sections_of(test), {each: sections_of(one) for each, one in tests.items()})
    save_text(target, content)
    for sentence in found.missing:
        print(printable(sentence))
    print(f"report: {printable(str(target))} ({len(items)} pictures, {len(content) / 1e6:.1f} MB)")


def _files_of(folder: Path, test: dict[str, Any], tests: dict[str, Any]) -> Path:
    """Where the tables and pictures of a test lie: for another data set than that of the run below ``data_sets``."""
    last = {key: value for key, value in test.items() if key != "data_sets"}
    places = (folder / "data_sets" / name for name, one in tests.items() if one == last)
    return next((place for place in places if place.is_dir()), folder)


def with_former_files(result: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The result with the sections that older runs have in files of their own.

    Args:
        result: Content of ``metrics.json``.
        folder: The run folder.
    """
    if any(name in result for name in FORMER_FILES):
        return result
    files = {name: folder / f"{name}.json" for name in FORMER_FILES}
    found = {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.is_file()}
    return {**result, **found}


def figures_of(folder: Path, dataset: str) -> list[Figure]:
    """Published figures of the sample configuration that a run was fitted with.

    Args:
        folder: The run folder; the first line of its ``config.yaml`` names the configurations.
        dataset: Class of the data module that was tested. Figures of other data sets are left out.
    """
    names = [name for name in origins(folder / "config.yaml") if name in sample_names()]
    if not names:
        return []
    trained_on = sample(names[-1]).data
    return [figure for figure in published().get(names[-1], ()) if figure.get("data", trained_on) == dataset]


def sections_of(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What one test found, by section: ``""`` for the top level, then each value that has ``metrics`` of its own.

    Args:
        result: Content of ``metrics.json``.
    """
    named = {
        name: part for name, part in result.items() if isinstance(part, dict) and isinstance(part.get("metrics"), dict)
    }
    return {"": result, **named}


def print_report(result: dict[str, Any], folder: Path, figures: list[Figure] | None = None) -> None:
    """Print the metrics of one test as tables, then where its files lie.

    Args:
        result: Content of ``metrics.json``.
        folder: The run folder.
        figures: Published figures of the data set that was tested.
    """
    from rich.console import Console

    console = Console(markup=False)  # a command may say --disable [plots]
    figures = figures or []
    data = ", ".join(f"{count} {kind}" for kind, count in result.get("data", {}).items() if isinstance(count, int))
    title = f"{result['method']} on {result['dataset']}: {data + ', ' if data else ''}seed {result['seed']}"
    console.print(title, style="bold")
    if version := result.get("dataset_version"):  # which list, protocol or subset
        console.print(f"data set: {version}", soft_wrap=True)
    if moved := result.get("labelled_anomalies"):
        types = ", ".join(f"{kind}: {count}" for kind, count in moved["types"].items())
        drawn = f"seed {moved['seed']}" if "seed" in moved else f"list {moved['list']}"
        used = "in training" if moved["trained_on"] else "left out of training and of the test"
        console.print(f"labelled anomalies {used}: {moved['count']} ({types}), {drawn}", soft_wrap=True)
    for name, section in sections_of(result).items():
        if name:
            how = [f"{key} {_text(section[key])}" for key in ("threshold", "chosen") if key in section]
            console.print(f"{name}{': ' if how else ''}{', '.join(how)}", style="bold")
        _print_metrics(console, section, figures)
    for figure in figures:
        line = " ".join(["published", figure["metric"], f"{figure['value']:.4f}", condition(figure)]).rstrip()
        console.print(f"{line}: {figure['source']}", soft_wrap=True)
    if result["validation"] == "test":
        console.print("Validation was the test set: thresholds and the chosen epoch have seen it.", style="bold red")
    console.print(f"command: {printable(result['command'])}", soft_wrap=True)
    console.print(f"files:   {printable(str(folder))}", soft_wrap=True)
    for item in sorted(folder.iterdir()):
        former = item.stem in FORMER_FILES and item.suffix == ".json"
        if item.name in RESULTS or former or item.suffix in (".csv", ".parquet"):
            console.print(f"         {printable(item.name)}{'/' if item.is_dir() else ''}")


def print_side_by_side(tests: dict[str, dict[str, Any]]) -> None:
    """Print one table of all tests of a run: a line for each metric, a column for each data set.

    Args:
        tests: What each test found, by the name of its data set.
    """
    from rich.console import Console
    from rich.table import Table

    values = {
        name: {key: value for part in sections_of(test).values() for key, value in part.get("metrics", {}).items()}
        for name, test in tests.items()
    }
    names = list(dict.fromkeys(key for found in values.values() for key in found if "/" not in key))
    table = Table("metric", *values, box=None, padding=(0, 2, 0, 0))
    for key in names:
        table.add_row(key, *(f"{found[key]:.4f}" if key in found else "" for found in values.values()))
    console = Console(markup=False)
    console.print(f"{len(tests)} data sets", style="bold")
    console.print(table)


def _print_metrics(console: Any, section: dict[str, Any], figures: list[Figure]) -> None:
    """One table: name, value and, where there is one, the figure published for this method and these options."""
    from rich.table import Table

    theirs = {figure["metric"]: figure["value"] for figure in figures if not {"options", "of"} & figure.keys()}
    values, undefined = section.get("metrics", {}), section.get("undefined", {})
    beside = any(name in theirs for name in (*values, *undefined))
    table = Table("metric", "value", *(["published"] if beside else []), box=None, padding=(0, 2, 0, 0))
    for name, text in [
        *((name, f"{value:.4f}") for name, value in values.items()),
        *((name, f"undefined: {reason}") for name, reason in undefined.items()),
    ]:
        table.add_row(name, text, f"{theirs[name]:.4f}" if name in theirs else "")
    if table.row_count:
        console.print(table)


def _text(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
