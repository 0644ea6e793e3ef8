from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from anomaly_suite.errors import ConfigError, NotFiniteError, ShapeError
from anomaly_suite.methods.one_class.padim import PaDiM
from anomaly_suite.nn.gaussian import mahalanobis

Make = Callable[..., Trainer]


def textures(count: int, *, size: tuple[int, int] = (64, 64), seed: int = 0) -> Tensor:
    """Aligned images: one pattern, brightness and noise of each image's own."""
    generator = torch.Generator().manual_seed(seed)
    row, column = torch.meshgrid(*(torch.arange(n) for n in size), indexing="ij")
    pattern = 0.5 + 0.2 * torch.sin(row / 5) * torch.cos(column / 9) + 0.1 * (row > size[0] // 2)
    gain = 0.9 + 0.2 * torch.rand(count, 3, 1, 1, generator=generator)
    return (pattern * gain + 0.03 * torch.randn(count, 3, *size, generator=generator)).clamp(0, 1)


def loader(image: Tensor, *, batch_size: int = 8) -> DataLoader[Any]:
    return DataLoader(TensorDataset(image, torch.zeros(len(image), dtype=torch.long)), batch_size=batch_size)


def fit(trainer: Trainer, image: Tensor, *, batch_size: int = 8, **options: Any) -> PaDiM:
    model = PaDiM(**{"weights": None, "num_channels": 20, **options})
    trainer.fit(model, loader(image, batch_size=batch_size))
    return model.eval()


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> PaDiM:
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, max_epochs=1, default_root_dir=tmp_path_factory.mktemp("padim"),
    )  # fmt: skip
    return fit(trainer, textures(24))


