from __future__ import annotations

from base64 import b64decode
from pathlib import Path

import cv2
import numpy as np
import pytest
from made_runs import make_run, make_video_run, read

from anomaly_suite.report.gallery import chosen, items_of
from anomaly_suite.report.results import Results, Row


def many(count: int, panels: int = 0) -> Results:
    """Rows of one rare and one frequent kind, the files of all of which are this one."""
    rows = [
        Row(number, 0, __file__, None, ("often", "rare")[number % 50 == 7], 1, float(number), None)
        for number in range(count)
    ]
    return Results(Path(), {}, "", {}, rows, dict.fromkeys(range(panels)), {}, [])  # type: ignore[arg-type]


def test_every_kind_is_shown_and_scores_are_spread() -> None:
    found = many(1000)
    places = chosen(found, 40)
    kinds = [found.rows[place].kind for place in places]
    assert kinds.count("rare") == kinds.count("often") == 20
    assert places == sorted(places)
    often = [place for place in places if found.rows[place].kind == "often"]
    assert (often[0], often[-1]) == (0, 999)
    assert max(np.diff(often)) < 150
    assert chosen(found, 0) == []
    assert chosen(found, 5000) == list(range(1000))


def test_those_with_a_map_come_first() -> None:
    places = chosen(many(1000, panels=100), 30)
    assert all(place < 100 for place in places if place % 50 != 7)


def test_items_have_pictures_and_maps(tmp_path: Path) -> None:
    items = items_of(read(make_run(tmp_path)), 100)
    assert [item["row"] for item in items] == list(range(12))
    assert items[4]["name"] == "/data/test/hole/04.png"
    assert all({"image", "heat", "truth", "marked", "w", "h"} <= item.keys() for item in items)


def test_pictures_are_read_from_the_paths_of_the_table(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", panels=0, config=f"data:\n  init_args:\n    root: {tmp_path}\n")
    table = run / "test_scores.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("/data/test/good", "good"), encoding="utf-8")
    (tmp_path / "good").mkdir()
    for name in ("00", "01"):
        cv2.imwrite(str(tmp_path / "good" / f"{name}.png"), np.full((40, 40, 3), 7, np.uint8))
    (tmp_path / "good" / "02.png").write_bytes(b"no picture")
    found = read(run)
    items = items_of(found, 100)
    assert [(item["row"], item["w"], "heat" in item) for item in items] == [(0, 40, False), (1, 40, False)]
    assert len(found.missing) == 1
    assert found.missing[0].startswith("1 pictures could not be read, the first because: ")


def test_without_any_picture_one_sentence_says_so(tmp_path: Path) -> None:
    found = read(make_run(tmp_path, panels=0))
    assert items_of(found, 100) == []
    assert found.missing == [
        "No picture is shown: there are no panels of this test (a method without maps writes none, nor does --disable heatmaps), "
        "and the table has no path of an image that is there."
    ]


def test_videos_have_their_curve_and_without_originals_no_frames(tmp_path: Path) -> None:
    found = read(make_video_run(tmp_path))
    items = items_of(found, 3)
    assert [(item["row"], item["name"], item["curve"]["events"]) for item in items] == [
        (0, "v<0>", []),
        (1, "v<1>", [[40, 60]]),
        (2, "v<2>", []),
    ]
    assert not any("frames" in item for item in items)
    assert "Give their folder by --videos FOLDER." in found.missing[0]


@pytest.fixture
def originals(tmp_path: Path) -> Path:
    """Videos 0 and 1 as folders of frames, whose grey value is twice their number."""
    for video in range(2):
        folder = tmp_path / "originals" / f"v<{video}>"
        folder.mkdir(parents=True)
        for number in range(80):
            cv2.imwrite(str(folder / f"{number:03}.png"), np.full((9, 16, 3), 2 * number, np.uint8))
    return tmp_path / "originals"


def test_frames_of_originals_show_the_peak_events_and_the_rest(tmp_path: Path, originals: Path) -> None:
    found = read(make_video_run(tmp_path / "run"))
    items = items_of(found, 10, originals)
    frames = items[1]["frames"]
    numbers = [frame["at"] for frame in frames]
    assert {40, 50} <= set(numbers)  # the peak, and the middle of the event
    assert numbers == sorted(numbers)
    assert 5 <= len(numbers) <= 8
    assert (numbers[0], numbers[-1]) == (5, 75)
    for frame in frames:
        content = np.frombuffer(b64decode(frame["image"].partition(",")[2]), np.uint8)
        assert cv2.imdecode(content, cv2.IMREAD_COLOR).mean() == pytest.approx(2 * frame["at"], abs=4)
    assert "frames" not in items[2]
    assert found.missing == [
        "Frames of 2 videos are not shown, of the first because: no originals of video 'v<2>' in " + f"'{originals}'"
    ]


def test_the_folder_of_originals_may_stand_in_the_configuration(tmp_path: Path, originals: Path) -> None:
    found = read(make_video_run(tmp_path / "run", count=2, config=f"curves:\n  videos: {originals}\n"))
    assert all(len(item["frames"]) > 4 for item in items_of(found, 10))
    assert found.missing == []
