"""Every method in every way out of a training: three formats of files, both exporters of ONNX, compiled, and every logger.

    python benchmarks/deployment.py --results cells.jsonl                                # run what is not in the file yet
    python benchmarks/deployment.py --results cells.jsonl loggers.jsonl --write docs/limitations.md

A cell runs the tiny configuration of a method (``tests/configs``) as the tests of this do: the file is written, read by its runtime, and gives what
the method gives within 1e-4 of the scale at batches of 1, 3 and 7; the compiled module is fitted and predicts what the plain one predicts.
A line of the results is a cell: ``method``, ``what``, ``ok``, ``reason``. Cells of loggers come from runs through the command line.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "contract"))

import pytest
import test_compile
import tiny_runs
import torch

TESTS = Path(__file__).resolve().parents[1] / "tests"
_SPEC = importlib.util.spec_from_file_location(
    "deployed", TESTS / "deploy" / "test_export.py"
)  # one of several of the name
test_export = importlib.util.module_from_spec(_SPEC)  # type: ignore[arg-type] # the file is there
_SPEC.loader.exec_module(test_export)  # type: ignore[union-attr]

MARKS = ("<!-- deployment -->\n", "<!-- end of deployment -->\n")
WAYS = ("onnx", "onnx_capture", "torch_export", "torchscript", "compile")
LOGGERS = ("csv", "tensorboard", "wandb", "mlflow")
TITLES = {
    "onnx_capture": "onnx, captured",
    "torch_export": "torch.export",
    "torchscript": "TorchScript",
    "compile": "torch.compile",
}
TITLES |= {"csv": "CSV", "tensorboard": "TensorBoard", "wandb": "W&B, offline", "mlflow": "MLflow, local"}


def run(name: str, what: str) -> None:
    """Run one cell; whatever is wrong is raised."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        if what == "compile":
            test_compile.test_scores_of_a_compiled_module_are_equal(name, Path(folder))
        elif what == "onnx_capture":
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(test_export, "export", partial(test_export.export, exporter="capture"))
                test_export.test_a_file_gives_what_the_method_gives(name, "onnx", Path(folder))
        else:
            test_export.test_a_file_gives_what_the_method_gives(name, what, Path(folder))


def read(files: Iterable[Path]) -> dict[tuple[str, str], dict[str, Any]]:
    """Cells by method and way; a later line counts."""
    lines = [line for file in files if file.is_file() for line in file.read_text(encoding="utf-8").splitlines()]
    cells = [json.loads(line) for line in lines if line.strip()]
    return {(cell["method"], cell["what"]): cell for cell in cells}


def fill(file: Path, only: list[str]) -> None:
    """Run the cells that are not in the file, and add them."""
    known = read([file])
    for name in only or sorted(tiny_runs.METHODS):
        for what in WAYS:
            if (name, what) in known:
                continue
            began, reason = time.perf_counter(), ""
            try:
                run(name, what)
            except Exception as error:  # whatever a method leads to is what the table says
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            cell = {"method": name, "what": what, "ok": not reason, "reason": reason}
            with file.open("a", encoding="utf-8") as opened:
                opened.write(json.dumps({**cell, "seconds": round(time.perf_counter() - began, 1)}) + "\n")
            print(name, what, reason or "ok", flush=True)
        tiny_runs.fitted.cache_clear()


def table(cells: dict[tuple[str, str], dict[str, Any]]) -> str:
    """The table in Markdown; a way that no method was tried in has no column, and refusals are told below."""
    ways = [way for way in (*WAYS, *LOGGERS) if any(what == way for _, what in cells)]
    rows = [["method", *(TITLES.get(way, way) for way in ways)], ["---"] * (1 + len(ways))]
    reasons: list[str] = []
    for name in sorted(tiny_runs.METHODS):
        row = [name]
        for way in ways:
            cell = cells.get((name, way))
            if cell is None or cell["ok"]:
                row.append("not run" if cell is None else "yes")
                continue
            if cell["reason"] not in reasons:
                reasons.append(cell["reason"])
            row.append(f"no ({reasons.index(cell['reason']) + 1})")
        rows.append(row)
    told = "".join(f"\n{number}. {reason}" for number, reason in enumerate(reasons, 1))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows) + (f"{told}\n" if told else "")


def main() -> None:
    parser = argparse.ArgumentParser(description="Every method in every way out of a training.")
    parser.add_argument(
        "--results", type=Path, nargs="+", required=True, help="lines of cells; new ones go into the first file"
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="METHOD")
    parser.add_argument(
        "--write", type=Path, metavar="PAGE", help="run nothing; put the table between the marks of this page"
    )
    options = parser.parse_args()
    if options.write is None:
        fill(options.results[0], options.only)
        return
    before, _, rest = options.write.read_text(encoding="utf-8").partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    text = before + MARKS[0] + table(read(options.results)) + MARKS[1] + after
    options.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