class TestEmbedding:
    def test_a_cell_joins_the_deeper_cells_that_cover_it(self) -> None:
        model = PaDiM(weights=None, num_channels=448)
        image = textures(2, size=(64, 96))
        with torch.no_grad():
            first, second, third = model.backbone(image)
            embedding = model.embed(image)
        assert embedding.shape == (2, 16, 24, 448)
        for r in range(16):
            for c in range(24):
                expected = torch.cat([first[:, :, r, c], second[:, :, r // 2, c // 2], third[:, :, r // 4, c // 4]], 1)
                assert torch.equal(embedding[:, r, c], expected)

    def test_the_seed_decides_the_channels(self) -> None:
        def channels(seed: int) -> list[int]:
            model = PaDiM(weights=None, num_channels=20, seed=seed)
            starts = (0, 64, 192)
            return [int(c) + s for i, s in enumerate(starts) for c in model.get_buffer(f"channels_{i}")]

        assert channels(1) == channels(1)
        assert channels(1) != channels(2)
        assert len(set(channels(1))) == 20
        assert max(channels(1)) < 448

    def test_a_layer_without_a_chosen_channel(self, trainer_in: Make) -> None:
        model = fit(trainer_in(), textures(8, size=(32, 32)), num_channels=1)
        score, _ = model(textures(3, size=(32, 32), seed=1))
        assert score.isfinite().all()

    @pytest.mark.parametrize("count", [0, 449])
    def test_more_channels_than_there_are(self, count: int) -> None:
        with pytest.raises(ConfigError, match="between 1 and the 448"):
            PaDiM(weights=None, num_channels=count)


class TestScores:
    def test_distances_equal_a_direct_solve(self, fitted: PaDiM) -> None:
        train, test = textures(24), textures(3, seed=1)
        with torch.no_grad():
            reference, embedding = (fitted.embed(images).flatten(1, 2) for images in (train, test))
        matrices = torch.stack([torch.cov(reference[:, p].double().T) for p in range(reference.shape[1])])
        matrices += 0.01 * torch.eye(20, dtype=torch.float64)
        centred = (embedding.double() - reference.double().mean(0)).permute(1, 2, 0)  # (P, D, B)
        squared = (centred * torch.linalg.solve(matrices, centred)).sum(1)
        distance = mahalanobis([embedding], fitted.mean.flatten(0, 1), fitted.whitening, positions=256)
        torch.testing.assert_close(distance.double(), squared.sqrt(), rtol=1e-4, atol=0)

    @pytest.mark.parametrize("score", ["smoothed", "raw"])
    @pytest.mark.parametrize("size", [(48, 64), (37, 51)])
    def test_score_is_the_maximum_of_a_map_of_input_size(
        self, score: str, size: tuple[int, int], trainer_in: Make
    ) -> None:
        model = fit(trainer_in(), textures(10, size=size), score=score)
        value, anomaly_map = model(textures(3, size=size, seed=1))
        assert anomaly_map.shape == (3, 1, *size)
        assert anomaly_map.isfinite().all()
        assert anomaly_map.min() >= 0
        if score == "smoothed":
            assert torch.equal(value, anomaly_map.amax((1, 2, 3)))
        else:
            assert (value > anomaly_map.amax((1, 2, 3))).all()  # smoothing lowers a peak

    @pytest.mark.parametrize("corner", [(8, 8), (8, 40), (40, 24)])
    def test_a_defect_peaks_where_it_was_pasted(self, fitted: PaDiM, corner: tuple[int, int]) -> None:
        normal = textures(1, seed=1)
        defect, (top, left) = normal.clone(), corner
        defect[:, :, top : top + 12, left : left + 12] = torch.tensor([0.9, 0.1, 0.1]).view(3, 1, 1)
        (low, _), (high, anomaly_map) = fitted(normal), fitted(defect)
        peak = int(anomaly_map.flatten().argmax())
        assert high > low
        assert abs(peak // 64 - (top + 6)) <= 8
        assert abs(peak % 64 - (left + 6)) <= 8

    def test_moved_content_scores_higher(self, fitted: PaDiM) -> None:
        image = textures(4, seed=1)
        assert (fitted(image.roll((20, 13), (2, 3)))[0] > fitted(image)[0]).all()

    def test_random_features_find_square_defects(self, fitted: PaDiM) -> None:
        normal, defect = textures(20, seed=1), textures(20, seed=2)
        defect[:, :, 20:32, 30:42] = 0.5
        ranks = fitted(defect)[0].unsqueeze(1) > fitted(normal)[0]
        assert ranks.float().mean() > 0.9

    def test_predict_equals_forward_for_batches_of_any_size(self, fitted: PaDiM) -> None:
        image = textures(9, seed=1)
        score, anomaly_map = fitted(image)
        prediction = fitted.predict({"image": image})
        torch.testing.assert_close(prediction["anomaly_score"], score, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(prediction["anomaly_map"], anomaly_map, rtol=1e-4, atol=1e-5)

    def test_another_size_than_in_training(self, fitted: PaDiM) -> None:
        with pytest.raises(ShapeError, match=r"16x16 positions.*16x8"):
            fitted(textures(1, size=(64, 32)))

    def test_train_mode_does_not_reach_the_backbone(self, fitted: PaDiM) -> None:
        image = textures(4, seed=1)
        expected = fitted(image)[0]
        fitted.train()
        torch.testing.assert_close(fitted(image)[0], expected)
        assert not any(part.training for part in fitted.backbone.modules())  # some networks drop values in training
        fitted.eval()


class TestFit:
    def test_a_singular_covariance_without_eps(self, trainer_in: Make) -> None:
        with pytest.raises(ConfigError, match=r"eps=0\.0 does not"):
            fit(trainer_in(), textures(4, size=(32, 32)), eps=0.0)

    def test_two_images_are_enough_and_one_is_not(self, trainer_in: Make) -> None:
        model = fit(trainer_in(), textures(2, size=(32, 32)), batch_size=1)
        assert model(textures(3, size=(32, 32), seed=1))[0].isfinite().all()
        with pytest.raises(ConfigError, match=r"at least 2 training images.*got 1"):
            fit(trainer_in(), textures(1, size=(32, 32)))

    def test_padding_rows_do_not_count(self, trainer_in: Make) -> None:
        image = textures(6, size=(32, 32))
        padding = torch.tensor([False] * 6 + [True] * 2)
        rows = [{"image": x, "padding": p} for x, p in zip(torch.cat([image, image[:2]]), padding, strict=True)]
        padded = PaDiM(weights=None, num_channels=20)
        trainer_in().fit(padded, DataLoader(rows, batch_size=4))  # type: ignore[arg-type]
        plain = fit(trainer_in(), image, batch_size=4)
        assert torch.equal(padded.mean, plain.mean)
        assert torch.equal(padded.factor, plain.factor)

    def test_statistics_are_summed_over_processes(self, trainer_in: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        image = textures(6, size=(32, 32))
        twice = fit(trainer_in(), torch.cat([image, image]), batch_size=6)
        monkeypatch.setattr(PaDiM, "sum_over_ranks", lambda self, value: value.mul_(2))  # in place, as DDP does
        two_ranks = fit(trainer_in(), image, batch_size=6)
        torch.testing.assert_close(two_ranks.whitening, twice.whitening)

    def test_validating_half_way_changes_nothing(self, trainer_in: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(PaDiM, "sum_over_ranks", lambda self, value: value.mul_(1))
        image = textures(8, size=(32, 32))
        plain = fit(trainer_in(), image, batch_size=2)
        halved = PaDiM(weights=None, num_channels=20)
        trainer_in(val_check_interval=0.5).fit(halved, loader(image, batch_size=2), loader(image))
        assert torch.equal(plain.factor, halved.factor)
        assert halved._moments is None

    def test_a_second_pass_starts_anew(self, trainer_in: Make) -> None:
        image = textures(8, size=(32, 32))
        once, again = fit(trainer_in(), image), fit(trainer_in(max_epochs=2, min_epochs=2), image)
        assert torch.equal(once.factor, again.factor)

    def test_broken_pixels(self, trainer_in: Make) -> None:
        image = textures(8, size=(32, 32))
        image[5, 0, 3, 3] = float("nan")
        with pytest.raises(NotFiniteError, match="in batch 2 of epoch 0 sample 1 holds nan"):
            fit(trainer_in(), image, batch_size=2)

    def test_images_of_two_sizes(self, trainer_in: Make) -> None:
        rows = [(textures(1, size=(32, 32))[0], 0), (textures(1, size=(32, 64))[0], 0)]
        with pytest.raises(ShapeError, match="one size; batch 1"):
            trainer_in().fit(PaDiM(weights=None), DataLoader(rows, batch_size=1))  # type: ignore[arg-type]

    def test_checkpoint_gives_the_same_scores_without_timm_weights(
        self, trainer_in: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(PaDiM, "load_pretrained", lambda self: None)
        saver = ModelCheckpoint(dirpath=tmp_path, filename="padim")
        trainer = trainer_in(enable_checkpointing=True, callbacks=[saver])
        model = fit(trainer, textures(8), weights="imagenet", num_channels=100)
        monkeypatch.undo()

        def refuse(*_: Any, **__: Any) -> None:
            raise AssertionError("a checkpoint holds its weights")

        monkeypatch.setattr(timm.models._builder, "load_pretrained", refuse)
        restored = PaDiM.load_from_checkpoint(tmp_path / "padim.ckpt", weights_only=True).eval()
        image = textures(3, seed=1)
        assert torch.equal(model(image)[1], restored(image)[1])
        assert torch.equal(
            trainer.predict(restored, loader(image), weights_only=True)[0]["anomaly_score"], model(image)[0]
        )  # type: ignore[index, call-overload]
        entries = 16 * 16 * 100 * 101 // 2
        others = sum(
            value.numel() * value.element_size() for value in model.state_dict().values() if isinstance(value, Tensor)
        )
        assert (tmp_path / "padim.ckpt").stat().st_size < 1.02 * others
        assert model.factor.numel() == entries

    def test_saving_during_a_fit_makes_room_and_the_fit_ends_ready(self, trainer_in: Make, tmp_path: Path) -> None:
        sizes: list[int] = []

        class Saver(ModelCheckpoint):
            def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
                trainer.save_checkpoint(tmp_path / "during.ckpt")
                sizes.append(pl_module.whitening.numel())

        trainer = trainer_in(enable_checkpointing=True, callbacks=[Saver(dirpath=tmp_path)])
        image = textures(8, size=(32, 32))
        model = PaDiM(weights=None, num_channels=20)
        trainer.fit(model, loader(image), loader(image))
        strips = model.whitening.clone()
        assert sizes == [0]
        assert strips.numel() > 0
        trainer.save_checkpoint(tmp_path / "after.ckpt")
        assert torch.equal(model.whitening, strips)
        expected = model.eval()(image)[1]
        model.whitening = torch.empty(0)  # as after a fit that was interrupted
        assert torch.equal(model(image)[1], expected)

    def test_checkpoints_of_24_bit_numbers_still_load(self, fitted: PaDiM) -> None:
        """They hold the upper three bytes of each float32 number, rounded: an axis more, and an error of 2**-16."""
        state, image = fitted.state_dict(), textures(3, seed=1)
        exact = state["factor"]
        state["factor"] = (exact.view(torch.int32) + 0x80).view(torch.uint8).view(*exact.shape, 4)[..., 1:].clone()
        loaded = PaDiM(weights=None, num_channels=20)
        loaded.load_state_dict(state)
        assert loaded.factor.dtype == torch.float32
        torch.testing.assert_close(loaded.factor, exact, rtol=2**-16, atol=0)
        assert not torch.equal(loaded.factor, exact)
        torch.testing.assert_close(loaded.eval()(image)[1], fitted(image)[1], rtol=1e-4, atol=0)

    def test_statistics_stay_in_full_precision_under_bf16(self, trainer_in: Make) -> None:
        model = fit(trainer_in(precision="bf16-mixed"), textures(8, size=(32, 32)))
        image = textures(3, size=(32, 32), seed=1)
        with torch.autocast("cpu", torch.bfloat16):
            mixed, embedding = model(image)[1], model.embed(image)
        distance = mahalanobis([embedding.flatten(1, 2)], model.mean.flatten(0, 1), model.whitening, positions=64)
        assert mixed.dtype == torch.float32
        # Smoothing of 8x8 distances that were computed without rounding to bfloat16.
        peak = distance.amax()
        assert mixed.max() <= peak
        assert mixed.mean().item() == pytest.approx(distance.mean().item(), rel=0.05)


def test_border_of_the_smoothing_is_an_option(fitted: PaDiM) -> None:
    """``symmetric`` is what released implementations do: SciPy's filter of the enlarged distances."""
    image = textures(2, seed=5)
    with torch.no_grad():
        mirrored = fitted(image)[1]
        distance = fitted._score([fitted.embed(image)], (64, 64), positions=64)  # as forward
        model = PaDiM(weights=None, num_channels=20, border="symmetric")
        model.load_state_dict(fitted.state_dict())
        symmetric = model.eval()(image)[1]
    assert torch.equal(distance[1], mirrored)
    sharp = PaDiM(weights=None, num_channels=20, sigma=1e-3)
    sharp.load_state_dict(fitted.state_dict())
    with torch.no_grad():
        enlarged = sharp.eval()(image)[1][:, 0].double().numpy()
    for found, mode in ((mirrored, "mirror"), (symmetric, "reflect")):
        expected = [gaussian_filter(x, 1.0, mode=mode, radius=4) for x in enlarged]
        assert np.allclose(found[:, 0].numpy(), expected, rtol=1e-4, atol=1e-4)
    inner = (..., slice(4, -4), slice(4, -4))
    assert torch.allclose(mirrored[inner], symmetric[inner], rtol=1e-4)
    assert not torch.allclose(mirrored, symmetric, rtol=1e-4)
