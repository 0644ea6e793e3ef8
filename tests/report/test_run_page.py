"""The page of a run: its HTML, and what it does in a real browser."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, find_chromium
from made_runs import KINDS, RESULT, make_run, make_video_run, read, scores, shape

from anomaly_suite.cli.verbs.report import sections_of
from anomaly_suite.report import items_of, read_results, run_page

pytestmark = pytest.mark.xdist_group("browser")  # one start for all


def page_of(folder: Path, published: tuple[dict[str, Any], ...] = (), limit: int = 100) -> str:
    found = read(folder)
    return run_page(found, items_of(found, limit), published, sections_of(found.result))


def test_a_page_holds_figures_their_meaning_and_where_they_come_from(tmp_path: Path) -> None:
    theirs = {"metric": "image_AUROC", "value": 0.979, "source": "Table <1>", "condition": ""}
    content = page_of(make_run(tmp_path), published=(theirs,))
    words = shape(content).words
    said = " ".join(words)
    for part in (
        "PaDiM on Folder",
        "4 normal, 8 anomalous images · seed 7",
        "0.9000 ± 0.003",
        "no value: FPR95 needs <b>more</b>.",
        "Area under the ROC curve; ties count one half.",
        "published image_AUROC 0.9790 : Table <1>",
        "13 normal and 16 anomalous images",
        "7.14 % of normal images called anomalous",
        "<i>",
        RESULT["command"],
        "seed_everything: 7",
        "runs/a/model.ckpt",
    ):
        assert part in said, part
    assert len(content) < 500_000
    assert "<b>more</b>" not in content
    assert "Validation was the test set" not in content
    assert re.search(r"results written \d{4}-\d\d-\d\d \d\d:\d\d UTC", said)


def test_validation_on_the_test_set_is_told(tmp_path: Path) -> None:
    content = page_of(make_run(tmp_path, validation="test"))
    assert "Validation was the test set: thresholds and the chosen epoch have seen it." in content


def test_scenes_have_classes_and_components(tmp_path: Path) -> None:
    matrix = [[90, 10], [0, 50]]
    segmentation = {"metrics": {"mIoU": 0.8, "IoU_road": 0.9, "IoU_<sky>": 0.7}, "confusion_matrix": matrix}
    components = {
        "threshold": 0.25,
        "chosen": "best",
        "metrics": {"SIoU": 0.4567},
        "undefined": {"PPV": "PPV needs one."},
    }
    said = " ".join(shape(page_of(make_run(tmp_path, segmentation=segmentation, components=components))).words)
    assert "true class pixels road <sky> road 100 90.0 10.0 <sky> 50 0.0 100.0" in said
    assert "Components threshold 0.2500 chosen best metric value what it is SIoU 0.4567 Mean adjusted" in said
    assert "no value: PPV needs one." in said


def test_loaders_have_a_table_and_several_groups_too(tmp_path: Path) -> None:
    metrics = {"pooled/image_AP": 0.5, "image_AP/dataloader_idx_0": 0.25, "image_AP/dataloader_idx_1": 0.75}
    groups = {"metrics": {"IoU": 0.5}, "groups": {"IoU": [0.4, 0.6], "AUPRO": [0.7]}}
    said = " ".join(shape(page_of(make_run(tmp_path, metrics=metrics, undefined={}, localisation=groups))).words)
    assert "By loader loader image_AP 0 0.2500 1 0.7500" in said
    assert "By group group IoU AUPRO 1 0.4000 0.7000 2 0.6000" in said


def test_several_data_sets_stand_side_by_side(tmp_path: Path) -> None:
    run, tests = make_run(tmp_path / "a"), {}
    for name, value in (("Lost & Found", 0.25), ("Road", 0.5)):
        tests[name] = {"": {"metrics": {"pixel_AP": value}}, "components": {"metrics": {"SIoU": value / 2}}}
    found = read(run)
    said = " ".join(shape(run_page(found, [], (), sections_of(found.result), tests)).words)
    assert "All data sets metric Lost & Found Road pixel_AP 0.2500 0.5000 SIoU 0.1250 0.2500" in said
    assert "All data sets" not in page_of(run)


def test_a_run_without_a_table_has_its_figures(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (run / "test_scores.csv").unlink()
    content = page_of(run)
    assert "There is no table of scores" in content
    assert 'id="slider"' not in content
    shape(content)
    assert "no value" in run_page(read_results(run, RESULT), [], (), sections_of(RESULT))


# In a browser --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium here")
    browser = Browser(program)
    yield browser
    assert browser.errors == []
    browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of images, one of videos, and one without calibration and labels."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "images.html").write_text(page_of(make_run(folder / "images")), encoding="utf-8")
    (folder / "videos.html").write_text(page_of(make_video_run(folder / "videos")), encoding="utf-8")
    bare = make_run(folder / "bare", panels=0, calibration={})
    (bare / "test_scores.csv").write_text("anomaly_score,label\n1,\nnan,\ninf,\n2,\n", encoding="utf-8")
    (folder / "bare.html").write_text(page_of(bare), encoding="utf-8")
    for name, threshold in (("all", -math.inf), ("none", math.inf)):
        record = {"image": {**RESULT["calibration"]["image"], "threshold": threshold}}
        content = page_of(make_run(folder / name, panels=0, calibration=record))
        (folder / f"{name}.html").write_text(content, encoding="utf-8")
    return folder


def counts(browser: Browser) -> list[int]:
    return [int(browser.run(f"document.getElementById('{name}').textContent")) for name in ("tp", "fn", "fp", "tn")]


def expected(threshold: float) -> list[int]:
    score, label, _ = scores()
    called = [value >= threshold for value in score]
    both = list(zip(called, label, strict=True))
    return [both.count((True, 1)), both.count((False, 1)), both.count((True, 0)), both.count((False, 0))]


def names(browser: Browser) -> list[str]:
    return browser.run("[...document.querySelectorAll('#cards .name')].map((each) => each.textContent)")


def slide(browser: Browser, place: str) -> None:
    browser.run(
        f"{{ const slider = document.getElementById('slider'); slider.value = {place}; slider.dispatchEvent(new Event('input')); }}"
    )
    browser.settle()


def test_the_slider_moves_decisions_counts_and_plots(browser: Browser, pages: Path) -> None:
    browser.open(pages / "images.html")
    assert browser.requests[0].startswith("file:")
    assert all(url.startswith("data:") for url in browser.requests[1:])
    assert counts(browser) == expected(0.5) == [6, 2, 2, 2]
    assert browser.run("document.getElementById('precision').textContent") == "0.7500"
    spot = browser.run("document.querySelector('#plot-roc .spot').getAttribute('cx')")
    verdicts = "[...document.querySelectorAll('#cards .verdict')].map((each) => each.textContent).sort().join()"
    assert browser.run(verdicts).count("missed") == 2
    slide(browser, "0")
    assert counts(browser) == [8, 0, 4, 0]
    assert browser.run(verdicts).count("false alarm") == 4
    assert browser.run("document.querySelector('#plot-roc .spot').getAttribute('cx')") != spot
    slide(browser, "slider.max")
    assert counts(browser) == [0, 8, 0, 4]
    assert browser.run("document.getElementById('precision').textContent") == "none"
    slide(browser, "7")  # the eighth of the scores
    assert counts(browser) == expected(sorted(scores()[0])[7])
    browser.run("document.getElementById('reset').click()")
    assert counts(browser) == expected(0.5)
    assert browser.run("document.getElementById('slider').getAttribute('aria-valuetext')").startswith(
        "threshold 0.5: 6 found, 2 missed"
    )


def test_plots_show_the_areas_of_these_scores(browser: Browser, pages: Path) -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score

    score, label, _ = scores()
    assert browser.run("document.getElementById('auroc').textContent") == f"AUROC {roc_auc_score(label, score):.4f}"
    assert browser.run("document.getElementById('ap').textContent") == f"AP {average_precision_score(label, score):.4f}"
    rates = "(() => { const found = ranked(Float32Array.of(1, 2, 2, 3), [0, 1, 0, 1], [0, 1, 2, 3]); return [areas(found), bestThreshold(found)]; })()"
    areas, best = browser.run(rates)
    assert areas == pytest.approx({"auroc": 0.875, "ap": 0.5 + 0.5 * 2 / 3})
    assert best == 2


def test_the_gallery_is_sorted_by_score_error_and_kind(browser: Browser, pages: Path) -> None:
    browser.open(pages / "images.html")
    score, _, kinds = scores()
    assert [name.rpartition("/")[2] for name in names(browser)[:4]] == ["08.png", "03.png", "02.png", "04.png"]
    assert names(browser)[0] == f"{KINDS[2]}/08.png"

    def sort(how: str) -> list[int]:
        browser.run(
            f"{{ const chosen = document.getElementById('choose-sort'); chosen.value = '{how}'; chosen.dispatchEvent(new Event('change')); }}"
        )
        return [int(name.rpartition("/")[2][:2]) for name in names(browser)]

    assert sort("high") == sorted(range(12), key=lambda row: -score[row])
    assert sort("low") == sorted(range(12), key=lambda row: score[row])
    assert [kinds[row] for row in sort("kind")] == sorted(kinds)
    assert sort("order") == list(range(12))
    browser.run(
        "{ const chosen = document.getElementById('choose-verdict'); chosen.value = 'errors'; chosen.dispatchEvent(new Event('change')); }"
    )
    assert sort("order") == [2, 3, 4, 8]


def test_filters_hold_for_counts_plots_and_gallery(browser: Browser, pages: Path) -> None:
    browser.open(pages / "images.html")
    browser.run(
        "{ const chosen = document.getElementById('choose-kind'); chosen.value = '2'; chosen.dispatchEvent(new Event('change')); }"
    )
    browser.settle()
    assert counts(browser) == [3, 1, 2, 2]  # normal ones stay
    assert len(names(browser)) == 8
    table = browser.run("document.querySelector('#group-tables').textContent")
    assert "Decisions at this threshold by category" in table


def test_a_picture_is_opened_and_keys_work(browser: Browser, pages: Path) -> None:
    browser.open(pages / "images.html")
    heat = "getComputedStyle(document.querySelector('#viewer .heat')).opacity"
    browser.run("document.querySelector('.card').focus()")
    browser.key("Enter", "\r")
    assert browser.run("document.getElementById('viewer').open")
    assert browser.run("document.getElementById('viewer-title').textContent") == f"{KINDS[2]}/08.png"
    assert "anomalous, called normal (FN)" in browser.run("document.getElementById('viewer-facts').textContent")
    assert browser.run(heat) == "0"
    browser.key("h")
    assert browser.run(heat) == "0.55"
    browser.key("ArrowRight")
    assert browser.run("document.getElementById('viewer-title').textContent") == "good/03.png"
    assert browser.run(heat) == "0.55"
    edges = "getComputedStyle(document.querySelector('#viewer .edges')).display"
    assert browser.run(edges) == "block"
    browser.key("o")
    assert browser.run(edges) == "none"
    browser.key("Escape")
    browser.settle()
    assert not browser.run("document.getElementById('viewer').open")
    assert browser.run("document.activeElement.className").startswith("card")
    assert browser.run("document.querySelector('.pic img').naturalWidth") == 128


def test_the_address_says_threshold_and_picture(browser: Browser, pages: Path) -> None:
    browser.open(pages / "images.html", "#t=0.85&item=4&heat=1&sort=low")
    assert counts(browser) == expected(0.85)
    assert browser.run("document.getElementById('viewer-title').textContent") == "hole/04.png"
    assert "t=0.85" in browser.run("location.hash")


def test_a_phone_and_a_dark_screen(browser: Browser, pages: Path) -> None:
    try:
        browser.emulate(prefers_color_scheme="dark")
        for name in ("images.html", "videos.html", "bare.html"):
            browser.open(pages / name, width=360, height=720)
            assert browser.run("document.documentElement.scrollWidth") <= 360
            assert browser.run("getComputedStyle(document.documentElement).backgroundColor") == "rgb(20, 22, 26)"
    finally:
        browser.emulate(prefers_color_scheme="light")


def test_a_video_shows_its_curve_and_the_score_of_each_frame(browser: Browser, pages: Path) -> None:
    browser.open(pages / "videos.html", "#item=1")
    assert counts(browser) == [2, 0, 0, 2]
    said = "document.querySelector('#stage p').textContent"
    assert browser.run(said) == "frame 40: score 0.9, at or above the threshold, inside a true event"
    browser.run(
        "{ const frame = document.querySelector('#stage input'); frame.value = 8; frame.dispatchEvent(new Event('input')); }"
    )
    assert browser.run(said) == "frame 8: score 0.1, below the threshold, no true event"
    assert browser.run("document.querySelectorAll('#cards .event').length") == 2


def test_samples_without_label_and_scores_that_are_no_numbers(browser: Browser, pages: Path) -> None:
    browser.open(pages / "bare.html")
    assert counts(browser) == [0, 0, 0, 0]
    said = browser.run("document.getElementById('counts').textContent")
    assert "of 3 without label called anomalous · 1 without a score" in said
    assert "need normal and anomalous samples" in browser.run("document.getElementById('plot-roc').textContent")


@pytest.mark.parametrize(("name", "found"), [("all", [8, 0, 4, 0]), ("none", [0, 8, 0, 4])])
def test_thresholds_that_are_infinite(browser: Browser, pages: Path, name: str, found: list[int]) -> None:
    browser.open(pages / f"{name}.html")
    assert counts(browser) == found
