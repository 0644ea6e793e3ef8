"""Every code block of the documentation: Python runs where it says so and fits the code elsewhere; commands and configurations parse.

A line ``<!-- run -->`` above a Python block runs it, the blocks of a page in one process; ``<!-- run file: NAME.py -->`` writes it first, and the
commands of the page find it. Pages of other files are made from the code (``docs/generate.py``).
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml
from torchvision.io import write_png

import anomaly_suite.callbacks
import anomaly_suite.data
import anomaly_suite.methods
from anomaly_suite.benchmark.grid import read_grid
from anomaly_suite.cli import lightning
from anomaly_suite.cli.catalog import KINDS, catalog
from anomaly_suite.cli.help import FUNCTIONS, help_for
from anomaly_suite.cli.main import VERBS, main
from anomaly_suite.cli.samples import find_config, find_configs, sample_names, samples_folder, stack_of
from anomaly_suite.cli.signatures import signature
from anomaly_suite.cli.stages import has_stages, split_stages
from anomaly_suite.cli.verbs import benchmark, report
from anomaly_suite.cli.verbs.benchmark import find_grid
from anomaly_suite.cli.verbs.list import list_names
from anomaly_suite.cli.verbs.predict import split_inputs
from anomaly_suite.cli.verbs.run import taken
from anomaly_suite.io.runs import find_run
from anomaly_suite.methods import PaDiM

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "sample_configs" / "README.md"),
    *sorted(DOCS.glob("*.md")),
    *sorted((DOCS / "howto").glob("*.md")),
]
QUICK = {"callbacks", "metrics", "few_shot"}
"""Pages whose blocks ``make test`` runs and parses; ``make test-all`` does all."""
BLOCK = re.compile(r"(?:^<!-- (run[^>]*?) -->\n)?^```(\w*)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
OWN = "seed_everything: 0\nmodel: {class_path: SupervisedHead}\ndata: {class_path: DATA}\ntrainer: {max_epochs: 1}\n"
"""What stands for a user's own configuration, such as ``run.yaml``."""
DATA = {"folder.yaml": "SceneFolder", "segmenter.yaml": "SyntheticStreets"}
"""Whose data is not that of digits."""
PARTS = {"model", "data", "trainer", "seed_everything", "checkpoint", "disable", *lightning.LAYER}
SUBCOMMANDS = {"train": "fit", "calibrate": "validate"}


class Block(NamedTuple):
    """A code block: what the line above says, its language and its text."""

    mark: str
    language: str
    text: str


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).with_suffix("").as_posix().removeprefix("docs/")


def blocks(page: Path, *languages: str) -> list[Block]:
    found = [Block(mark, language, text) for mark, language, text in BLOCK.findall(page.read_text(encoding="utf-8"))]
    return [block for block in found if block.language in languages]


def commands(page: Path) -> Iterator[list[str]]:
    """Words after ``anomaly-suite`` of every command; a line with ``[options]`` shows how a command is formed, and is none."""
    for block in blocks(page, "", "bash", "sh", "text"):
        for line in re.sub(r"\\\n\s*", " ", block.text).splitlines():
            if (found := re.match(r"(?:srun |\w+=\S+ )?anomaly-suite (.*)$", line)) and " [" not in found[1]:
                words = shlex.split(found[1], comments=True)  # a variable alone stands for further options
                yield [
                    re.sub(r"\$\w+", "0", word)
                    for word, before in zip(words, ["", *words], strict=False)
                    if before.startswith("--") or not re.fullmatch(r"\$[A-Z]", word)
                ]


def scripts(page: Path) -> list[tuple[Path, list[str]]]:
    """Every ``python benchmarks/NAME.py`` of a page, in blocks and in sentences: the file and the words after it."""
    text = re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8")).replace("<Name>", "PaDiM")
    text = re.sub(r"<[^>\n]+>", "0", text)
    found = re.findall(r"python (benchmarks/\w+\.py)([^`\n]*)", text)
    return [(ROOT / file, shlex.split(words, comments=True)) for file, words in found]


