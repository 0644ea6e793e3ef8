"""Every notebook runs from top to bottom; its cells need no Jupyter."""

from __future__ import annotations

import json
import re
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
    if name == "video":
        result = names["result"]
        assert result["test/frame_AUROC"] > 0.9 > result["test/frame_AUROC_oracle"]
        assert result["test/frame_AUROC_inside"] > 0.9
        normal, anomalous = (
            [names["scores"][each].max() for each in names["chosen"] if kind in each]
            for kind in ("/normal", "/anomalous")
        )
        assert max(normal) < min(anomalous)
    if name == "own_method":
        ours, padim = names["results"]["NearestPatch"], names["results"]["PaDiM"]
        assert min(ours["test/image_AUROC"], padim["test/image_AUROC"]) > 0.95
        assert ours["test/pixel_AUROC"] > 0.95
        assert names["again"].is_fitted
    if name == "driving_scenes":
        before, after = names["before"], names["after"]
        assert before["test/mIoU"] > 0.6
        assert after["test/pixel_AUROC"] > max(0.85, before["test/pixel_AUROC"])
        assert after["test/pixel_FPR95"] < before["test/pixel_FPR95"]
        assert after["test/component_SIoU"] > 0.1


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebooks_are_stored_with_what_they_print_and_draw(file):
    """As ``make notebooks`` writes them: pictures, values and text, and nothing of the machine."""
    assert file.stat().st_size < 400_000
    assert [cell["execution_count"] for cell in cells(file)] == list(range(1, len(cells(file)) + 1))
    outputs = [output for cell in cells(file) for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert any(output["output_type"] == "stream" for output in outputs)
    for output in outputs:
        assert output["output_type"] != "error"
        assert output.get("name") != "stderr"
        said = "".join(output.get("text", "")) + "".join(output.get("data", {}).get("text/plain", ""))
        assert not re.search(r"Warning|site-packages|(?:^|[\s'\"])/(?:home|tmp|root|usr)/", said)
