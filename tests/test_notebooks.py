"""Every notebook runs from top to bottom; its cells need no Jupyter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def cells(file: Path) -> list[dict]:
    notebook = json.loads(file.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.fixture(params=NOTEBOOKS, ids=lambda file: file.stem)
def executed(request, tmp_path, monkeypatch):
    """A notebook's name and the variables it leaves behind."""
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    plt.close("all")
    monkeypatch.setattr(plt, "show", lambda: None)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for number, cell in enumerate(cells(request.param)):
        exec(compile("".join(cell["source"]), f"{request.param.name}, code cell {number}", "exec"), names)
    yield request.param.stem, names
    plt.close("all")


def test_every_notebook_runs_and_draws(executed, tmp_path):
    import matplotlib.pyplot as plt

    name, names = executed
    drawn = [axis for number in plt.get_fignums() for axis in plt.figure(number).axes]
    assert any(axis.has_data() for axis in drawn)
    if name == "quickstart":
        score, label, flagged = (names[key] for key in ("score", "label", "flagged"))
        assert names["result"]["test/image_AUROC"] > 0.9
        assert len(score) == len(label) == len(names["data"].splits.test)
        assert flagged.equal(score >= names["threshold"])
        assert 0 < flagged[label == 0].float().mean() < 0.4 < flagged[label == 1].float().mean()
        assert (tmp_path / "runs/notebook/metrics.json").is_file()
    if name == "few_shot":
        assert set(names["auroc"]) == set("012345679")
        assert all(0.8 < value <= 1 for value in names["means"].values())
        assert names["mean"][0] < names["mean"][2] > 0.95
        assert (tmp_path / "runs/few_shot_notebook/metrics.json").is_file()
    if name == "driving_scenes":
        before, after = names["before"], names["after"]
        assert before["test/mIoU"] > 0.6
        assert after["test/pixel_AUROC"] > max(0.85, before["test/pixel_AUROC"])
        assert after["test/pixel_FPR95"] < before["test/pixel_FPR95"]
        assert after["test/component_SIoU"] > 0.1


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebooks_hold_no_outputs(file):
    assert cells(file)
    for cell in cells(file):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
