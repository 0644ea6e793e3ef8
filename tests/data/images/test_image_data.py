"""Labelled anomalies in training, over data modules of every make: who gets them, who does not, and what is written of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from sklearn.metrics import roc_auc_score
from torch import Tensor

from anomaly_suite import data as data_modules
from anomaly_suite.callbacks import AnomalyMetrics, Calibrate
from anomaly_suite.contract import AnomalyDataModule, AnomalyModule, BalancedSampler, Batch, Splits
from anomaly_suite.data import Digits, Folder, MVTecAD, SyntheticTextures
from anomaly_suite.data.images.benchmark_images import BenchmarkImages
from anomaly_suite.data.images.image_data import ImageDataModule
from anomaly_suite.data.images.image_files import Found, Item
from anomaly_suite.data.images.image_set import ImageSet
from anomaly_suite.errors import CheckpointError, ConfigError, DatasetError, LabelError

Write = Callable[..., Path]


class Own(ImageDataModule):
    """A user's: 20 training normals, 10 test normals, 10 anomalies of two kinds."""

    def build(self) -> Splits:
        def part(name: str, labels: list[int]) -> ImageSet:
            values = torch.arange(len(labels)).byte().view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
            kinds = [("odd" if place % 2 else "even") if label else "" for place, label in enumerate(labels)]
            names = [f"{name}/{place}" for place in range(len(labels))]
            return ImageSet(image=values.clone(), label=torch.tensor(labels), names=names, kinds=kinds, seed=self.seed)

        return Splits(part("train", [0] * 20), None, part("test", [0] * 10 + [1] * 10))


class Files(BenchmarkImages):
    """Ten training normals, six test normals, eight masked anomalies, two of each patient."""

    def find(self) -> Found:
        root = Path(str(self.root))
        normals = [Item(root / f"n{index}.png") for index in range(16)]
        anomalies = [Item(root / f"a{index}.png", 1, root / f"m{index}.png") for index in range(8)]
        return Found(normals[:10], [], normals[10:] + anomalies)