def page_params(pages: list[Path]) -> list:
    """Pages as parameters; those that take long are left to ``make test-all``."""
    marks = {True: (), False: (pytest.mark.matrix,)}
    return [pytest.param(page, id=name_of(page), marks=marks[name_of(page) in QUICK]) for page in pages]


with_python = [page for page in PAGES if blocks(page, "python")]
running = [page for page in PAGES if any(block.mark for block in blocks(page, "python"))]
with_commands = [page for page in PAGES if any(commands(page))]
with_scripts = [page for page in (*PAGES, ROOT / "benchmarks" / "README.md") if scripts(page)]
with_yaml = [page for page in PAGES if blocks(page, "yaml")]


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder to work in, with the files that pages show."""
    for page in running:
        for block in blocks(page, "python"):
            if file := re.match(r"run file: (\S+)", block.mark):
                (tmp_path / file[1]).write_text(block.text, encoding="utf-8")
                monkeypatch.delitem(sys.modules, Path(file[1]).stem, raising=False)
    for file in {
        word for page in with_commands for words in commands(page) for word in words if word.endswith(".yaml")
    }:
        if "/" not in file and file not in sample_names():
            (tmp_path / file).write_text(OWN.replace("DATA", DATA.get(file, "Digits")), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def parser():
    """The parser of the command line, built once."""

    class BuiltError(Exception):
        """Carries it out before anything is run."""

    def stop(cli, parser, args):
        raise BuiltError(parser)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lightning.SuiteCLI, "parse_arguments", stop)
        patch.syspath_prepend(ROOT)
        with pytest.raises(BuiltError) as built:
            lightning.run_lightning("fit", [])
    return built.value.args[0]


# Python -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", with_python, ids=name_of)
def test_python_fits_the_code(page):
    """Names that are imported exist, and keywords of their calls, too."""
    for block in blocks(page, "python"):
        known: dict[str, object] = {"anomaly_suite": anomaly_suite}
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("anomaly_suite"):
                module = importlib.import_module(str(node.module))
                known |= {alias.asname or alias.name: getattr(module, alias.name) for alias in node.names}
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in known:
                keywords = {each.arg for each in node.keywords if each.arg}
                assert keywords <= set(inspect.signature(known[node.func.id]).parameters), ast.unparse(node)


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """What the commands of the quickstart leave, in a shorter training, and two new pictures."""
    folder = tmp_path_factory.mktemp("quickstart")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for verb, *words in commands(DOCS / "quickstart.md"):
            main([verb, *words, *(["--trainer.max_epochs", "2"] if verb == "fit" else [])])
    (folder / "new").mkdir()
    for number in range(2):
        write_png(torch.full((1, 8, 8), 40 * number, dtype=torch.uint8), str(folder / "new" / f"{number}.png"))
    return folder


@pytest.mark.matrix
def test_the_commands_of_the_quickstart_run(quickstart):
    run = find_run(str(quickstart / "runs" / "quickstart"))
    assert '"image_AUROC": 0.' in (run / "metrics.json").read_text(encoding="utf-8")
    assert (run / "test_scores.csv").is_file()
    assert list((run / "heatmaps").rglob("*.png"))
    assert (run / "predict_scores.csv").is_file()


@pytest.mark.parametrize("page", page_params(running))
def test_marked_python_runs(page, desk, request, monkeypatch):
    if page.stem == "new_pictures":  # needs a run
        monkeypatch.chdir(request.getfixturevalue("quickstart"))
    names: dict[str, object] = {"__name__": "docs"}
    for number, block in enumerate(blocks(page, "python")):
        if block.mark:
            exec(compile(block.text, f"{page.name}, Python block {number}", "exec"), names)
    assert names.keys() - {"__name__", "__builtins__"}


# Commands ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", with_commands, ids=name_of)
def test_verbs_are_known(page):
    assert {words[0] for words in commands(page)} <= {*VERBS, "--version", "--help"}


@pytest.mark.parametrize("page", page_params(with_commands))
def test_commands_parse(page, parser, desk, capsys):
    for verb, *words in commands(page):
        if "--help" in words:
            assert "all" in words or help_for(verb, words)
        elif verb in ("fit", "train"):
            stages = split_stages("fit", words) if has_stages(words) else []
            for stage in [stage.words for stage in stages] or [words]:
                parse(parser, "fit", find_configs(stage))
        elif verb in ("validate", "test", "predict", "calibrate"):
            options, _ = split_inputs([word for word in words if word != "--undo"])
            for option in ("--output", "--on_error"):
                _, options = taken(options, option, needs="")
            run, options = taken(options, "--run", needs="")
            config = of_run(run) if run else []
            parse(parser, SUBCOMMANDS.get(verb, verb), [*config, *find_configs(options)])
        elif verb in FUNCTIONS:
            path, _, plain = FUNCTIONS[verb]
            given = {word.removeprefix("--").partition("=")[0] for word in words if word.startswith("--")}
            known = signature(path).options
            assert given <= {option.name for option in known}
            assert {option.name for option in known if option.default is None} <= given | set(plain)
        elif verb in ("benchmark", "compare"):
            options = importlib.import_module(f"anomaly_suite.cli.verbs.{verb}")._parser().parse_args(words)
            if verb == "benchmark" and "/" in options.config:
                assert find_grid(options.config).is_file()
        elif verb == "report":
            assert report._options(words)[1]
        elif verb == "list" and words[0] in (*KINDS, "configs"):
            list_names(words)
            assert capsys.readouterr().out


@pytest.mark.parametrize("page", with_scripts, ids=name_of)
def test_lines_of_benchmarks_parse(page, monkeypatch):
    """With options that the script has, though nothing is measured."""

    class ParsedError(Exception):
        """Before anything is run."""

    def stop(parser, args=None, namespace=None):
        parse_args(parser, args, namespace)
        raise ParsedError

    parse_args = argparse.ArgumentParser.parse_args
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    for file, words in scripts(page):
        pytest.importorskip("anomalib") if file.stem == "anomalib_models" else None
        monkeypatch.setattr(sys, "argv", [str(file), *words])
        with pytest.raises(ParsedError):
            runpy.run_path(str(file), run_name="__main__")


def parse(parser, subcommand, words):
    words = [word for word in words if word != "--print_config"]
    config = parser.parse_args([subcommand, *words])[subcommand]
    assert config.model.class_path
    assert config.data.class_path


def of_run(run):
    """Words for the sample configuration that a run folder is named after, and what it is stacked on."""
    name = next((name for name in sample_names() if Path(name).stem == Path(run).name), "quickstart.yaml")
    stack = stack_of(samples_folder() / name) or (name,)
    return [word for part in stack for word in ("--config", str(samples_folder() / part))]


@pytest.mark.parametrize("page", page_params(with_yaml))
def test_configurations_parse(page, parser, desk, monkeypatch):
    for number, block in enumerate(blocks(page, "yaml")):
        content = yaml.safe_load(block.text)
        assert isinstance(content, dict)
        file = desk / f"block_{number}.yaml"
        file.write_text(block.text, encoding="utf-8")
        if "methods" in content:
            monkeypatch.setenv("MVTEC", str(desk))
            assert read_grid(file, partial(benchmark._read_config, beside=desk)).cells
        if "methods" in content or not content.keys() & PARTS:
            continue  # of another kind
        other = [
            word
            for part, name in (("model", "PaDiM"), ("data", "Digits"))
            if part not in content
            for word in (f"--{part}", name)
        ]
        parse(parser, "fit", ["--config", find_config(str(file)), *other])


# Generated -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def generate():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS)
        yield importlib.import_module("generate")
        sys.modules.pop("generate")


def test_a_page_for_every_method_and_data_set(generate, tmp_path):
    generate.write_pages(tmp_path / "generated")
    written = {file.relative_to(tmp_path / "generated").as_posix() for file in (tmp_path / "generated").rglob("*.md")}
    for kind in ("methods", "data"):
        assert {f"{kind}/{entry.name}.md" for entry in catalog(kind)} <= written
    text = (tmp_path / "generated" / "methods" / "PaDiM.md").read_text(encoding="utf-8")
    for part in (
        "Defard et al.",
        "| year | 2021 |",
        "one_class/padim_mvtec.yaml",
        "| published | image AUROC | 0.9050 |",
        "| ours | image AUROC | 0.9548 |",
    ):
        assert part in text
    assert "```yaml\n# PaDiM on one MVTec AD category." in text
    assert ".. autoclass:: anomaly_suite.methods.PaDiM" in text
    pictures = {
        re.search(r"!\[[^]]+\]\(\.\./\.\./images/(\S+)\)", file.read_text(encoding="utf-8"))[1]
        for file in (tmp_path / "generated" / "methods").glob("[A-Z]*.md")
    }
    assert {"padim_synthetic.jpg", "memae_digits.png", "family_weak_video.svg", "family_pixel_ood.svg"} <= pictures
    assert all((DOCS / "images" / name).is_file() for name in pictures)
    commands_page = (tmp_path / "generated" / "command_line.md").read_text(encoding="utf-8")
    assert all(f"\n## {verb}\n" in commands_page for verb in ("fit", "test", "predict", "export", "extract-features"))
    api = (tmp_path / "generated" / "api" / "callbacks.md").read_text(encoding="utf-8")
    assert all(f".. autoclass:: anomaly_suite.callbacks.{name}" in api for name in anomaly_suite.callbacks.__all__)


def test_measured_figures_are_cells_of_the_results(generate):
    rows = generate.measured()
    for method, row in rows.items():
        assert method in anomaly_suite.methods.__all__
        assert row["data"] in anomaly_suite.data.__all__
        assert re.fullmatch(r"[01]\.\d{3,4}( ± 0\.\d{3,4})?", row["value"]), method
    assert rows["PaDiM"]["value"] == "0.9548"
    text = "| | a | b |\n|---|---|---|\n| x | 0.1 | 0.2 |\n\n| two | a |\n|---|---|\n| x (y) | 0.3 (of 4) |\n"
    assert generate._cell(text, {"row": "x", "column": "b", "section": ""}) == "0.2"
    assert generate._cell(text, {"row": "x", "column": "a", "section": "", "table": 1}) == "0.3"
    assert generate._cell(text, {"row": "x", "column": "a", "section": "", "table": "two"}) == "0.3"
    with pytest.raises(KeyError, match=r"no row 'z' with 'a' in 'S'"):
        generate._cell(text, {"row": "z", "column": "a", "section": "S"})


def test_the_table_of_the_readme_is_that_of_the_code(generate):
    readme = ROOT / "README.md"
    assert readme.read_text(encoding="utf-8") == generate.update_readme(readme), (
        "run: python docs/generate.py README.md"
    )


@pytest.mark.matrix
@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("myst_nb")
    pytest.importorskip("furo")
    pytest.importorskip("latex2mathml")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", str(DOCS), str(tmp_path / "site")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr[-3000:]
    page = (tmp_path / "site" / "generated" / "methods" / "PaDiM.html").read_text(encoding="utf-8")
    for name in inspect.signature(PaDiM).parameters:
        assert name in page
    assert "<mfrac>" in (tmp_path / "site" / "metrics.html").read_text(encoding="utf-8")
    assert "http" not in re.findall(r'<script[^>]*src="([^"]*)', page)
