from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from anomaly_suite.errors import ConfigError, NotFiniteError, ShapeError
from anomaly_suite.methods.one_class.padim import (
    PaDiM,
    StreamedMoments,
    covariance,
    from_24_bit,
    inverse_cholesky,
    mahalanobis,
    smoothing_matrix,
    strip_order,
    strip_rows,
    strips,
    to_24_bit,
    whitening_factor,
)
from anomaly_suite.nn.blur import gaussian_blur

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


def moments_of(embedding: Tensor, sizes: list[int]) -> StreamedMoments:
    moments = StreamedMoments((1, embedding.shape[1]), embedding.shape[2], device=embedding.device)
    for part in embedding.split(sizes):
        moments.add([part])
    return moments


def symmetric(lower: Tensor) -> Tensor:
    return lower.tril() + lower.tril(-1).mT


def in_strips(lower: Tensor) -> Tensor:
    row, column = torch.tril_indices(*lower.shape[1:]).unbind()
    order = strip_order(lower.shape[1], device=lower.device)
    return F.pad(lower[:, row, column], (0, 1))[:, order]


def direct_covariance(embedding: Tensor) -> Tensor:
    return torch.stack([torch.cov(embedding[:, p].double().T) for p in range(embedding.shape[1])])


class TestStatistics:
    @pytest.mark.parametrize("sizes", [[50], [1] * 50, [7, 30, 13]])
    def test_streamed_covariance_equals_the_direct_one(self, sizes: list[int]) -> None:
        generator = torch.Generator().manual_seed(0)
        mixing = torch.randn(70, 9, 9, generator=generator)  # more positions than one chunk holds
        embedding = torch.einsum("npd,pde->npe", torch.randn(50, 70, 9, generator=generator), mixing) + 1000
        moments = moments_of(embedding, sizes)
        expected = direct_covariance(embedding)
        scale = expected.diagonal(dim1=1, dim2=2).sqrt()
        error = (symmetric(covariance(moments.count, moments.total, moments.second)) - expected).abs()
        assert (error / (scale.unsqueeze(1) * scale.unsqueeze(2))).max() < 1e-9
        torch.testing.assert_close(moments.total / moments.count, embedding.double().mean(0))

    def test_order_does_not_matter(self) -> None:
        embedding = torch.randn(40, 3, 5)
        first, second = moments_of(embedding, [40]), moments_of(embedding[torch.randperm(40)], [11, 29])
        matrices = [covariance(moments.count, moments.total, moments.second) for moments in (first, second)]
        torch.testing.assert_close(matrices[0].tril(), matrices[1].tril())

    @pytest.mark.parametrize("channels", [1, 3, 4, 5, 23])
    def test_strips_hold_the_triangle_and_zeros(self, channels: int) -> None:
        full = torch.randn(3, channels, channels).tril()
        rows = [row for start, stop in strip_rows(channels) for row in range(start, stop)]
        assert rows == list(range(channels))
        for (start, stop), strip in strips(in_strips(full), channels):
            assert torch.equal(strip, full[:, start:stop, :stop])

    @pytest.mark.parametrize("channels", [1, 64, 65, 150])  # whole, and by halves once and twice
    def test_inverse_of_the_cholesky_factor(self, channels: int) -> None:
        sample = torch.randn(3, 2 * channels, channels, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        matrix = sample.mT @ sample
        inverse, failed = inverse_cholesky(matrix.tril())
        assert not failed
        assert torch.equal(inverse, inverse.tril())
        identity = torch.eye(channels, dtype=torch.float64).expand(3, -1, -1)
        torch.testing.assert_close(inverse @ torch.linalg.cholesky(matrix), identity)

    @pytest.mark.parametrize("place", [0, 40, 149])
    def test_a_matrix_without_an_inverse_is_told_wherever_it_fails(self, place: int) -> None:
        matrix = torch.eye(150, dtype=torch.float64).repeat(2, 1, 1)
        matrix[1, place, place] = -1
        assert inverse_cholesky(matrix)[1]

    def test_squared_distances_average_to_the_number_of_channels(self) -> None:
        generator = torch.Generator().manual_seed(0)
        mixing, offset = torch.randn(2, 6, 6, generator=generator), torch.randn(2, 6, generator=generator)

        def draw(count: int) -> Tensor:
            return torch.einsum("npd,pde->npe", torch.randn(count, 2, 6, generator=generator), mixing) + offset

        moments = moments_of(draw(20_000), [20_000])
        whitening = whitening_factor(covariance(moments.count, moments.total, moments.second), eps=0).float()
        mean = (moments.total / moments.count).float()
        distance = mahalanobis(draw(20_000).transpose(0, 1), mean, in_strips(whitening))
        torch.testing.assert_close((distance**2).mean(1), torch.full((2,), 6.0), rtol=0.02, atol=0)

    def test_distance_along_an_eigenvector(self) -> None:
        generator = torch.Generator().manual_seed(0)
        factor = torch.randn(1, 5, 5, generator=generator, dtype=torch.float64)
        matrix, eps, step = factor @ factor.mT, 0.01, 3.0
        values, vectors = torch.linalg.eigh(matrix[0])
        mean = torch.randn(1, 5, generator=generator, dtype=torch.float64)
        whitening = in_strips(whitening_factor(matrix, eps=eps))
        assert mahalanobis(mean.unsqueeze(1), mean, whitening).item() == 0
        moved = (mean + step * vectors.T).unsqueeze(0)  # (1, eigenvectors, D)
        torch.testing.assert_close(mahalanobis(moved, mean, whitening)[0], step / (values + eps).sqrt())

    def test_mixing_channels_changes_nothing_without_eps(self) -> None:
        generator = torch.Generator().manual_seed(0)
        embedding = torch.randn(200, 2, 4, generator=generator, dtype=torch.float64)
        mixing = torch.randn(4, 4, generator=generator, dtype=torch.float64)

        def distances(x: Tensor) -> Tensor:
            moments = moments_of(x, [200])
            whitening = whitening_factor(covariance(moments.count, moments.total, moments.second), eps=0)
            return mahalanobis(x.transpose(0, 1), moments.total / moments.count, in_strips(whitening))

        torch.testing.assert_close(distances(embedding), distances(embedding @ mixing + 5))

    def test_24_bits_keep_fifteen_bits_of_mantissa(self) -> None:
        value = torch.randn(10_000) * 10 ** torch.linspace(-20, 20, 10_000)
        packed = to_24_bit(value)
        assert packed.shape == (10_000, 3)
        assert ((from_24_bit(packed) - value) / value).abs().max() <= 2**-16
        assert torch.equal(from_24_bit(to_24_bit(torch.tensor([0.0, -1.0, 0.5]))), torch.tensor([0.0, -1.0, 0.5]))

    def test_a_singular_covariance_without_eps(self, trainer_in: Make) -> None:
        with pytest.raises(ConfigError, match=r"eps=0\.0 does not"):
            fit(trainer_in(), textures(4, size=(32, 32)), eps=0.0)


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
        matrices = direct_covariance(reference) + 0.01 * torch.eye(20, dtype=torch.float64)
        centred = (embedding.double() - reference.double().mean(0)).permute(1, 2, 0)  # (P, D, B)
        squared = (centred * torch.linalg.solve(matrices, centred)).sum(1)
        distance = mahalanobis(embedding.transpose(0, 1), fitted.mean.flatten(0, 1), fitted.whitening)
        torch.testing.assert_close(distance.double(), squared.sqrt(), rtol=1e-4, atol=0)

    @pytest.mark.parametrize(("rows", "columns", "size"), [(16, 16, (64, 64)), (10, 13, (37, 51)), (3, 1, (9, 4))])
    def test_smoothing_by_products_equals_spreading_and_blurring(
        self, rows: int, columns: int, size: tuple[int, int]
    ) -> None:
        distance = torch.rand(2, 1, rows, columns)
        down, across = (
            smoothing_matrix(cells, pixels, sigma=1.3, device=distance.device)
            for cells, pixels in zip((rows, columns), size, strict=True)
        )
        spread = F.interpolate(distance, size=size, mode="bilinear", align_corners=False)
        torch.testing.assert_close(down @ distance @ across.T, gaussian_blur(spread, sigma=1.3))

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
        fitted.eval()


class TestFit:
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
        with pytest.raises(NotFiniteError, match="batch 2 hold NaN"):
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
        assert model.factor.numel() == 3 * entries

    def test_statistics_stay_in_full_precision_under_bf16(self, trainer_in: Make) -> None:
        model = fit(trainer_in(precision="bf16-mixed"), textures(8, size=(32, 32)))
        image = textures(3, size=(32, 32), seed=1)
        with torch.autocast("cpu", torch.bfloat16):
            mixed, embedding = model(image)[1], model.embed(image)
        distance = mahalanobis(embedding.flatten(1, 2).transpose(0, 1), model.mean.flatten(0, 1), model.whitening)
        assert mixed.dtype == torch.float32
        # Smoothing of 8x8 distances that were computed without rounding to bfloat16.
        peak = distance.amax()
        assert mixed.max() <= peak
        assert mixed.mean().item() == pytest.approx(distance.mean().item(), rel=0.05)
