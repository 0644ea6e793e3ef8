"""A run that is killed anywhere and resumed, in another process with another seed, does what it would have done uninterrupted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import torch
from lightning.pytorch import seed_everything
from tiny_runs import METHODS, SHORT, SaveAt, make_trainer, short_fit, short_run, tensors
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from anomaly_suite.contract import AnomalyDataModule, AnomalyModule, Batch
from anomaly_suite.data import Digits, SyntheticStreets, SyntheticVideos
from anomaly_suite.errors import CheckpointError

# All methods -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.xdist_group(tiny_runs.group(name))) for name in METHODS]
)
def test_every_method_killed_at_a_random_step(name: str) -> None:
    whole = short_run(name)
    resumed = short_fit(name, seed=1, resume=whole.killed, max_epochs=2 + (name in SHORT))
    assert resumed.is_fitted
    assert whole.tensors.keys() == tensors(resumed).keys()
    for key, value in tensors(resumed).items():
        # The same operations, but on memory laid out anew, which may choose another kernel.
        assert torch.allclose(value.nan_to_num(), whole.tensors[key].nan_to_num(), rtol=1e-5, atol=1e-6), (
            key,
            whole.place,
        )
    assert whole.record.keys() == resumed.calibration.record.keys() != set()
    for level, record in whole.record.items():
        for key in ("threshold", "low", "high"):
            found = resumed.calibration.record[level][key]
            assert found == pytest.approx(record[key], rel=1e-4, abs=1e-6), whole.place


# Every modality, loader and hook ------------------------------------------------------------------------------------------


class Diary(AnomalyModule):
    """Writes down every step and hook; its one weight is a mean of what it has seen."""

    def __init__(self, *, estimate: bool = False) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.lines: list[str] = []

    def _write(self, what: str) -> None:
        self.lines.append(f"{self.current_epoch} {what}")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        value = batch["image"] if "image" in batch else batch["snippet_features"]
        self._write(
            f"step {batch_idx} {' '.join(batch['image_path'])} {float(value.double().sum())} {float(torch.rand(()))}"
        )
        return self.weight * 0

    def on_train_epoch_start(self) -> None:
        self._write("starts")

    def fit_statistics(self) -> None:
        self._write("is measured")

    def on_validation_start(self) -> None:
        super().on_validation_start()
        self._write("is validated")

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        self._write("ends")

    def predict(self, batch: Batch) -> Any:
        return {"anomaly_score": torch.zeros(len(batch["label"]))}

    def configure_optimizers(self) -> Any:
        if self.hparams["estimate"]:
            self.trainer.estimated_stepping_batches  # noqa: B018 - makes the loaders, before the counters are restored
        return torch.optim.SGD(self.parameters(), lr=0.1)


def images(**options: Any) -> AnomalyDataModule:
    return Digits(**{"normal_class": 3, "image_size": 8, "train_batch_size": 50, **options})


DATA: dict[str, Callable[..., AnomalyDataModule]] = {
    "images": images,
    "videos": lambda **more: SyntheticVideos(
        fresh=True, train_size=16, test_size=4, feature_dim=4, train_batch_size=4, **more
    ),
    "scenes": lambda **more: SyntheticStreets(
        image_size=(32, 64),
        train_size=9,
        val_size=2,
        test_size=2,
        crop_size=8,
        train_batch_size=4,
        outlier_fraction=0.5,
        **more,
    ),
}


def diaries(
    tmp_path: Path,
    place: tuple[int, int],
    *,
    hook: str = "on_train_batch_end",
    data: Callable[..., AnomalyDataModule] = images,
    estimate: bool = False,
    **options: Any,
) -> tuple[list[str], list[str]]:
    """What a whole run wrote, and what a resumed one did."""
    save = SaveAt(tmp_path / "killed.ckpt", place, hook)
    whole, resumed = Diary(estimate=estimate), Diary(estimate=estimate)
    options = {"max_epochs": 3, "limit_val_batches": 1, **options}
    seed_everything(0, verbose=False)
    make_trainer(callbacks=[save], **options).fit(whole, datamodule=data())
    seed_everything(1, verbose=False)
    make_trainer(**options).fit(resumed, datamodule=data(), ckpt_path=save.file, weights_only=True)
    return whole.lines, resumed.lines


INSIDE, LAST = (1, 1), (1, 2)


@pytest.mark.parametrize(
    ("kind", "workers", "place"),
    [
        *(("images", 2, INSIDE), ("images", 2, LAST), ("videos", 0, INSIDE)),
        *(("videos", 2, LAST), ("scenes", 0, LAST), ("scenes", 2, INSIDE)),
    ],
)
def test_every_kind_of_data_goes_on_behind_the_last_batch(
    kind: str, workers: int, place: tuple[int, int], tmp_path: Path
) -> None:
    whole, resumed = diaries(
        tmp_path, place, data=lambda: DATA[kind](num_workers=workers), limit_train_batches=3, max_epochs=2
    )
    assert sum("step" in line for line in whole) == 6
    assert sum("step" in line for line in resumed) == 2 - place[1]
    assert resumed == whole[-len(resumed) :]


@pytest.mark.parametrize(
    ("hook", "batch"),
    [
        *(("on_train_batch_start", 0), ("on_train_batch_start", 2), ("on_before_backward", 1)),
        *(("on_train_batch_end", 0), ("on_train_batch_end", 1), ("on_train_batch_end", 2), ("on_validation_end", 2)),
    ],
)
@pytest.mark.parametrize(
    "ends",
    [
        {"max_epochs": 3},
        {"max_epochs": -1, "max_steps": 9},
        {"max_epochs": 3, "max_steps": 100, "check_val_every_n_epoch": 2},
        {"max_epochs": 3, "check_val_every_n_epoch": 3},
        {"val_check_interval": 2},
    ],
    ids=str,
)
def test_every_hook_and_end(ends: dict[str, Any], hook: str, batch: int, tmp_path: Path) -> None:
    if hook == "on_validation_end" and ends.get("val_check_interval"):
        batch = 1
    if hook == "on_validation_end" and ends.get("check_val_every_n_epoch") == 3:
        pytest.skip("there is none in this epoch")
    whole, resumed = diaries(tmp_path, (1, batch), hook=hook, limit_train_batches=3, **ends)
    tail = whole[next(row for row, line in enumerate(whole) if line.startswith(f"1 step {batch} ")) :]
    if hook in ("on_train_batch_end", "on_validation_end"):
        del tail[0]
        while hook == "on_validation_end" and "step" not in tail[0] and "ends" not in tail[0]:
            del tail[0]
    if "val_check_interval" in ends and hook == "on_train_batch_end" and batch == 1:
        # Lightning leaves out the validation that was due inside the epoch; the next one measures.
        assert tail[:2] == ["1 is measured", "1 is validated"]
        del tail[:2]
    assert resumed == tail


@pytest.mark.parametrize("hook", ["on_train_epoch_start", "on_train_epoch_end"])
@pytest.mark.parametrize("ends", [{"max_epochs": 3}, {"max_epochs": -1, "max_steps": 9}], ids=str)
def test_between_two_epochs(hook: str, ends: dict[str, Any], tmp_path: Path) -> None:
    whole, resumed = diaries(tmp_path, (1, 2) if "end" in hook else (2, 2), hook=hook, limit_train_batches=3, **ends)
    assert resumed == whole[whole.index("2 starts") :]


@pytest.mark.parametrize("batch", [1, 2])
def test_loaders_that_were_made_before_the_counters_are_restored(batch: int, tmp_path: Path) -> None:
    whole, resumed = diaries(tmp_path, (1, batch), estimate=True, limit_train_batches=3)
    assert resumed == whole[-len(resumed) :]
    assert f"1 step {batch}" not in resumed[0]


@pytest.mark.parametrize("batch", [2, 3])
def test_gradients_accumulated_since_the_last_step_are_accumulated_again(batch: int, tmp_path: Path) -> None:
    class Learner(Diary):
        def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
            super().training_step(batch, batch_idx)
            return (self.weight - batch["image"].mean()) ** 2

    save, ends = SaveAt(tmp_path / "killed.ckpt", (1, batch)), {"max_epochs": 3, "accumulate_grad_batches": 3}
    whole, resumed = Learner(), Learner()
    make_trainer(callbacks=[save], **ends).fit(whole, datamodule=images(train_batch_size=20))
    make_trainer(**ends).fit(resumed, datamodule=images(train_batch_size=20), ckpt_path=save.file, weights_only=True)
    assert resumed.lines[0].startswith("1 step 3 ")
    assert torch.equal(whole.weight, resumed.weight)
    assert whole.trainer.global_step == resumed.trainer.global_step


@pytest.mark.slow
def test_two_processes(tmp_path: Path, two_processes: dict[str, Any]) -> None:
    for rank in range(2):
        (tmp_path / f"{rank}.txt").touch()

    class Shared(Diary):
        def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            with (tmp_path / f"{self.global_rank}.txt").open("a") as file:
                file.write(self.lines[-1] + "\n")
            return loss

    def written() -> list[list[str]]:
        found = [(tmp_path / f"{rank}.txt").read_text().splitlines() for rank in range(2)]
        for rank in range(2):
            (tmp_path / f"{rank}.txt").write_text("")
        return found

    save, parts = SaveAt(tmp_path / "killed.ckpt", (1, 0)), []
    for resume in (None, save.file):
        seed_everything(1 if resume else 0, verbose=False)
        trainer = make_trainer(
            max_epochs=2,
            limit_train_batches=2,
            limit_val_batches=1,
            callbacks=[] if resume else [save],
            **two_processes,
        )
        trainer.fit(Shared(), datamodule=images(), ckpt_path=resume, weights_only=True)
        parts.append(written())
    whole, resumed = parts
    assert [len(lines) for lines in whole] == [4, 4]
    assert resumed == [lines[-1:] for lines in whole]
    assert resumed[0] != resumed[1]


# What cannot be exact ----------------------------------------------------------------------------------------------------


def test_another_batch_size_is_refused_inside_an_epoch_and_taken_between_two(tmp_path: Path) -> None:
    save = SaveAt(tmp_path / "inside.ckpt", (1, 0))
    between = SaveAt(tmp_path / "between.ckpt", (1, 2), "on_train_epoch_end")
    make_trainer(max_epochs=2, callbacks=[save, between]).fit(Diary(), datamodule=images())
    other = Diary()
    with pytest.raises(CheckpointError, match=r"saved inside an epoch with .*train_batch_size=50.*train_batch_size=20"):
        make_trainer(max_epochs=3).fit(
            other, datamodule=images(train_batch_size=20), ckpt_path=save.file, weights_only=True
        )
    make_trainer(max_epochs=3).fit(
        other, datamodule=images(train_batch_size=20), ckpt_path=between.file, weights_only=True
    )
    assert sum("step" in line for line in other.lines) == len(images(train_batch_size=20).train_dataloader())


def test_states_of_other_optimisers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = SaveAt(tmp_path / "sgd.ckpt", (0, 2), "on_train_epoch_end")
    make_trainer(max_epochs=1, callbacks=[save]).fit(Diary(), datamodule=images())
    others: dict[str, Callable[[Diary], Any]] = {
        "another kind": lambda diary: torch.optim.Adam(diary.parameters()),
        "more groups": lambda diary: torch.optim.SGD(
            [{"params": [diary.weight]}, {"params": [torch.zeros(1, requires_grad=True)]}], lr=0.1
        ),
        "none": lambda diary: None,
    }
    for other in others.values():
        monkeypatch.setattr(Diary, "configure_optimizers", other)
        with pytest.raises(
            CheckpointError, match=r"'.*sgd\.ckpt' does not fit these optimisers.*Resume with the options"
        ):
            make_trainer(max_epochs=2).fit(Diary(), datamodule=images(), ckpt_path=save.file, weights_only=True)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_loader_without_a_state_starts_anew_and_the_next_epoch_is_whole(batch: int, tmp_path: Path) -> None:
    class Short(Diary):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self._write(f"step {batch_idx} {float(batch['image'].sum())}")
            return self.weight * 0

    loader: Any = DataLoader(TensorDataset(torch.rand(6, 1, 4, 4)), batch_size=2)
    save, model = SaveAt(tmp_path / "killed.ckpt", (1, batch)), Short()
    make_trainer(max_epochs=3, callbacks=[save]).fit(Short(), loader)
    make_trainer(max_epochs=3).fit(model, loader, ckpt_path=save.file, weights_only=True)
    steps = [line.split()[:3] for line in model.lines if "step" in line]
    assert steps == [["1", "step", "2"]] * (batch == 1) + [["2", "step", str(step)] for step in range(3)]
    assert "2 starts" in model.lines


def test_a_checkpoint_without_the_place_of_the_loader_says_so(tmp_path: Path) -> None:
    save = SaveAt(tmp_path / "killed.ckpt", (1, 0))
    make_trainer(max_epochs=2, callbacks=[save]).fit(Diary(), datamodule=images())
    former = torch.load(save.file, weights_only=True)
    del former["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    torch.save(former, save.file)
    with pytest.warns(UserWarning, match="does not say which samples its epoch has had"):
        make_trainer(max_epochs=2).fit(Diary(), datamodule=images(), ckpt_path=save.file, weights_only=True)


def test_between_two_epochs_any_loader_may_follow(tmp_path: Path) -> None:
    save = SaveAt(tmp_path / "between.ckpt", (0, 2), "on_train_epoch_end")
    ends = {"max_epochs": -1, "max_steps": 5}
    make_trainer(callbacks=[save], **ends).fit(Diary(), datamodule=images())
    pairs = [{"image": torch.rand(1, 4, 4), "image_path": "a"}] * 4
    model, loader = Diary(), DataLoader(pairs, batch_size=2)  # type: ignore[arg-type]
    make_trainer(**ends).fit(model, loader, ckpt_path=save.file, weights_only=True)
    assert [line[:8] for line in model.lines if "step" in line] == ["1 step 0", "1 step 1"]


def test_a_pass_that_collects_begins_anew(tmp_path: Path) -> None:
    class Collector(Diary):
        single_pass = True

        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def configure_optimizers(self) -> None:
            return None

    save, whole, resumed = SaveAt(tmp_path / "killed.ckpt", (0, 1)), Collector(), Collector()
    seed_everything(0, verbose=False)
    first = make_trainer(callbacks=[save], max_epochs=2)
    first.fit(whole, datamodule=images())
    seed_everything(1, verbose=False)
    second = make_trainer(max_epochs=2)
    second.fit(resumed, datamodule=images(), ckpt_path=save.file, weights_only=True)
    assert resumed.lines == whole.lines
    assert (first.global_step, first.current_epoch) == (second.global_step, second.current_epoch) == (3, 1)
