"""Gaussians of feature vectors: moments from a stream, whitening by inverse Cholesky factors, Mahalanobis distances.

There may be thousands of Gaussians, one at every position of an image, with hundreds of channels each, so time and memory
decide the form of their matrices. These are lower triangles. A checkpoint holds them packed, row by row, without the zeros
above the diagonal. Products are taken with a few strips of rows, each cut off at the column where its last row ends.

Axes: B batch, P positions, D channels, H and W pixels, T = D * (D + 1) / 2 entries of a packed triangle, S entries of the
    strips that cover one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from anomaly_suite.errors import ConfigError

POSITIONS_AT_ONCE = 64
"""Positions worked on at once: their matrices stay in cache, and few double-precision ones exist at a time."""

STRIPS = 10
"""Strips of rows that cover a triangle: 45 % less memory and work than the square, in dense products; more are no faster."""

LAPACK_SIZE = 64
"""Widest matrices left to LAPACK, which takes them one by one; a batch of wider ones is split into products."""

# Moments ---------------------------------------------------------------------------------------------------------


class StreamedMoments:
    """Count, sum and second moment of the vectors at every position, in float64; memory does not grow with their number.

    Args:
        positions: P.
        channels: D.
        device: Where to accumulate.
    """

    def __init__(self, positions: int, channels: int, *, device: torch.device) -> None:
        entries = sum((stop - start) * stop for start, stop in strip_rows(channels))
        self.count = torch.zeros((), dtype=torch.float64, device=device)
        self.total = torch.zeros(positions, channels, dtype=torch.float64, device=device)
        self.second = torch.zeros(positions, entries, dtype=torch.float64, device=device)

    def add(self, portions: Sequence[Tensor]) -> None:
        """Take in a batch, in one or more portions of shape (B, P, D)."""
        self.count += sum(len(portion) for portion in portions)
        by_position = (portion.transpose(0, 1) for portion in portions)  # (P, B, D)
        for total, second, *rows in _blocks(POSITIONS_AT_ONCE, self.total, self.second, *by_position):
            part = torch.cat(rows, 1).double()
            total += part.sum(1)
            for (start, stop), strip in strips(second, part.shape[2]):
                strip += torch.bmm(part[..., start:stop].mT, part[..., :stop])


def covariance(count: Tensor, total: Tensor, second: Tensor) -> Tensor:
    """Unbiased sample covariances.

    Args:
        count: Number of samples, at least 2. Shape ().
        total: Their sum, shape (P, D), float64.
        second: Strips of the sums of their outer products, shape (P, S), float64.

    Returns:
        Shape (P, D, D); only the lower triangles are right.
    """
    channels = total.shape[1]
    matrix = total.new_zeros(len(total), channels, channels)
    for (start, stop), strip in strips(second, channels):
        matrix[:, start:stop, :stop] = strip
    matrix.baddbmm_(total.unsqueeze(2), (total / count).unsqueeze(1), alpha=-1)
    return matrix.div_(count - 1)


def channel_moments(x: Tensor) -> Tensor:
    """Count, sum and sum of squares of every channel: (B, D, H, W) to (3, D), float64. Those of several batches add up."""
    values = x.double()
    total = values.sum((0, 2, 3))
    return torch.stack([torch.full_like(total, x.numel() / x.shape[1]), total, (values**2).sum((0, 2, 3))])


def mean_and_deviation(total: Tensor) -> Tensor:
    """Mean and standard deviation of every channel.

    Args:
        total: Summed :func:`channel_moments`. Shape (..., 3, D).

    Returns:
        Shape (..., 2, D), float32.
    """
    count, first, second = total.unbind(-2)
    mean = first / count
    return torch.stack([mean, (second / count - mean**2).clamp_min(0).sqrt()], -2).float()


# Gaussians -------------------------------------------------------------------------------------------------------


def fit_gaussians(
    moments: StreamedMoments, *, eps: float, sum_over_ranks: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Mean and whitening matrix of every position.

    Args:
        moments: Of this process; they are left as they are.
        eps: Added to the diagonal of every covariance.
        sum_over_ranks: Sums a tensor over all processes; it may overwrite its argument.

    Returns:
        Means (P, D) and packed triangles (P, T) of :func:`whitening_matrix`, float32.

    Raises:
        ConfigError: a covariance is singular, which only a tiny ``eps`` allows.
    """
    count, total = (sum_over_ranks(moment.clone()) for moment in (moments.count, moments.total))
    lower = triangle(total.shape[1], device=total.device)
    packed = torch.empty(len(total), len(lower), dtype=torch.float32, device=total.device)
    for out, part, second in _blocks(POSITIONS_AT_ONCE, packed, total, moments.second):
        matrices = covariance(count, part, sum_over_ranks(second.clone()))
        whitening = whitening_matrix(matrices, eps=eps).float()
        out.copy_(whitening.flatten(1).index_select(1, lower))
    return (total / count).float(), packed


