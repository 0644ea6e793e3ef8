"""Digits: 1,797 handwritten digits that come with scikit-learn; one is normal, the others are anomalous."""

from __future__ import annotations

import numpy as np
import torch

from anomaly_suite.contract import Validation
from anomaly_suite.data.images.image_set import BatchTransform
from anomaly_suite.data.images.one_vs_rest import OneVsRest, Pool


class Digits(OneVsRest):
    """Handwritten digits that come with scikit-learn, so there is nothing to download.

    The 8 x 8 images have grey levels 0 to 16, scaled to 0 to 255. A seeded 2/3 of the normal digit (about 120 images) is
    for training; the rest of it and all other digits are the test set.

    Args:
        image_size: Side of the images in pixels, interpolated bilinearly; None keeps 8.
        normal_class: Index or name of the normal class.
        train_fraction: Seeded share of the training normals that is used, in (0, 1]; smaller shares lie inside larger
            ones. Validation images are held out of it.
        contamination: Share of the training set, in [0, 1), that is anomalous images labelled normal. They come from
            outside the test set; if all others are in it, they leave it. The held-out normals stay clean.
        pad: Reach ``image_size`` by a black margin instead of bilinear interpolation.
        train_transform: Random transform of training batches, ``(image, generator) -> image``.
        train_batch_size: Images per training step and process.
        eval_batch_size: Images per validation, test or predict step and process.
        num_workers: Loader processes; 0 loads in the main process.
        seed: Decides every split and the order of training images.
        num_anomalous: Anomalous test images that move into training, labelled 1, kinds of defects in turn; fewer are always among more.
            Methods that train on normal images alone leave them out.
        anomalous_list: File that names them, one a line, in place of ``num_anomalous``.
        anomalous_types: Kinds of defects that they are drawn from; null for all.
        anomalous_seed: Decides which are drawn, and nothing else.
        balanced: Training batches of as many anomalous as normal images, the anomalous ones drawn again and again; a number in (0, 1) is another
            share of anomalous images.
        validation: ``holdout`` keeps ``val_size`` training normals, and anomalies that are labelled but not for testing;
            ``augmented`` keeps the normals and adds a pseudo-anomaly of each, ``medmix`` a copy with lesions and their mask; ``test``
            validates on the test set; ``none``.
        val_size: Training normals held out for validation: a fraction, or a count if an integer.

    Raises:
        ConfigError: an option is out of range or the class is not known.
    """

    classes = tuple("0123456789")
    picture_shape = (1, 8, 8)

    def __init__(
        self,
        *,
        image_size: int | None = 32,
        normal_class: int | str = 0,
        train_fraction: float = 1.0,
        contamination: float = 0.0,
        pad: bool = False,
        train_transform: BatchTransform | None = None,
        train_batch_size: int = 32,
        eval_batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
        num_anomalous: int = 0,
        anomalous_list: str | None = None,
        anomalous_types: list[str | int] | None = None,
        anomalous_seed: int = 0,
        balanced: bool | float = False,
        validation: Validation = "holdout",
        val_size: int | float = 0.1,
    ) -> None:
        super().__init__(
            normal_class=normal_class, protocol='pooled_2to1', train_fraction=train_fraction,
            contamination=contamination, image_size=image_size, pad=pad, train_transform=train_transform,
            train_batch_size=train_batch_size, eval_batch_size=eval_batch_size, num_workers=num_workers, seed=seed,
            num_anomalous=num_anomalous, anomalous_list=anomalous_list, anomalous_types=anomalous_types,
            anomalous_seed=anomalous_seed, balanced=balanced, validation=validation, val_size=val_size,
        )  # fmt: skip

    def load(self) -> Pool:
        """Unpack scikit-learn's copy."""
        from sklearn.datasets import load_digits  # slow to import

        images, target = load_digits(return_X_y=True)
        image = torch.from_numpy(images).mul(255 / 16).round().byte().view(-1, 1, 8, 8)
        return Pool(image, target.astype(np.int64), np.zeros(len(target), dtype=np.bool_))
