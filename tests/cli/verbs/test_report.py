"""Reports of results as they are, with sections and published figures."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from cli_parts import FAST, command, matches, one_sentence, succeed, table

from anomaly_suite.cli.verbs.report import print_report
from anomaly_suite.errors import ConfigError, DatasetError, DatasetNotFoundError

pytestmark = pytest.mark.xdist_group("flow")


def test_report_prints_the_metrics(flow):
    result = json.loads((flow.folder / "metrics.json").read_text(encoding="utf-8"))
    said = flow.said["report"].out
    assert said.startswith("ADACL on Digits: 61 normal, 1614 anomalous, seed 0\n")
    for name, value in result["metrics"].items():
        assert re.search(rf"^{name} +{value:.4f}", said, re.MULTILINE), name
    assert "command: anomaly-suite test --run runs/tiny\n" in said
    assert str(flow.folder.relative_to(flow.root)) in said
    assert "test_scores.csv" in said
    assert "Validation was the test set" not in said


def test_tests_on_several_data_sets_stand_side_by_side(cwd):
    Path("run").mkdir()
    Path("run/config.yaml").touch()
    last = report_of(dataset="Streets", metrics={"pixel_AP": 0.25})
    first = report_of(dataset="Roads", metrics={"pixel_AP": 0.625}, components={"metrics": {"sIoU": 0.5}})
    Path("run/metrics.json").write_text(
        json.dumps({**last, "data_sets": {"Roads": first, "Streets v2": last}}), "utf-8"
    )
    said = succeed("report", "run").out
    assert re.search(r"^metric +Roads +Streets v2 *\n *pixel_AP +0.6250 +0.2500", said, re.MULTILINE)
    succeed("report", "run", "--html")
    page = Path("run/report.html").read_text("utf-8")
    assert [word for word in ("ADACL on Streets", "Roads", "Streets v2", "0.6250", "0.2500") if word not in page] == []
    succeed("report", "run", "--html", "--data_set", "Roads")
    assert "ADACL on Roads" in Path("run/report.html").read_text("utf-8")


def test_results_that_were_cut_end_in_one_sentence(cwd):
    Path("run").mkdir()
    Path("run/config.yaml").touch()
    Path("run/metrics.json").write_text('{"metrics": ', encoding="utf-8")
    said = one_sentence(command("report", "run"), DatasetError)
    assert said.startswith("'run/metrics.json' is cut or damaged")
    assert said.endswith("Run: anomaly-suite test --run run")


def report_of(**changes):
    return {
        "metrics": {"image_AUROC": 0.98765},
        "undefined": {"pixel_AUROC": "AUROC needs normal and anomalous samples; got 4 normal and 0 anomalous."},
        "method": "ADACL",
        "dataset": "Digits",
        "data": {"normal": 4, "anomalous": 0},
        "validation": "holdout",
        "seed": 7,
        "command": "anomaly-suite test --disable [plots] --data.root /d/[x]/[/red]",
        **changes,
    }


def test_report_shows_reasons_and_brackets_as_they_are(tmp_path, capsys):
    print_report(report_of(), tmp_path)
    said = capsys.readouterr().out
    assert "0.9877" in said
    assert "undefined: AUROC needs normal" in said
    assert "command: anomaly-suite test --disable [plots] --data.root /d/[x]/[/red]\n" in said


def test_validation_on_the_test_set_is_told(cwd):
    succeed("fit", *FAST, "--data.validation", "test")
    succeed("test", "--run", "runs/fast", "--disable", "[plots, heatmaps, table]")
    result = json.loads(Path("runs/fast/metrics.json").read_text(encoding="utf-8"))
    assert result["validation"] == result["calibration"]["image"]["split"] == "test"
    said = succeed("report", "runs/fast").out
    assert "Validation was the test set: thresholds and the chosen epoch have seen it." in said


SCENES = {
    "metrics": {"pixel_AUROC": 0.91, "pixel_AP": 0.5},
    "dataset": "LostAndFound",
    "segmentation": {"metrics": {"mIoU": 0.8123}, "confusion_matrix": [[1]]},
    "components": {
        "threshold": 0.25,
        "chosen": "best",
        "metrics": {"SIoU": 0.4567},
        "undefined": {"PPV": "PPV needs a predicted component."},
    },
}


def run_folder(folder, result, origin="", **files):
    (folder / "config.yaml").write_text(f"{origin}seed_everything: 0\n", encoding="utf-8")
    (folder / "metrics.json").write_text(json.dumps(result), encoding="utf-8")
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return succeed("report", str(folder)).out


def test_report_prints_every_section(tmp_path):
    said = run_folder(tmp_path, report_of(**SCENES))
    assert re.search(r"^pixel_AUROC +0.9100", said, re.MULTILINE)
    assert re.search(r"^segmentation\nmetric +value *\nmIoU +0.8123", said, re.MULTILINE)
    assert re.search(r"^components: threshold 0.2500, chosen best\nmetric +value *\nSIoU +0.4567", said, re.MULTILINE)
    assert "undefined: PPV needs a predicted component." in said
    assert "data set:" not in said
    assert "published" not in said


def test_report_names_the_protocol_of_the_data(tmp_path):
    note = "leaky: the threshold is set on 50 normal and 50 anomalous test images, which are scored too"
    assert f"\ndata set: {note}\n" in run_folder(tmp_path, report_of(dataset_version=note))


def test_report_says_which_anomalies_were_trained_on(tmp_path):
    moved = {"count": 3, "seed": 4, "types": {"crack": 2, "hole": 1}, "left_out": 0, "images": [], "trained_on": True}
    said = run_folder(tmp_path, report_of(labelled_anomalies=moved))
    assert "\nlabelled anomalies in training: 3 (crack: 2, hole: 1), seed 4\n" in said
    moved = {**{key: value for key, value in moved.items() if key != "seed"}, "list": "few.txt", "trained_on": False}
    said = run_folder(tmp_path, report_of(labelled_anomalies=moved))
    assert "\nlabelled anomalies left out of training and of the test: 3 (crack: 2, hole: 1), list few.txt\n" in said


def test_report_finds_the_sections_of_older_runs_in_their_files(tmp_path):
    result = report_of(**SCENES)
    files = {name: result.pop(name) for name in ("segmentation", "components")}
    assert run_folder(tmp_path, report_of(**SCENES)) in run_folder(tmp_path, result, **files).replace(
        "         components.json\n", ""
    ).replace("         segmentation.json\n", "")


def test_report_of_sections_alone(tmp_path):
    result = report_of(**SCENES)
    for name in ("metrics", "undefined", "data"):
        del result[name]
    said = run_folder(tmp_path, result)
    assert said.startswith("ADACL on LostAndFound: seed 7\nsegmentation\n")


def test_report_prints_the_published_figures_beside_ours(tmp_path):
    names = ["pixel_ood/pebal_cityscapes.yaml", "pixel_ood/pebal_cityscapes_ablation_ebm.yaml"]
    said = run_folder(tmp_path, report_of(**SCENES), f"# from: {' '.join(names)} mine.yaml\n")
    assert re.search(r"^metric +value +published *\npixel_AUROC +0.9100 +0.9788 *\n", said, re.MULTILINE)
    assert "published pixel_FPR95 0.0892 on LostAndFound: Tian 2022, table 11.5\n" in said
    other = run_folder(tmp_path, report_of(**{**SCENES, "dataset": "CamVid"}), f"# from: {' '.join(names)}\n")
    assert "published" not in other


def test_figures_for_other_options_stand_below_the_table(tmp_path):
    result = report_of(metrics={"image_AUROC": 0.9}, dataset="CIFAR10")
    said = run_folder(tmp_path, result, "# from: one_class/deep_svdd_cifar10_rec.yaml\n")
    assert re.search(r"^image_AUROC +0.9000 +0.7950 *$", said, re.MULTILINE)
    assert "published image_AUROC 0.7612 with --model.reconstruction_weight 0: Tian 2022" in said
    said = run_folder(tmp_path, {**result, "dataset": "MNIST"}, "# from: reconstruction/fanogan_mnist.yaml\n")
    assert re.search(r"^image_AUROC +0.9000 *$", said, re.MULTILINE)
    assert "published image_AUROC 0.9127 of AnoGAN: " in said


# In HTML -----------------------------------------------------------------------------------------------------------------


def test_a_report_in_html_is_one_file_with_this_run_in_it(flow, tmp_path):
    said = succeed("report", str(flow.folder), "--html", "--output", str(tmp_path / "new" / "a.html")).out
    content = (tmp_path / "new" / "a.html").read_text(encoding="utf-8")
    result = json.loads((flow.folder / "metrics.json").read_text(encoding="utf-8"))
    for part in ("ADACL on Digits", f"{result['metrics']['image_AUROC']:.4f}", "anomaly-suite test --run runs/tiny"):
        assert part in content
    assert said.splitlines()[-1].startswith(f"report: {tmp_path / 'new' / 'a.html'} (0 pictures, ")
    assert "No picture is shown: there are no panels of this test" in said  # ADACL has no maps, and digits no files
    assert len(content) < 1_000_000
    decided = [row["decision"] for row in table(flow.folder / "test_scores.csv")]
    data = json.loads(re.search(r'id="data">(.*)</script>', content)[1])
    called = [np.float32(score) >= np.float32(data["threshold"]) for score in data["score"]]
    assert called == [decision == "anomalous" for decision in decided]


def test_the_file_lies_in_the_run_folder_and_has_the_pictures(dae_run, cwd):
    shutil.copytree(dae_run / "runs", "runs")  # other tests look at it, too
    options = ["--heatmaps.max_images", "20", "--disable", "[plots, splits]", "--trainer.limit_test_batches", "1"]
    succeed("test", "--run", "runs", *options)
    assert "(12 pictures" in succeed("report", "runs", "--html", "--pictures=12").out
    content = Path("runs/report.html").read_text(encoding="utf-8")
    assert content.count("data:image/webp") == 24  # with their maps


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--html", "--outptu", "a.html"], "report has no option --outptu.*known are --html.*Did you mean '--output'?"),
        (["--html", "--output"], "--output needs the name of a file; got nothing."),
        (["--html", "--pictures", "--html"], "--pictures needs a number; got --html."),
        (["--html", "--pictures", "ten"], "--pictures needs a number from 0 on; got 'ten'."),
        (["--html", "--videos", "nowhere"], "--videos needs a folder that is there; got 'nowhere'."),
        (["--html", "--output", "."], "--output needs the name of a file; '.' is a folder."),
        (["--html=yes"], "--html takes no value; got 'yes'."),
        (["--output", "a.html"], "--output goes with a report in HTML, which was not asked for. Add --html."),
        (["other", "--html"], "report needs one run folder; got run other."),
    ],
)
def test_options_that_cannot_be_are_one_sentence(cwd, words, sentence):
    Path("run").mkdir()
    run_folder(Path("run"), report_of())
    assert matches(sentence, one_sentence(command("report", "run", *words), ConfigError))


def test_the_data_set_that_was_tested_last_or_is_asked_for_is_shown(tmp_path):
    run, tests = tmp_path / "run", {"Own": report_of(dataset="Own"), "Other/a": report_of(dataset="Other")}
    run.mkdir()
    run_folder(run, {**tests["Other/a"], "data_sets": tests})
    (run / "test_scores.csv").write_text("path,label,anomaly_score\nown.png,0,1.5\n", encoding="utf-8")
    (run / "data_sets" / "Other" / "a").mkdir(parents=True)
    other = run / "data_sets" / "Other" / "a" / "test_scores.csv"
    other.write_text("path,label,anomaly_score\nother.png,0,2.5\n", encoding="utf-8")
    for words, title, score in ((), "ADACL on Other", "[2.5]"), (("--data_set", "Own"), "ADACL on Own", "[1.5]"):
        succeed("report", str(run), "--html", *words)
        content = (run / "report.html").read_text(encoding="utf-8")
        assert f"<h1>{title}</h1>" in content
        assert f'"score":{score}' in content
    said = one_sentence(command("report", str(run), "--html", "--data_set", "own"), ConfigError)
    assert said.startswith("--data_set needs a data set that the run was tested on; got 'own', known are Own, Other/a.")


def test_results_of_another_kind_and_none_are_one_sentence(cwd):
    Path("run").mkdir()
    Path("run/config.yaml").touch()
    said = one_sentence(command("report", "run", "--html"), DatasetNotFoundError)
    assert said == "no metrics.json in run. Run: anomaly-suite test --run run"
    Path("run/metrics.json").write_text("[]", encoding="utf-8")
    said = one_sentence(command("report", "run", "--html"), DatasetError)
    assert said == "'run/metrics.json' holds no results but list. Run: anomaly-suite test --run run"
