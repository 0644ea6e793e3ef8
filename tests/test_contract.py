"""What every method must do, present and future: methods are found by walking the package.

A new method needs one file here, ``tests/configs/<Name>.yaml``: a tiny model, its data and how many epochs teach it to
tell planted anomalies from normal images.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tiny_runs
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny_runs import (
    METHODS,
    SEED,
    SHORT,
    all_test_inputs,
    checkpoint_file,
    config,
    fitted,
    make_data,
    make_model,
    make_trainer,
)
from torch import Tensor

from anomaly_suite.cli.catalog import catalog
from anomaly_suite.contract import AnomalyModule, Prediction
from anomaly_suite.errors import CheckpointError, NotFittedError
from anomaly_suite.metrics import auroc
from anomaly_suite.testing.foreign import ForeignData, foreign_to
from anomaly_suite.testing.methods import require_alone_as_together, require_form

FEW = {"limit_train_batches": 3, "limit_val_batches": 2, "limit_test_batches": 2, "limit_predict_batches": 2}


def foreign(name: str) -> type[ForeignData]:
    return foreign_to(all_test_inputs(name))


@torch.no_grad()
def predict(model: AnomalyModule, batch: dict[str, Any], rows: slice = slice(None)) -> Prediction:
    return model.predict({key: value[rows] for key, value in batch.items()})  # type: ignore[return-value]


# The tests of one method stay in one test process, which then fits it once.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.xdist_group(tiny_runs.group(name))) for name in METHODS]
)
class TestEveryMethod:
    def test_scores_are_finite_and_rank_anomalies_higher(self, name: str) -> None:
        model = fitted(name).model
        batch = all_test_inputs(name)
        prediction = predict(model, batch)
        require_form(prediction, batch)
        score = prediction["anomaly_score"]
        if "snippet_score" in prediction:
            assert prediction["snippet_score"].shape == (len(score), int(batch["length"].max()))
            assert prediction["frame_score"].shape == (16 * int(batch["length"].sum()),)
            assert prediction["frame_score"].isfinite().all()
        label = batch.get("label")
        if "ood_mask" in batch:  # no truth for whole images, but for pixels
            assert prediction["pred_target"].shape == batch["target"].shape
            scored = batch["ood_mask"] != 255
            score, label = prediction["anomaly_map"].squeeze(1)[scored], batch["ood_mask"][scored]
        assert auroc(score, label) > 0.8, "anomalous inputs should outrank normal ones"

    def test_checkpoint_restores_the_scores_without_network(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        model = fitted(name).model
        file = checkpoint_file(name)
        monkeypatch.setattr("socket.socket.connect", _no_network)
        restored = type(model).load_from_checkpoint(file, map_location="cpu", weights_only=True).eval()
        first, second = predict(model, all_test_inputs(name)), predict(restored, all_test_inputs(name))
        assert torch.equal(first["anomaly_score"], second["anomaly_score"])

    def test_checkpoint_of_another_class_is_refused(self, name: str) -> None:
        foreign = {**fitted(name).checkpoint, "anomaly_suite": {"class": "SomethingElse", "seed": 0}}
        with pytest.raises(CheckpointError, match="cannot load a checkpoint of SomethingElse"):
            make_model(name).on_load_checkpoint(foreign)

    def test_batch_size_does_not_matter(self, name: str) -> None:
        require_alone_as_together(fitted(name).model, all_test_inputs(name))

    # Own loaders without a sanity check are those of ``fitted``, own ones with it those of ``Training``.
    @pytest.mark.parametrize(("kind", "sanity"), [("mapping", 2), ("pair", 0), ("triple", 2)])
    def test_plain_trainer_with_any_loader(
        self, name: str, kind: str, sanity: int, trainer_in: Callable[..., Trainer]
    ) -> None:
        if foreign(name) is not ForeignData and kind in ("pair", "triple"):
            pytest.skip("a pair would be taken for images and labels: videos and scenes come as mappings")
        model, data = make_model(name, **SHORT.get(name, {})), foreign(name)(make_data(name), kind)
        trainer = trainer_in(num_sanity_val_steps=sanity, max_epochs=3 if name in SHORT else 1, **FEW)
        trainer.fit(model, datamodule=data)
        trainer.test(model, datamodule=data, verbose=False)
        predictions = trainer.predict(model, datamodule=data)
        assert predictions
        assert all(part["anomaly_score"].isfinite().all() for part in predictions)  # type: ignore[call-overload]

    def test_plain_trainer_with_its_own_loader(self, name: str) -> None:
        for predictions in (trained(name).predictions, fitted(name).predictions):
            assert predictions
            assert all(part["anomaly_score"].isfinite().all() for part in predictions)

    def test_bf16_mixed(self, name: str, trainer_in: Callable[..., Trainer]) -> None:
        model, data = make_model(name, **SHORT.get(name, {})), make_data(name)
        trainer = trainer_in(precision="bf16-mixed", max_epochs=3 if name in SHORT else 1, **FEW)
        trainer.fit(model, datamodule=data)
        predictions = trainer.predict(model, dataloaders=data.test_dataloader())
        assert predictions
        score = torch.cat([part["anomaly_score"] for part in predictions])  # type: ignore[call-overload]
        assert score.dtype == torch.float32
        assert score.isfinite().all()

    def test_resumed_training_ends_with_the_same_weights(self, name: str) -> None:
        whole = trained(name)
        seed_everything(SEED + 1, verbose=False)
        resumed = train(name, ckpt_path=whole.halfway).state
        assert whole.state.keys() == resumed.keys()
        for key, value in whole.state.items():
            # The same operations, but on memory laid out anew, which may choose another kernel.
            assert torch.allclose(value.nan_to_num(), resumed[key].nan_to_num(), rtol=1e-5, atol=1e-6), key

    def test_unfitted_predicts_or_says_so(self, name: str) -> None:
        model = make_model(name).eval()
        batch = {key: value[:2] for key, value in all_test_inputs(name).items()}
        if model.is_fitted:
            assert model.test_step(batch, 0)["anomaly_score"].shape == (2,)  # type: ignore[index]
        else:
            with pytest.raises(NotFittedError, match="Run fit first"):
                model.test_step(batch, 0)


class Training(NamedTuple):
    """A short training on a method's own loaders, with Lightning's sanity check before it."""

    state: dict[str, Tensor]
    halfway: Path
    """Checkpoint of the epoch in the middle."""
    predictions: list[dict[str, Any]]


def train(name: str, ckpt_path: Path | None = None) -> Training:
    epochs, folder = max(4, config(name).get("resume_epochs", 4)), Path(tiny_runs.FOLDER.name) / f"halfway-{name}"
    half = epochs // 2
    saver = ModelCheckpoint(
        dirpath=folder, filename="{epoch}", every_n_epochs=half, save_top_k=-1, save_on_train_epoch_end=True
    )
    model, data = make_model(name), make_data(name)
    trainer = make_trainer(
        # A single-pass method stops after its epoch unless told to go on.
        max_epochs=epochs, min_epochs=epochs, num_sanity_val_steps=2, enable_checkpointing=ckpt_path is None,
        callbacks=[saver] if ckpt_path is None else [], default_root_dir=folder, **{**FEW, "limit_val_batches": 1},
    )  # fmt: skip
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    state = {key: value.clone() for key, value in model.state_dict().items() if isinstance(value, Tensor)}
    if ckpt_path is not None:
        return Training(state, ckpt_path, [])
    trainer.test(model, datamodule=data, verbose=False)
    predictions = trainer.predict(model, datamodule=data)
    return Training(state, folder / f"epoch={half - 1}.ckpt", predictions)  # type: ignore[arg-type]


@lru_cache
def trained(name: str) -> Training:
    """The whole training of a method, made once."""
    return train(name)


def _no_network(*args: object) -> None:
    raise AssertionError("rebuilding from a checkpoint must not open a connection")


def test_every_method_is_documented_and_listed() -> None:
    assert len(METHODS) == len(set(METHODS))
    for entry in catalog("methods"):
        assert entry.summary.endswith("."), f"{entry.name} needs a one-sentence summary"