class Patients(Files):
    """Anomalies 0 and 1 are of patient 0, and so on; test normals 10 and 11 are of patient 0, too."""

    def subject_of(self, name: str) -> str | None:
        kind, number = Path(name).stem[0], int(Path(name).stem[1:])
        return str(number // 2) if kind == "a" else str((number - 10) // 2) if number >= 10 else None


@pytest.fixture
def files(tmp_path: Path, write: Write) -> Callable[..., Files]:
    for index in range(16):
        write(f"n{index}.png", size=(16, 16))
    for index in range(8):
        write(f"a{index}.png", size=(16, 16))
        write(f"m{index}.png", np.eye(16, dtype=np.uint8) * 255)

    def make(kind: type[Files] = Files, **options: Any) -> Files:
        data = kind(**{"image_size": 16, "threshold_images": 2, **options})
        data.root = tmp_path
        return data

    return make


def digits(**options: Any) -> Digits:
    return Digits(**{"normal_class": 3, "image_size": 8, "train_batch_size": 16, **options})


def textures(**options: Any) -> SyntheticTextures:
    return SyntheticTextures(**{"train_size": 12, "test_size": 16, "image_size": 16, **options})


def everything(part: Any) -> Batch:
    batch: Batch = part.__getitems__(list(range(len(part))))
    return batch


def names(part: Any) -> list[str]:
    return [str(name) for name in part.names]


MAKERS: dict[str, Callable[..., ImageDataModule]] = {"digits": digits, "textures": textures, "own": Own}


# What moves --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [*MAKERS, "files", "mvtec", "folder"])
def test_anomalies_move_from_the_test_set_into_training(make: str, files: Any, mvtec: Any, tmp_path: Path) -> None:
    if make == "mvtec":
        root = str(mvtec(defect=3))

        def maker(**options: Any) -> ImageDataModule:
            return MVTecAD(root=root, image_size=12, **options)

    elif make == "folder":
        mvtec(defect=3)

        def maker(**options: Any) -> ImageDataModule:
            abnormal = ["test/broken", "test/scratch"]
            where: dict[str, Any] = {
                "normal_dir": "train/good",
                "abnormal_dir": abnormal,
                "normal_test_dir": "test/good",
            }
            return Folder(root=str(tmp_path / "bottle"), mask_dir="ground_truth", image_size=12, **where, **options)

    else:
        maker = files if make == "files" else MAKERS[make]
    before, after = maker().require_splits(), maker(num_anomalous=3, anomalous_seed=1).require_splits()
    moved = names(after.train)[len(names(before.train)) :]
    assert len(moved) == len(set(moved)) == 3
    assert names(after.train) == names(before.train) + moved
    assert sorted(names(after.test) + moved) == sorted(names(before.test))
    assert [name for name in names(before.test) if name not in moved] == names(after.test)
    train, test = everything(after.train), everything(after.test)
    assert train["label"].tolist() == [0] * len(before.train) + [1] * 3  # type: ignore[arg-type]
    was = everything(before.test)
    places = [names(before.test).index(name) for name in moved]
    assert was["label"][places].tolist() == [1] * 3
    assert torch.equal(train["image"][-3:], was["image"][places])
    left = [names(before.test).index(name) for name in names(after.test)]
    assert torch.equal(test["image"], was["image"][left])
    assert torch.equal(test["label"], was["label"][left])
    if "mask" in was:
        assert torch.equal(test["mask"], was["mask"][left])
    if before.val is not None:
        assert torch.equal(everything(after.val)["image"], everything(before.val)["image"])
    assert maker().labelled_anomalies is None


def test_the_seed_of_the_draw_decides_it_and_nothing_else() -> None:
    parts = [digits(num_anomalous=9, anomalous_seed=seed, seed=2).require_splits() for seed in (0, 0, 1)]
    assert names(parts[0].train) == names(parts[1].train) != names(parts[2].train)
    assert names(parts[0].train)[:-9] == names(parts[2].train)[:-9]
    assert names(parts[0].val) == names(parts[2].val)
    more = digits(num_anomalous=20, seed=2).require_splits().train
    assert set(names(parts[0].train)) < set(names(more))


def test_kinds_that_were_drawn_and_kinds_that_were_not_can_be_told_apart() -> None:
    data = digits(num_anomalous=6, anomalous_types=["4", 8])
    train, _, test = data.require_splits()
    assert train.kinds[-6:].count("4") == train.kinds[-6:].count("8") == 3  # type: ignore[attr-defined]
    assert data.labelled_anomalies is not None
    assert data.labelled_anomalies["types"] == {"4": 3, "8": 3}
    counts = {kind: test.kinds.count(kind) for kind in "0124"}  # type: ignore[attr-defined]
    assert counts == {"0": 178, "1": 182, "2": 177, "4": 178}
    with pytest.raises(ConfigError, match="0, 1, 2, 4, 5, 6, 7, 8, 9; got '3'"):
        digits(num_anomalous=1, anomalous_types=[3]).setup()


def test_images_of_groups_and_leaky_thresholds_stay(files: Callable[..., Files]) -> None:
    data = files(num_anomalous=2, localisation_groups=2, localisation_size=2, threshold_set="leaky")
    with pytest.warns(UserWarning, match="leaky"):
        train, val, test = data.require_splits()
    assert not set(names(train)) & set(names(val))
    assert sorted(test.groups.values()) == [1, 1, 2, 2]  # type: ignore[attr-defined]
    with pytest.warns(UserWarning, match="leaky"), pytest.raises(ConfigError, match=r"held back \(.*\). Give fewer"):
        files(num_anomalous=5, localisation_groups=2, localisation_size=2, threshold_set="leaky").setup()


def test_the_other_images_of_a_patient_are_in_neither_part(files: Callable[..., Files]) -> None:
    data = files(Patients, num_anomalous=2, validation="none")
    train, _, test = data.require_splits()
    moved = {Path(name).stem for name in names(train)[-2:]}
    patients = {int(name[1:]) // 2 for name in moved}
    kept = {f"a{number}" for number in range(8) if number // 2 not in patients}
    kept |= {f"n{number}" for number in range(10, 16) if (number - 10) // 2 not in patients}
    assert {Path(name).stem for name in names(test)} == kept
    assert data.labelled_anomalies is not None
    assert data.labelled_anomalies["left_out"] == 14 - len(kept) - 2 > 0
    with pytest.raises(ConfigError, match=r"must be left; all of one kind went with the \d labelled anomalies"):
        files(Patients, num_anomalous=7, validation="none").setup()


def test_patients_of_validation_stay(files: Callable[..., Files]) -> None:
    data = files(Patients, num_anomalous=2, threshold_set="apart", threshold_images=1)
    train, val, _ = data.require_splits()
    of_val = {data.subject_of(name) for name in names(val)}
    assert not of_val & {data.subject_of(name) for name in names(train)[-2:]} - {None}


def test_one_picture_in_two_test_files_is_refused(files: Callable[..., Files], tmp_path: Path) -> None:
    data = files(num_anomalous=3)
    data.setup()
    first = Path(names(data.require_splits().train)[-1])
    left = next(Path(name) for name in names(data.require_splits().test) if Path(name).stem[0] == "a")
    left.write_bytes(first.read_bytes())
    with pytest.raises(DatasetError, match="has the same content as the labelled image"):
        files(num_anomalous=3).setup()


def test_a_list_takes_the_place_of_a_draw(files: Callable[..., Files], tmp_path: Path) -> None:
    (tmp_path / "few.txt").write_text("a5.png\na2.png\n")
    data = files(anomalous_list=str(tmp_path / "few.txt"))
    assert [Path(name).stem for name in names(data.require_splits().train)[-2:]] == ["a5", "a2"]
    assert data.labelled_anomalies == {
        "count": 2,
        "list": str(tmp_path / "few.txt"),
        "types": {"anomaly": 2},
        "left_out": 0,
        "images": ["a5.png", "a2.png"],
    }
    for options in ({"num_anomalous": 2}, {"anomalous_types": ["x"]}):
        with pytest.raises(
            ConfigError, match=r"anomalous_list says which anomalies are trained on; got .* Give one of the two"
        ):
            files(anomalous_list="few.txt", **options)


def test_a_setup_of_another_class_has_them_moved_too() -> None:
    class ByHand(Own):
        def setup(self, stage: str | None = None) -> None:
            self.splits = self.build()

    data = ByHand(num_anomalous=3)
    data.setup()
    assert len(data.require_splits().test) == 17  # type: ignore[arg-type]
    splits = data.require_splits()
    assert data.splits is splits
    assert len(splits.train) == 23  # type: ignore[arg-type]


def test_data_sets_that_cannot_give_samples_away_are_named() -> None:
    class Bare(Own):
        def build(self) -> Splits:
            return Splits([0], None, [0])  # type: ignore[arg-type]

    Bare().setup()
    with pytest.raises(ConfigError, match="list of Bare has no labels"):
        Bare(num_anomalous=1).setup()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_anomalous": -1}, "num_anomalous must be at least 0; got -1"),
        ({"num_anomalous": 2.5}, "num_anomalous must be a whole number and at least 0; got 2.5"),
        ({"anomalous_seed": -1}, "anomalous_seed must be at least 0; got -1"),
        ({"anomalous_types": []}, r"anomalous_types must not be empty; got \[\]"),
        ({"balanced": 1.0}, r"balanced must be in \(0, 1\); got 1.0"),
        ({"balanced": 0.0}, r"balanced must be in \(0, 1\); got 0.0"),
    ],
)
def test_values_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        digits(**options)


def test_every_data_module_of_images_is_one() -> None:
    kinds = [getattr(data_modules, name) for name in data_modules.__all__]
    # Frames of a clip are alike: some in training would leave their neighbours in the test.
    images = [kind for kind in kinds if ".images." in kind.__module__ and kind.__name__ != "UCSDPed"]
    assert len(images) >= 14
    based = [kind for kind in kinds if "ImageDataModule" in [base.__name__ for base in kind.__mro__]]
    assert based == images


# Who trains on them ------------------------------------------------------------------------------------------------------


class Reader(AnomalyModule):
    """Remembers what it is trained on."""

    reads_labels = True

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[str]] = []
        self.labels: list[int] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.seen.append(batch["image_path"])
        self.labels += batch["label"].tolist()
        return self.weight**2

    def forward(self, image: Tensor) -> tuple[Tensor, None]:
        return image.mean((1, 2, 3)) + self.weight, None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Blind(Reader):
    reads_labels = False


class Unsaid(Reader):
    reads_labels = None


def trainer(folder: Path, **options: Any) -> Trainer:
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "accelerator": "cpu", "devices": 1, "default_root_dir": folder}
    return Trainer(**{"max_epochs": 1, "limit_val_batches": 0, **quiet, **options})