def whitening_matrix(covariance: Tensor, *, eps: float) -> Tensor:
    """Inverse W of the Cholesky factor, so that ``|W (x - mean)|`` is the Mahalanobis distance.

    Args:
        covariance: Shape (P, D, D), float64; only the lower triangles are read.
        eps: Added to the diagonal.

    Returns:
        Shape (P, D, D), lower triangular, float64.

    Raises:
        ConfigError: a covariance is singular, which only a tiny ``eps`` allows.
    """
    identity = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    inverse, failed = inverse_cholesky(covariance + eps * identity)
    if bool(failed):
        largest = float(covariance.diagonal(dim1=1, dim2=2).max())
        if eps < largest * torch.finfo(covariance.dtype).eps * covariance.shape[-1]:  # lost when it is added
            advice = f"A feature has variance {largest:.3g}, beside which eps is nothing: look for images with broken values."
        else:
            advice = "Give a larger eps, more training images or fewer channels."
        raise ConfigError(
            f"eps must make every covariance invertible; eps={eps} does not for this training set. {advice}"
        )
    return inverse


def inverse_cholesky(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Inverses of Cholesky factors, by halves.

    With ``[[A, .], [B, C]]``, ``U`` the inverse factor of ``A``, ``X = B U'`` and ``V`` that of ``C - X X'``, the
    inverse factor is ``[[U, 0], [-V X U, V]]``.

    Args:
        matrix: Shape (P, D, D), symmetric; only the lower triangles are read.

    Returns:
        Shape (P, D, D), and a flag (): whether a matrix is not positive definite.
    """
    size = matrix.shape[-1]
    if size <= LAPACK_SIZE:
        factor, info = torch.linalg.cholesky_ex(matrix)
        identity = torch.eye(size, dtype=matrix.dtype, device=matrix.device)
        return torch.linalg.solve_triangular(factor, identity, upper=False), info.any()
    half = size // 2
    first, first_failed = inverse_cholesky(matrix[:, :half, :half])
    side = torch.bmm(matrix[:, half:, :half], first.mT)
    second, second_failed = inverse_cholesky(torch.baddbmm(matrix[:, half:, half:], side, side.mT, alpha=-1))
    inverse = torch.zeros_like(matrix)
    inverse[:, :half, :half] = first
    inverse[:, half:, :half] = torch.bmm(second, torch.bmm(side, first)).neg_()
    inverse[:, half:, half:] = second
    return inverse, first_failed | second_failed


def mahalanobis(portions: Sequence[Tensor], mean: Tensor, whitening: Tensor, *, positions: int) -> Tensor:
    """Distance of every vector to the Gaussian of its position.

    Args:
        portions: A batch in one or more portions of shape (B, P, D).
        mean: Shape (P, D).
        whitening: Strips of :func:`whitening_matrix`, shape (P, S).
        positions: Positions worked on at once: P, or :data:`POSITIONS_AT_ONCE` on a CPU.

    Returns:
        Shape (P, B), 0 or above.
    """
    by_position = (portion.transpose(0, 1) for portion in portions)  # (P, B, D)
    distances = []
    for centre, matrix, *rows in _blocks(positions, mean, whitening, *by_position):
        centred = torch.cat(rows, 1) - centre.unsqueeze(1)
        white = [
            torch.bmm(centred[..., :stop], strip.transpose(1, 2)) for (_, stop), strip in strips(matrix, mean.shape[1])
        ]
        distances.append(torch.linalg.vector_norm(torch.cat(white, 2), dim=2))
    return torch.cat(distances)


# Triangles -------------------------------------------------------------------------------------------------------


def triangle(channels: int, *, device: torch.device) -> Tensor:
    """Flat indices (T,) of the lower triangle of a (D, D) matrix, diagonal included."""
    row, column = torch.tril_indices(channels, channels, device=device).unbind()
    return row * channels + column


def strip_rows(channels: int) -> list[tuple[int, int]]:
    """First row of every strip and the row after its last one; none is empty."""
    edges = [channels * index // STRIPS for index in range(STRIPS + 1)]
    return [(start, stop) for start, stop in itertools.pairwise(edges) if start < stop]


def strips(entries: Tensor, channels: int) -> list[tuple[tuple[int, int], Tensor]]:
    """Cut what covers lower triangles into strips: rows ``start`` to ``stop`` of (D, D) matrices, up to column ``stop``.

    Args:
        entries: Shape (P, S), strip by strip and row by row.
        channels: D.

    Returns:
        (start, stop) of every strip and its view of ``entries``, shape (P, stop - start, stop).
    """
    rows = strip_rows(channels)
    parts = torch.split(entries, [(stop - start) * stop for start, stop in rows], 1)
    shaped = (torch.unflatten(part, 1, (-1, stop)) for part, (_, stop) in zip(parts, rows, strict=True))
    return list(zip(rows, shaped, strict=True))


def packed_to_strips(packed: Tensor, channels: int) -> Tensor:
    """Packed triangles as the strips that products are taken with, zeros above the diagonal.

    Args:
        packed: Shape (P, T).
        channels: D.

    Returns:
        Shape (P, S), float32.
    """
    lower = torch.ones(channels, channels, dtype=torch.bool, device=packed.device).tril()
    covered = torch.cat([lower[start:stop, :stop].flatten() for start, stop in strip_rows(channels)])
    place = covered.nonzero().flatten()  # of the triangle's entries in the strips, both row by row
    entries = torch.zeros(len(packed), len(covered), dtype=torch.float32, device=packed.device)
    for out, part in _blocks(POSITIONS_AT_ONCE, entries, packed):
        out.index_copy_(1, place, part.float())
    return entries


def _blocks(size: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(torch.split(tensor, size) for tensor in tensors), strict=True)
