from __future__ import annotations

import pytest
import torch
from torch import Tensor

from anomaly_suite.errors import ConfigError
from anomaly_suite.nn.gaussian import (
    StreamedMoments,
    channel_moments,
    covariance,
    fit_gaussians,
    inverse_cholesky,
    mahalanobis,
    mean_and_deviation,
    packed_to_strips,
    strip_rows,
    strips,
    triangle,
    whitening_matrix,
)


def moments_of(embedding: Tensor, sizes: list[int]) -> StreamedMoments:
    moments = StreamedMoments(embedding.shape[1], embedding.shape[2], device=embedding.device)
    for part in embedding.split(sizes):
        moments.add([part])
    return moments


def symmetric(lower: Tensor) -> Tensor:
    return lower.tril() + lower.tril(-1).mT


def in_strips(lower: Tensor) -> Tensor:
    rows = strip_rows(lower.shape[1])
    return torch.cat([lower[:, start:stop, :stop].flatten(1) for start, stop in rows], 1)


def direct_covariance(embedding: Tensor) -> Tensor:
    return torch.stack([torch.cov(embedding[:, p].double().T) for p in range(embedding.shape[1])])


class TestMoments:
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

    def test_channel_moments_add_up_to_mean_and_deviation(self) -> None:
        x = 100 + torch.randn(6, 3, 4, 5, generator=torch.Generator().manual_seed(0))
        total = channel_moments(x[:1]) + channel_moments(x[1:])
        mean, deviation = mean_and_deviation(total)
        values = x.double().transpose(0, 1).flatten(1)
        torch.testing.assert_close(mean, values.mean(1).float())
        torch.testing.assert_close(deviation, values.std(1, correction=0).float())


class TestWhitening:
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

    def test_a_singular_covariance_without_eps(self) -> None:
        matrix = torch.ones(2, 3, 3, dtype=torch.float64)
        with pytest.raises(ConfigError, match=r"eps=0\.0 does not"):
            whitening_matrix(matrix, eps=0.0)
        assert whitening_matrix(matrix, eps=0.1).isfinite().all()

    def test_one_image_of_huge_values_is_not_blamed_on_eps(self) -> None:
        with pytest.raises(ConfigError, match=r"variance 1e\+30, beside which eps is nothing: look for images with"):
            whitening_matrix(torch.full((1, 3, 3), 1e30, dtype=torch.float64), eps=0.01)


class TestGaussians:
    def test_fit_gives_means_and_packed_triangles(self) -> None:
        embedding = torch.randn(50, 70, 9, generator=torch.Generator().manual_seed(0))  # more positions than one block
        moments = moments_of(embedding, [20, 30])
        kept = moments.second.clone()
        mean, packed = fit_gaussians(moments, eps=0.5, sum_over_ranks=lambda value: value.mul_(1))
        assert mean.dtype == packed.dtype == torch.float32
        torch.testing.assert_close(mean, embedding.mean(0))
        matrices = direct_covariance(embedding) + 0.5 * torch.eye(9, dtype=torch.float64)
        expected = torch.linalg.inv(torch.linalg.cholesky(matrices)).float()
        row, column = torch.tril_indices(9, 9)
        torch.testing.assert_close(packed, expected[:, row, column])
        assert torch.equal(moments.second, kept)

    def test_moments_are_summed_over_processes(self) -> None:
        embedding = torch.randn(10, 3, 4, generator=torch.Generator().manual_seed(0))
        moments, both = moments_of(embedding, [10]), moments_of(torch.cat([embedding, embedding]), [20])
        summed = fit_gaussians(moments, eps=0.1, sum_over_ranks=lambda value: value.mul_(2))  # in place, as DDP does
        for first, second in zip(summed, fit_gaussians(both, eps=0.1, sum_over_ranks=lambda value: value), strict=True):
            torch.testing.assert_close(first, second)

    def test_portions_and_blocks_change_nothing(self) -> None:
        generator = torch.Generator().manual_seed(0)
        embedding, mean = torch.randn(7, 70, 9, generator=generator), torch.randn(70, 9, generator=generator)
        whitening = torch.randn(70, 9, 9, generator=generator).tril()
        expected = torch.linalg.vector_norm(torch.einsum("pde,npe->pnd", whitening, embedding - mean), dim=2)
        for sizes, positions in (([7], 70), ([3, 4], 64), ([1, 1, 5], 1)):
            distance = mahalanobis(embedding.split(sizes), mean, in_strips(whitening), positions=positions)
            torch.testing.assert_close(distance, expected)

    def test_squared_distances_average_to_the_number_of_channels(self) -> None:
        generator = torch.Generator().manual_seed(0)
        mixing, offset = torch.randn(2, 6, 6, generator=generator), torch.randn(2, 6, generator=generator)

        def draw(count: int) -> Tensor:
            return torch.einsum("npd,pde->npe", torch.randn(count, 2, 6, generator=generator), mixing) + offset

        moments = moments_of(draw(20_000), [20_000])
        whitening = whitening_matrix(covariance(moments.count, moments.total, moments.second), eps=0).float()
        mean = (moments.total / moments.count).float()
        distance = mahalanobis([draw(20_000)], mean, in_strips(whitening), positions=2)
        torch.testing.assert_close((distance**2).mean(1), torch.full((2,), 6.0), rtol=0.02, atol=0)

    def test_distance_along_an_eigenvector(self) -> None:
        generator = torch.Generator().manual_seed(0)
        factor = torch.randn(1, 5, 5, generator=generator, dtype=torch.float64)
        matrix, eps, step = factor @ factor.mT, 0.01, 3.0
        values, vectors = torch.linalg.eigh(matrix[0])
        mean = torch.randn(1, 5, generator=generator, dtype=torch.float64)
        whitening = in_strips(whitening_matrix(matrix, eps=eps))
        assert mahalanobis([mean.unsqueeze(0)], mean, whitening, positions=1).item() == 0
        moved = (mean + step * vectors.T).unsqueeze(1)  # (eigenvectors, 1, D)
        distance = mahalanobis([moved], mean, whitening, positions=1)[0]
        torch.testing.assert_close(distance, step / (values + eps).sqrt())

    def test_mixing_channels_changes_nothing_without_eps(self) -> None:
        generator = torch.Generator().manual_seed(0)
        embedding = torch.randn(200, 2, 4, generator=generator, dtype=torch.float64)
        mixing = torch.randn(4, 4, generator=generator, dtype=torch.float64)

        def distances(x: Tensor) -> Tensor:
            moments = moments_of(x, [200])
            whitening = whitening_matrix(covariance(moments.count, moments.total, moments.second), eps=0)
            return mahalanobis([x], moments.total / moments.count, in_strips(whitening), positions=2)

        torch.testing.assert_close(distances(embedding), distances(embedding @ mixing + 5))


class TestTriangles:
    @pytest.mark.parametrize("channels", [1, 3, 4, 5, 23])
    def test_strips_hold_the_triangle_and_zeros(self, channels: int) -> None:
        full = torch.randn(3, channels, channels).tril()
        rows = [row for start, stop in strip_rows(channels) for row in range(start, stop)]
        assert rows == list(range(channels))
        packed = full.flatten(1)[:, triangle(channels, device=full.device)]
        assert packed.shape == (3, channels * (channels + 1) // 2)
        for (start, stop), strip in strips(packed_to_strips(packed, channels), channels):
            assert torch.equal(strip, full[:, start:stop, :stop])
