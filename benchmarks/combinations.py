"""Which ways of training a method goes, as the table of ``docs/limitations.md``.

    python benchmarks/combinations.py                                   # print the table
    python benchmarks/combinations.py --write docs/limitations.md       # put it between the marks of that page

What a method refuses follows from how it trains: in one pass without gradients, with steps of its own, with batch normalisation.
``tests/contract`` runs every method in every column.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import tiny_runs
from torch.nn.modules.batchnorm import _NormBase

from anomaly_suite.contract import AnomalyModule

MARKS = ("<!-- combinations -->\n", "<!-- end of combinations -->\n")
COLUMNS = (
    "cut inside an epoch",
    "training step compiled",
    "EMA, averages with buffers",
    "averages without buffers",
    "SWA",
)


def row(model: AnomalyModule) -> list[str]:
    """What a method does in every column."""
    if model.single_pass:
        return ["begins the pass anew", "no", "refused: trains no weights", "refused", "refused"]
    normalised = any(isinstance(part, _NormBase) and part.training for part in model.train().modules())
    return [
        "goes on",
        "yes" if model.automatic_optimization else "no: steps its optimizers itself",
        "yes",
        "refused: running statistics of other weights" if normalised else "yes",
        "yes" if model.automatic_optimization else "refused: steps its optimizers itself",
    ]


def table() -> str:
    """The table in Markdown, a row for each method with its tiny configuration."""
    rows = [["method", *COLUMNS], ["---"] * (1 + len(COLUMNS))]
    rows += [[name, *row(tiny_runs.make_model(name))] for name in sorted(tiny_runs.METHODS)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="The table of refused combinations.")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the marks of this page")
    page = parser.parse_args().write
    if page is None:
        print(table(), end="")
        return
    before, _, rest = page.read_text(encoding="utf-8").partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    page.write_text(before + MARKS[0] + table() + MARKS[1] + after, encoding="utf-8")


if __name__ == "__main__":
    main()
