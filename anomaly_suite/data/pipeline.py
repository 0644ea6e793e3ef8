"""Old place of :mod:`~anomaly_suite.data.transforms`."""

from __future__ import annotations

from anomaly_suite.data import transforms
from anomaly_suite.data.transforms import Pixels, Size, build_step

__all__ = ["Pipeline", "Pixels", "Size", "build_step"]


class Pipeline(transforms.Pipeline):
    """The pipeline with the old name of ``seed_parts``."""

    def __call__(  # type: ignore[override]
        self, image: Pixels, mask: Pixels | None, *, words: tuple[int, ...]
    ) -> tuple[Pixels, Pixels | None]:
        """Transform one image."""
        return super().__call__(image, mask, seed_parts=words)
