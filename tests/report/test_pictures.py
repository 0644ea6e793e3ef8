from __future__ import annotations

import base64
from pathlib import Path

import cv2
import numpy as np
import pytest
from made_runs import SIDE, image_of, make_run, read, square

from anomaly_suite.errors import ImageReadError
from anomaly_suite.report.pictures import LADDER, Shown, _edges, data_uri, encoded, of_file, of_panel, shrunk


def decoded(uri: str) -> np.ndarray:
    """Red first."""
    kind, _, content = uri.partition(";base64,")
    assert kind in ("data:image/webp", "data:image/jpeg")
    return cv2.imdecode(np.frombuffer(base64.b64decode(content), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def filled(path: str) -> np.ndarray:
    """The mask that an SVG path encloses."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    for part in path.split("M")[1:]:
        points = np.array([point.split() for point in part.rstrip("Z").split("L")], float)
        cv2.fillPoly(mask, [(points * SIDE / 1000 - 0.5).round().astype(np.int32)], 1)
    return mask


def test_a_panel_is_taken_apart(tmp_path: Path) -> None:
    found = read(make_run(tmp_path))
    shown = of_panel(found.panels[5])
    np.testing.assert_array_equal(shown.image, image_of(5)[..., ::-1])
    assert shown.heat is not None
    assert (shown.heat == (0, 200, 0)).all()
    assert shown.truth is not None
    assert shown.marked is not None
    np.testing.assert_array_equal(filled(shown.truth), square(5))
    inside = filled(shown.marked)  # the line is drawn on the edge
    assert (inside * square(5) == square(5)).all()
    assert inside.sum() <= 34 * 34
    assert of_panel(found.panels[0]).truth == ""


def test_holes_and_islands_inside_them_are_drawn() -> None:
    ring = np.zeros((60, 60), np.uint8)
    cv2.circle(ring, (30, 30), 25, 1, 2)
    cv2.circle(ring, (30, 30), 5, 1, -1)
    assert _edges(ring).count("M") == 2
    noise = (np.random.default_rng(0).random((400, 400)) > 0.7).astype(np.uint8)
    assert len(_edges(noise)) < 20_000  # of some 9,000 grains the largest


def test_sizes_keep_their_shape() -> None:
    assert shrunk(np.zeros((500, 2000, 3), np.uint8), 256).shape == (128, 512, 3)
    assert shrunk(np.zeros((10, 2000, 3), np.uint8), 256).shape == (10, 2000, 3)
    assert shrunk(np.zeros((1, 200_000, 3), np.uint8), 64).shape[0] == 1


def test_pictures_are_what_they_were_within_what_compression_costs() -> None:
    image = np.ascontiguousarray(image_of(3)[..., ::-1])
    (found,) = encoded([Shown(image, np.full_like(image, 90), "M1 1Z", None)], 100_000)
    assert set(found) == {"w", "h", "image", "heat", "truth"}
    assert (found["w"], found["h"]) == (SIDE, SIDE)
    assert np.abs(decoded(found["image"]).astype(int) - image).mean() < 4
    assert decoded(found["heat"]).shape == (SIDE, SIDE, 3)


def test_pictures_get_coarser_until_they_fit() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)
    loose, tight = encoded([Shown(noise)] * 3, 10**7), encoded([Shown(noise)] * 3, 30_000)
    assert loose[0]["w"] == LADDER[0][0]
    assert sum(len(each["image"]) for each in tight) <= 30_000
    assert tight[0]["w"] < 256
    assert encoded([Shown(noise)], 1)[0]["w"] == LADDER[-1][0]


def test_a_build_without_webp_takes_jpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = cv2.imencode
    monkeypatch.setattr(cv2, "imencode", lambda kind, *rest: (False, None) if kind == ".webp" else whole(kind, *rest))
    uri = data_uri(np.full((8, 8, 3), (200, 100, 50), np.uint8), 90)
    assert uri.startswith("data:image/jpeg")
    assert np.abs(decoded(uri).mean((0, 1)) - (200, 100, 50)).max() < 6


def test_a_file_alone_and_panels_that_are_damaged(tmp_path: Path) -> None:
    found = read(make_run(tmp_path, panels=1))
    cv2.imwrite(str(tmp_path / "large.png"), np.full((600, 300, 3), (255, 0, 0), np.uint8))
    shown = of_file(tmp_path / "large.png")
    assert shown.image.shape == (362, 181, 3)
    assert (shown.image[0, 0] == (0, 0, 255)).all()
    panel = found.panels[0]
    with pytest.raises(ImageReadError, match="has no tile of the image"):
        of_panel(panel._replace(tiles={}))
    panel.file.write_bytes(panel.file.read_bytes()[:300])
    with pytest.raises(ImageReadError):
        of_panel(panel)
