"""Run folders written by hand, with names that must be escaped."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_suite.callbacks.drawing import outlined, png_of, side_by_side, tile_places
from anomaly_suite.io.atomic import save_csv
from anomaly_suite.io.png import with_text
from anomaly_suite.report.results import Results, read_results

KINDS = ("good", "hole", """crack <b>&"'ü""")
SIDE = 128
THRESHOLD = 0.5
RESULT: dict[str, Any] = {
    "metrics": {"image_AUROC": 0.875, "pixel_AUROC": 0.9, "bottle/image_AUROC": 1.0, "<i>/image_AUROC": 0.75},
    "undefined": {"image_FPR95": "FPR95 needs <b>more</b>."},
    "error_bound": {"pixel_AUROC": 0.003},
    "definitions": {"AUROC": "Area under the ROC curve; ties count one half."},
    "data": {"normal": 4, "anomalous": 8},
    "method": "PaDiM",
    "dataset": "Folder",
    "validation": "holdout",
    "calibration": {
        "image": {"threshold": THRESHOLD, "low": 0.1, "high": 2.0, "rule": "max_f1", "normal": 13, "anomalous": 16}
        | {"split": "holdout", "expected_fpr": 0.0714}
    },
    "seed": 7,
    "checkpoint": "runs/a/model.ckpt",
    "command": "anomaly-suite test --run 'a</script><script>alert(1)</script>'",
    "versions": {"torch": "2.14"},
}


def scores() -> tuple[list[float], list[int], list[str]]:
    """Scores, labels and kinds of 4 samples of each kind; at 0.5 two normal ones are called anomalous and two anomalous ones normal."""
    score = [0.1, 0.2, 0.6, 0.7, 0.4, 0.5, 0.8, 0.9, 0.25, 1.0, 1.1, 1.3]
    kinds = [kind for kind in KINDS for _ in range(4)]
    return score, [int(kind != "good") for kind in kinds], kinds


def square(row: int) -> np.ndarray:
    """Mask of a square that is elsewhere for every row."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[8 * row : 8 * row + 32, 16:48] = 1
    return mask


def image_of(row: int) -> np.ndarray:
    """Blue first, (H, W, 3)."""
    ramp = np.linspace(20, 220, SIDE, dtype=np.uint8)
    return np.stack(
        [np.broadcast_to(ramp, (SIDE, SIDE)), np.full((SIDE, SIDE), 10 * row, np.uint8), ramp[:, None].repeat(SIDE, 1)],
        -1,
    )


def make_run(folder: Path, *, panels: int = 12, config: str = "seed_everything: 7\n", **changes: Any) -> Path:
    """A run of images, with a table and so many panels."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(config, encoding="utf-8")
    (folder / "metrics.json").write_text(json.dumps({**RESULT, **changes}), encoding="utf-8")
    score, label, kinds = scores()
    paths = [f"/data/test/{kind}/{row:02}.png" for row, kind in enumerate(kinds)]
    rows = [
        (row, path, ("bottle", "<i>")[row % 2], one, value, value / 2, ("normal", "anomalous")[value >= THRESHOLD])
        for row, (path, one, value) in enumerate(zip(paths, label, score, strict=True))
    ]
    header = ("index", "path", "category", "label", "anomaly_score", "normalized_score", "decision")
    save_csv(folder / "test_scores.csv", header, rows)
    for row in range(panels):
        tiles = {"image": image_of(row), "truth mask": np.repeat(255 * square(row)[..., None], 3, -1) * label[row]}
        tiles["anomaly map"] = np.full((SIDE, SIDE, 3), (0, 200, 0), np.uint8)
        tiles["overlay"] = tiles["image"] // 2 + tiles["anomaly map"] // 2
        tiles["predicted mask"] = outlined(image_of(row), square(row))
        said = {"index": row, "loader": 0, "path": paths[row], "tiles": tile_places(tiles)}
        file = folder / "heatmaps" / "test" / f"{row:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(with_text(png_of(side_by_side(tiles, "score")), "panel", json.dumps(said)))
    return folder


def curve(row: int, **changes: Any) -> dict[str, Any]:
    """A video of 80 frames in 20 columns, anomalous from 40 to 59 where its row is odd."""
    score = [0.1] * 20
    if row % 2:
        score[10:15] = [0.9] * 5
    said = {"index": row, "loader": 0, "name": f"v<{row}>", "label": row % 2, "frames": 80, "score": score}
    said |= {"events": [[40, 60]] if row % 2 else [], "auroc": None, "threshold": 0.5, "fps": None, "span": [0.0, 1.0]}
    return {**said, **changes}


def make_video_run(folder: Path, *, count: int = 4, config: str = "seed_everything: 7\n") -> Path:
    """A run of videos, with curves."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(config, encoding="utf-8")
    result = {
        **RESULT,
        "metrics": {"video_AUROC": 1.0},
        "undefined": {},
        "data": {"normal": 2, "anomalous": 2, "unit": "videos"},
    }
    (folder / "metrics.json").write_text(json.dumps(result), encoding="utf-8")
    header = ("index", "path", "label", "anomaly_score", "normalized_score", "decision")
    rows = [
        (row, f"v<{row}>", row % 2, (0.1, 0.9)[row % 2], "", ("normal", "anomalous")[row % 2]) for row in range(count)
    ]
    save_csv(folder / "test_scores.csv", header, rows)
    for row in range(count):
        file = folder / "curves" / "test" / f"{row}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture = png_of(np.full((4, 4, 3), 255, np.uint8))
        file.write_bytes(with_text(picture, "curve", json.dumps(curve(row))))
    return folder


def read(folder: Path) -> Results:
    return read_results(folder, json.loads((folder / "metrics.json").read_text(encoding="utf-8")))


class Shape(HTMLParser):
    """Checks that elements are closed in their order, and keeps the text outside of scripts."""

    VOID = {"meta", "input", "img", "link", "br"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.identifiers: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.identifiers += [value or "" for name, value in attributes if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.words.append(data)


def shape(content: str) -> Shape:
    parsed = Shape()
    parsed.feed(content)
    assert parsed.open == []
    assert len(set(parsed.identifiers)) == len(parsed.identifiers)
    return parsed
