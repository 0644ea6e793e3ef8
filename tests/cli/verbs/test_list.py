"""What list prints, at every width."""

from __future__ import annotations

import pytest
from cli_parts import command, one_sentence, succeed

from anomaly_suite import callbacks, data, methods, metrics
from anomaly_suite.cli.cards import cards
from anomaly_suite.cli.samples import sample_names, samples_folder
from anomaly_suite.errors import ConfigError


@pytest.mark.parametrize("width", ["40", "80", "200"])
@pytest.mark.parametrize("package", [methods, data, metrics, callbacks], ids=lambda package: package.__name__)
def test_list_names_every_public_class(package, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", width)
    done = succeed("list", package.__name__.rpartition(".")[2])
    first_words = {line.split()[0] for line in done.out.splitlines() if line.strip()}
    public = {name for name in package.__all__ if isinstance(getattr(package, name), type)}
    assert public
    assert public <= first_words


def test_list_configs_shows_data_device_and_figure():
    lines = succeed("list", "configs").out.splitlines()
    rows = [line.split(maxsplit=3) for line in lines]
    by_name = {row[0]: row[1:] for row in rows}
    assert rows[0] == ["configuration", "data", "device", "published"]
    assert set(sample_names()) <= by_name.keys()
    assert by_name["quickstart.yaml"] == ["Digits", "cpu"]
    assert by_name["one_class/padim_mvtec.yaml"] == ["MVTecAD", "gpu", "image_AUROC 0.9050, pixel_AUROC 0.9650"]
    figures = "pixel_AUROC 0.9976, pixel_AP 0.7829, pixel_FPR95 0.0081 on LostAndFound with --model.energy_weight 0.01"
    assert by_name["pixel_ood/pebal_cityscapes.yaml"] == ["Cityscapes", "gpu", figures]
    assert f"{len(sample_names())} files in {samples_folder()}" in lines


def test_list_configs_of_one_method():
    said = succeed("list", "configs", "RTFM").out
    stack = "--config weak_video/rtfm_shanghaitech.yaml --config weak_video/rtfm_shanghaitech_ablation_baseline.yaml"
    assert said.splitlines()[-1].endswith(f"anomaly-suite fit {stack}")
    assert "ctmil" not in said
    done = command("list", "configs", "RTFN")
    assert "Did you mean 'RTFM'?" in one_sentence(done, ConfigError)


@pytest.mark.parametrize("words", [["--help"], ["configs", "-h"]])
def test_list_says_what_it_takes(words):
    assert succeed("list", *words).out.startswith("usage: anomaly-suite list methods|data|metrics|callbacks\n")


def test_list_methods_shows_family_task_year_and_paper(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    lines = {line.split()[0]: line for line in succeed("list", "methods").out.splitlines()}
    assert lines["name"].split() == ["name", "family", "task", "year", "paper", "what", "it", "is"]
    for known in cards():  # in whole lines, where nobody looks
        assert lines[known.name].split()[1] == known.family
        assert f"{known.task} " in lines[known.name]
        assert f" {known.year} " in lines[known.name]
        assert known.paper in lines[known.name]
    monkeypatch.setenv("COLUMNS", "80")
    said = succeed("list", "methods").out
    assert "what it is" not in said
    assert all(card.year in said for card in cards())