@pytest.mark.parametrize(("kind", "balanced"), [(Blind, False), (Blind, True), (Unsaid, True)])
@pytest.mark.parametrize("overfit", [{}, {"overfit_batches": 3}])
def test_a_method_that_does_not_read_labels_trains_as_without(
    kind: type[Reader], balanced: bool, overfit: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen = []
    for options in ({}, {"num_anomalous": 5, "balanced": balanced}):
        model, data = kind(), digits(**options)
        with caplog.at_level(logging.INFO):
            trainer(tmp_path, **overfit).fit(model, datamodule=data)
        seen.append(model.seen)
        assert not any(model.labels)
    assert seen[0] == seen[1]
    assert type(model).reads_labels is (None if kind is Unsaid else False)
    told = [record.message for record in caplog.records if "on normal images alone" in record.message]
    assert told
    assert told[0].startswith(
        f"{kind.__name__} trains on normal images alone: 5 labelled anomalies are left out of training"
    )
    assert ("reads_labels = True" in told[0]) is (kind is Unsaid)


def test_from_any_other_loader_they_are_refused(tmp_path: Path) -> None:
    loader = digits(num_anomalous=5).train_dataloader()
    with pytest.raises(
        LabelError,
        match=r"Blind trains on normal images alone; batch \d+ of epoch 0 holds \d labelled anomalous, first \d/",
    ):
        trainer(tmp_path).fit(Blind(), train_dataloaders=loader)


@pytest.mark.parametrize(("balanced", "share"), [(True, 0.5), (0.25, 0.25)])
def test_balanced_batches_reach_a_method_that_reads_labels(balanced: Any, share: float, tmp_path: Path) -> None:
    model, data = Reader(), digits(num_anomalous=5, balanced=balanced)
    trainer(tmp_path).fit(model, datamodule=data)
    normals = len(data.require_splits().train) - 5  # type: ignore[arg-type]
    counts = np.array(model.labels[: len(model.labels) // 16 * 16]).reshape(-1, 16).sum(1)
    assert set(counts.tolist()) == {16 * share}
    assert len(model.labels) - sum(model.labels) == normals
    assert isinstance(data.train_dataloader().sampler, BalancedSampler)


class Writer(Callback):
    """Leave behind what this process was trained on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        seen = {"seen": pl_module.seen, "labels": pl_module.labels}
        (self.folder / f"{trainer.world_size}-{trainer.global_rank}.json").write_text(json.dumps(seen))


def test_the_batches_of_two_processes_are_together_those_of_one(tmp_path: Path, two_processes: dict[str, Any]) -> None:
    options: dict[str, Any] = {"num_anomalous": 5, "balanced": 0.25, "val_size": 2}
    for size, processes in ((16, {}), (8, two_processes)):
        run = trainer(tmp_path, callbacks=[Writer(tmp_path)], **processes)
        run.fit(Reader(), datamodule=digits(train_batch_size=size, **options))
    one, *two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("1-0", "2-0", "2-1"))
    assert len(one["seen"]) == len(two[0]["seen"]) == len(two[1]["seen"])
    for whole, first, second in zip(one["seen"], two[0]["seen"], two[1]["seen"], strict=True):
        assert sorted(first + second) == sorted(whole)
    for half in two:
        assert [sum(half["labels"][start : start + 8]) for start in range(0, 80, 8)] == [2] * 10


def test_without_anomalies_batches_cannot_be_balanced(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"need normal and anomalous training samples; got \d+ and 0"):
        trainer(tmp_path).fit(Reader(), datamodule=digits(balanced=True))


def test_repeated_anomalies_are_augmented_anew(files: Callable[..., Files]) -> None:
    data = files(num_anomalous=1, validation="none", train_transform=[{"class": "RandomBrightnessContrast", "p": 1}])
    train = data.require_splits().train
    again = train.__getitems__([9, 19, 10, 21, -11])  # type: ignore[attr-defined]
    assert again["label"].tolist() == [0, 0, 1, 1, 1]
    assert len(train) == 11  # type: ignore[arg-type]
    assert not torch.equal(again["image"][2], again["image"][3])
    assert torch.equal(again["image"][2], again["image"][4])
    assert again["padding"].tolist() == [False] * 4 + [True]


# Checkpoints and the result file -------------------------------------------------------------------------------------------


class SaveAt(Calibrate):
    """Write a checkpoint within an epoch."""

    def __init__(self, file: Path, batch: int) -> None:
        super().__init__()
        self.file, self.batch = file, batch

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.batch:
            trainer.save_checkpoint(self.file)


def test_a_balanced_epoch_goes_on_where_it_was_cut(tmp_path: Path) -> None:
    options: dict[str, Any] = {"num_anomalous": 5, "balanced": 0.25}
    whole, rest = Reader(), Reader()
    trainer(tmp_path, callbacks=[SaveAt(tmp_path / "cut.ckpt", 2)]).fit(whole, datamodule=digits(**options))
    trainer(tmp_path).fit(rest, datamodule=digits(**options), ckpt_path=tmp_path / "cut.ckpt", weights_only=True)
    assert rest.seen == whole.seen[3:]
    assert len(rest.seen) > 3
    for changes, message in (
        ({"balanced": 0.5}, "balanced=0.25; this run has .*balanced=0.5"),
        ({"balanced": False}, "balanced=0.25; this run"),
    ):
        data = digits(**{**options, **changes})
        with pytest.raises(CheckpointError, match=message):
            trainer(tmp_path).fit(Reader(), datamodule=data, ckpt_path=tmp_path / "cut.ckpt", weights_only=True)


def test_a_checkpoint_is_never_tested_on_what_it_was_trained_on(tmp_path: Path) -> None:
    data = digits(num_anomalous=5)
    first = trainer(tmp_path)
    first.fit(Reader(), datamodule=data)
    first.save_checkpoint(tmp_path / "few.ckpt")

    def test(other: AnomalyDataModule) -> None:
        trainer(tmp_path).test(
            Reader(), datamodule=other, ckpt_path=tmp_path / "few.ckpt", weights_only=True, verbose=False
        )

    test(digits(num_anomalous=5))
    test(digits(num_anomalous=20))  # those five are among them
    for other in (digits(), digits(num_anomalous=5, anomalous_seed=1)):
        with pytest.raises(
            CheckpointError,
            match=r"was trained on 5 labelled anomalies; \d of them, first '\d/\d+', are test images here",
        ):
            test(other)
    with pytest.raises(CheckpointError, match="this run has 20 others"):
        trainer(tmp_path).fit(
            Reader(), datamodule=digits(num_anomalous=20), ckpt_path=tmp_path / "few.ckpt", weights_only=True
        )
    blind = trainer(tmp_path)
    blind.fit(Blind(), datamodule=digits(num_anomalous=5))
    blind.save_checkpoint(tmp_path / "blind.ckpt")
    trainer(tmp_path).test(
        Blind(), datamodule=digits(), ckpt_path=tmp_path / "blind.ckpt", weights_only=True, verbose=False
    )


def test_metrics_tell_seen_kinds_from_others(tmp_path: Path) -> None:
    data = digits(num_anomalous=4, anomalous_types=[4, 7], eval_batch_size=100)
    run = trainer(tmp_path, callbacks=[AnomalyMetrics(image=["AUROC"])])
    run.test(Reader(), datamodule=data, verbose=False)
    found = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["metrics"]
    test: Any = data.require_splits().test
    score, label = everything(test)["image"].mean((1, 2, 3)), test.label
    seen = torch.tensor([kind in ("4", "7") for kind in test.kinds])
    for name, rows in (("", label >= 0), ("seen/", (label == 0) | seen), ("unseen/", (label == 0) | ~seen)):
        expected = roc_auc_score(label[rows].numpy(), score[rows].numpy())
        assert found[f"{name}image_AUROC"] == pytest.approx(expected, abs=1e-6)
    assert set(found) == {"image_AUROC", "seen/image_AUROC", "unseen/image_AUROC"}
    assert (
        int(torch.cat([batch["seen_type"] for batch in data.test_dataloader()]).sum())
        == int(seen.sum())
        == 181 + 179 - 4
    )
    for other in (digits(num_anomalous=9), digits(), textures(num_anomalous=2)):  # all kinds, none, not known
        assert "seen_type" not in next(iter(other.test_dataloader()))


@pytest.mark.parametrize("model", [Reader, Blind])
def test_the_result_file_says_which(model: type[Reader], tmp_path: Path) -> None:
    data = digits(num_anomalous=2, anomalous_seed=3, balanced=True)
    run = trainer(tmp_path, callbacks=[AnomalyMetrics()])
    run.fit(built := model(), datamodule=data)
    run.test(built, datamodule=data, verbose=False)
    result = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    record = result["labelled_anomalies"]
    assert record["images"] == names(data.require_splits().train)[-2:]
    assert {key: record[key] for key in ("count", "seed", "left_out", "trained_on")} == {
        "count": 2,
        "seed": 3,
        "left_out": 0,
        "trained_on": model is Reader,
    }
    assert sum(record["types"].values()) == 2
    assert result["data"]["anomalous"] == 1797 - 183 - 2
