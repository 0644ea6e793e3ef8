"""Every notebook runs from top to bottom; its cells need no Jupyter."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def cells(file: Path) -> list[dict]:
    notebook = json.loads(file.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.fixture(params=NOTEBOOKS, ids=lambda file: file.stem)
def executed(request, tmp_path, monkeypatch):
    """The names a notebook leaves behind."""
    import matplotlib.pyplot as plt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plt, "show", lambda: None)
    backend = matplotlib.get_backend()
    plt.switch_backend("agg")
    names: dict[str, object] = {"__name__": "__main__"}
    for number, cell in enumerate(cells(request.param)):
        exec(compile("".join(cell["source"]), f"{request.param.name}, code cell {number}", "exec"), names)
    yield request.param.stem, names
    plt.close("all")
    plt.switch_backend(backend)


def test_notebooks_run_and_show_what_they_promise(executed, tmp_path):
    name, names = executed
    if name == "quickstart":
        import matplotlib.pyplot as plt

        assert names["result"]["test/image_AUROC"] > 0.9
        assert len(plt.get_fignums()) == 2
        assert len(names["score"]) == len(names["label"]) == len(names["data"].splits.test)
        flagged = names["flagged"]
        assert flagged.equal(names["score"] >= names["threshold"])
        assert 0 < flagged[names["label"] == 0].float().mean() < 0.4 < flagged[names["label"] == 1].float().mean()
        assert (tmp_path / "runs/notebook/metrics.json").is_file()


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebooks_hold_no_outputs(file):
    assert cells(file)
    for cell in cells(file):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
