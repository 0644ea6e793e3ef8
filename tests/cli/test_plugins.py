"""Plugins: a small real package on the path, with its metadata as pip writes them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_parts import QUIET, command, one_sentence, succeed

from anomaly_suite.cli.plugins import broken, offered
from anomaly_suite.errors import ConfigError
from anomaly_suite.io.runs import find_run

METHOD = '''
"""Mean of an image."""
from __future__ import annotations
import torch
from anomaly_suite.contract import AnomalyModule


class Base(AnomalyModule):
    """Shared."""


class AcmeMean(Base):
    """Score images by their mean. It learns an offset."""

    def __init__(self, *, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.offset = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        return (batch["image"].mean() - self.offset).square()

    def forward(self, image):
        return (image.mean((1, 2, 3)) - self.offset).abs(), (image - self.offset).abs().mean(1, keepdim=True)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"])
'''
REST = '''
import lightning.pytorch as pl
import torch
from torch.utils.data import Dataset
from torchmetrics import Metric as Base
from anomaly_suite.contract import AnomalyDataModule, Splits


class Spots(Dataset):
    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        image = torch.rand((3, 8, 8), generator=torch.Generator().manual_seed(index)) / 4
        image[:, 2:4, 2:4] += 0.7 * self.labels[index]
        return image, self.labels[index]


class AcmeSpots(AnomalyDataModule):
    """Bright spots."""

    def build(self):
        return Splits(Spots([0] * 12), Spots([0, 1] * 4), Spots([0, 1] * 5))


class AcmeNote(pl.Callback):
    """Leave a note."""

    def on_test_end(self, trainer, pl_module):
        print("noted by acme")


class AcmeHighest(Base):
    """Highest score."""

    def __init__(self):
        super().__init__()
        self.add_state("value", torch.tensor(0.0), dist_reduce_fx="max")

    def update(self, score, label):
        self.value = torch.maximum(self.value, score.max())

    def compute(self):
        return self.value


class AcmeNetwork(torch.nn.Module):
    """Of no kind."""
'''
CLASSES = {"methods": "AcmeMean", "data": "AcmeSpots", "callbacks": "AcmeNote", "metrics": "AcmeHighest"}
Install = Callable[..., None]


def package(root: Path, name: str, files: dict[str, str], points: dict[str, str]) -> None:
    """Write an importable package and its metadata."""
    for file, text in files.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(text)
    info = root / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [f"{point} = {value}" for point, value in points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[anomaly_suite.plugins]", *lines, ""]))


def acme_files(top: str = "acme_ad") -> dict[str, str]:
    public = [*CLASSES.values(), "AcmeNetwork"]
    init = f"from .methods import AcmeMean\nfrom {top}.rest import AcmeHighest, AcmeNetwork, AcmeNote, AcmeSpots\n__all__ = {public}\n"
    return {f"{top}/__init__.py": init, f"{top}/methods.py": METHOD, f"{top}/rest.py": REST}


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    root = tmp_path / "site"
    root.mkdir()
    monkeypatch.syspath_prepend(root)
    monkeypatch.chdir(tmp_path)

    def made(name: str, files: dict[str, str], **points: str) -> None:
        for file in files:
            monkeypatch.delitem(
                sys.modules, file.removesuffix(".py").removesuffix("/__init__").replace("/", "."), raising=False
            )
        package(root, name, files, points)

    return made


def test_classes_are_listed_without_importing_them(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    install("acme-ad", acme_files(), acme="acme_ad")
    for kind, name in CLASSES.items():
        (line,) = [line for line in succeed("list", kind).out.splitlines() if name in line]
        assert line.split()[:2] == [name, "acme-ad"]
        assert [entry.name for entry in offered(kind) if entry.family == "acme-ad"] == [name]  # type: ignore[arg-type]
    assert "acme_ad" not in sys.modules
    assert "Score images by their mean." in succeed("list", "methods").out
    assert "Did you mean 'AcmeMean'?" in one_sentence(command("fit", "--model", "AcmeMeen"), ConfigError)


def test_all_its_classes_run_by_short_name(install: Install) -> None:
    install("acme-ad", acme_files(), acme="acme_ad")
    Path("run.yaml").write_text(
        textwrap.dedent("""
        model: {class_path: AcmeMean}
        data: {class_path: AcmeSpots, init_args: {train_batch_size: 4}}
        metrics: {extra: {image: {Highest: {class_path: AcmeHighest}}}}
        trainer: {max_epochs: 1, callbacks: [{class_path: AcmeNote}], default_root_dir: runs, logger: false}
        """)
    )
    succeed("fit", "--config", "run.yaml", *QUIET)
    done = succeed("test", "--run", "runs", *QUIET)
    assert "noted by acme" in done.out
    assert "Highest" in Path("runs/metrics.json").read_text()
    assert "class_path: acme_ad.AcmeMean" in Path("runs/config.yaml").read_text()


@pytest.mark.parametrize(
    ("files", "value", "fault"),
    [
        ({}, "acme_gone", "ModuleNotFoundError: No module named 'acme_gone'"),
        ({"acme_bad/__init__.py": ""}, "acme_bad.gone:Mine", "ModuleNotFoundError: No module named 'acme_bad.gone'"),
        ({"acme_bad/__init__.py": "def"}, "acme_bad", "SyntaxError: invalid syntax"),
        ({"acme_bad/__init__.py": "class Mine: pass"}, "acme_bad:Mine", "acme_bad:Mine offers no method, data module, callback or metric"),
        ({"acme_bad/__init__.py": "class Mine: pass"}, "acme_bad:Yours", "AttributeError: module 'acme_bad' has no attribute 'Yours'"),
        ({"acme_bad/__init__.py": "raise SystemExit(3)"}, "acme_bad:Mine", "SystemExit: 3"),
        ({"acme_bad/__init__.py": "x = 1"}, "acme_bad", "acme_bad has no such public class"),
    ],
)  # fmt: skip
def test_a_broken_plugin_is_one_sentence_and_breaks_nothing_else(
    install: Install, files: dict[str, str], value: str, fault: str
) -> None:
    install("acme-bad", files, bad=value)
    install("acme-ad", acme_files(), acme="acme_ad")
    done = succeed("list", "methods")
    assert "AcmeMean" in done.out
    assert "PaDiM" in done.out
    (line,) = done.err.splitlines()
    assert line.startswith(f"anomaly-suite: plugin 'bad' of the package acme-bad cannot be used ({fault}")
    assert line.endswith("Repair or uninstall it.")
    assert broken()[0] in one_sentence(command("fit", "--model", "AcmeBad"), ConfigError)


def test_a_class_that_cannot_be_imported_is_one_sentence(install: Install) -> None:
    install("acme-ad", {"acme_ad.py": METHOD.replace("import torch\n", "import acme_missing\n")}, acme="acme_ad")
    assert "AcmeMean" in succeed("list", "methods").out
    said = one_sentence(command("fit", "--model", "AcmeMean", "--data", "Digits"), ConfigError)
    assert said == (
        "plugin 'acme' of the package acme-ad cannot be used (ModuleNotFoundError: No module named 'acme_missing'). "
        "Repair or uninstall it."
    )


def test_a_class_behind_what_the_source_does_not_tell_is_found_by_importing(install: Install) -> None:
    text = METHOD + "\nMine = type('Mine', (AcmeMean,), {'__doc__': 'Made.', '__module__': __name__})\n"
    install("acme-ad", {"acme_ad.py": text}, mine="acme_ad:Mine")
    assert [entry[1:] for entry in offered("methods") if entry.name == "Mine"] == [("acme_ad.Mine", "acme-ad", "Made.")]


def test_names_that_two_have(install: Install) -> None:
    install("acme-ad", {"acme_ad.py": METHOD + "\n\nclass PaDiM(AcmeMean):\n    pass\n"}, acme="acme_ad")
    install("other-ad", {"other_ad.py": METHOD}, other="other_ad:AcmeMean")
    said = one_sentence(command("fit", "--model", "AcmeMean", "--data", "Digits"), ConfigError)
    assert said == (
        "several plugins have a class 'AcmeMean': acme_ad.AcmeMean and other_ad.AcmeMean. Give the dotted name of the one that you mean."
    )
    done = succeed("fit", "--model", "PaDiM", "--data", "Digits", "--data.normal_class", "0", "--print_config")
    assert "class_path: anomaly_suite.methods.PaDiM" in done.out
    assert done.err == (
        "anomaly-suite: PaDiM is the class of anomaly_suite; the one of the package acme-ad needs its dotted name, acme_ad.PaDiM.\n"
    )
    done = succeed(
        "fit", "--model", "other_ad.AcmeMean", "--data", "Digits", "--data.normal_class", "0", "--print_config"
    )
    assert "class_path: other_ad.AcmeMean" in done.out


@pytest.mark.slow
@pytest.mark.matrix
def test_a_package_that_pip_installs(tmp_path: Path) -> None:
    source, venv = tmp_path / "source", tmp_path / "venv"
    for file, text in acme_files().items():
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        (source / file).write_text(text)
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "acme-ad"\nversion = "1.0"\n[tool.setuptools]\npackages = ["acme_ad"]\n'
        '[project.entry-points."anomaly_suite.plugins"]\nacme = "acme_ad"\n'
    )
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    python, (site,) = venv / "bin" / "python", (venv / "lib").glob("python*/site-packages")
    paths = [
        path
        for path in sys.path
        if path and Path(path).is_dir() and Path(path).parts[-1] in ("site-packages", "dist-packages")
    ]
    (site / "base.pth").write_text("\n".join([str(Path(__file__).parents[2]), *paths]))
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--no-build-isolation",
        "--no-deps",
        "--quiet",
    ]
    done = subprocess.run([*pip, str(source)], capture_output=True, text=True)
    if done.returncode and "setuptools" in done.stderr:
        pytest.skip("no setuptools to build with")
    assert done.returncode == 0, done.stderr
    environment = {**os.environ, "COLUMNS": "200", "PYTHONPATH": ""}
    run = [str(python), "-c", "from anomaly_suite.cli import main; main()"]
    listed = subprocess.run(
        [*run, "list", "methods"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert "AcmeMean" in listed.stdout
    words = [
        "fit",
        "--model",
        "AcmeMean",
        "--data",
        "AcmeSpots",
        "--trainer.max_epochs",
        "1",
        "--trainer.logger",
        "false",
        *QUIET,
    ]
    subprocess.run([*run, *words], cwd=tmp_path, env=environment, capture_output=True, check=True)
    assert find_run(tmp_path / "runs").is_relative_to(tmp_path / "runs" / "AcmeMean" / "AcmeSpots")
