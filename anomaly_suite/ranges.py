"""Which values an option can have, by its name: the names mean the same in every method, data module, callback and metric."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from anomaly_suite.errors import ConfigError


class Range(NamedTuple):
    """Values from ``low`` to ``high``, ends included unless ``open_low`` or ``open_high``; ``whole`` ones are counts."""

    low: float = -math.inf
    high: float = math.inf
    whole: bool = False
    open_low: bool = False
    open_high: bool = False

    def holds(self, value: Any) -> bool:
        """Whether a number lies in it; NaN and infinity never do."""
        if self.whole and not isinstance(value, numbers.Integral):
            return False
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return math.isfinite(value) and bool(above and below)

    def wants(self, value: Any) -> str:
        """What a value that it does not hold has to be."""
        if self in (SHARE, SOME_SHARE, NOT_ALL, PROPER):
            return f"in {'(' if self.open_low else '['}{self.low}, {self.high}{')' if self.open_high else ']'}"
        low = f"{'above' if self.open_low else 'at least'} {self.low}"
        if (
            isinstance(value, numbers.Real)
            and math.isfinite(value)
            and (not self.whole or isinstance(value, numbers.Integral))
        ):
            return low if value < self.high else f"at most {self.high:g}"
        return f"a {'whole' if self.whole else 'finite'} number" + (f" and {low}" if math.isfinite(self.low) else "")


MOST_PIXELS = 2**16  # a side, a width, a number of channels: no network of this package could be built beyond
MOST = 2**31 - 1  # of a count: indices and loops end there

FINITE = Range()
COUNT = Range(1, MOST, whole=True)
COUNT_OR_NONE = Range(0, MOST, whole=True)
SIZE = Range(1, MOST_PIXELS, whole=True)
BITS = Range(8, 16, whole=True)
SEED = Range(0, 2**63 - 1, whole=True)
WORKERS = Range(0, 1024, whole=True)
RATE = Range(0, 1e3)
POSITIVE = Range(0, open_low=True)
NOT_NEGATIVE = Range(0)
SHARE = Range(0, 1)
SOME_SHARE = Range(0, 1, open_low=True)
NOT_ALL = Range(0, 1, open_high=True)
PROPER = Range(0, 1, open_low=True, open_high=True)

NAMES: dict[Range, str] = {
    RATE: "lr ae_lr cleaner_lr generator_lr representation_lr teacher_lr encoder_lr lr_min lr_max",
    POSITIVE: "clip half_period temperature fixed_penalty payoff margin encoder_eps alpha bandwidth gamma",
    NOT_NEGATIVE: "mining_rate shrinkage variance_floor weight_decay ae_weight_decay noise_std latent_noise_std lr_power restart_power eps sigma "
    "kappa beta penalty_floor class_weight_bound weight_penalty focal_gamma xi_global xi_local outlier_fraction epsilon "
    "foreground_difference generator_decay class_weights",
    SHARE: "mining_from rho low high focal_alpha",
    SOME_SHARE: "attention_threshold variance outlier_class_share sample train_fraction outlier_share crop_scale",
    NOT_ALL: "encoder_alpha dropout select_dropout betas contamination shift momentum anomalous_share",
    PROPER: "balanced test_fraction outlier_clamp mix_share cut_share mask_ratio foreground_share",
    BITS: "bit_depth",
    SIZE: "image_size center_crop window stride cleaner_widths head_width patch_size patch_sizes patch_stride teacher_size width widths hidden latent_dim embed_dim "
    "feature_dim in_channels strides kernel_size kernel kv_stride depth heads num_classes output_stride channels segments "
    "train_crops crops num_students ssim_scales ssim_window",
    COUNT: "critic_steps frames items mining_steps train_batch_size eval_batch_size batches_per_epoch e_step_every batch_size "
    "patches_per_step patches_per_image gan_epochs train_size test_size boundary_steps clean_size reference_draws "
    "representation_epochs threshold_images localisation_size bank_size centroids neighbours num_strong position_pairs mask_seeds "
    "distorter_every train_every classifier_epochs cleaner_epochs generator_epochs groups group_size normal_items anomalous_items lr_drop_steps uncertainty_samples",
    COUNT_OR_NONE: "ae_epochs teacher_epochs warmup_epochs relaxation_epochs lr_milestones ae_lr_milestones samples boundary_width strict_classes "
    "outlier_min_size val_anomalies max_images log_images limit localisation_groups shots freeze_steps num_anomalous score_views "
    "memory_slots rounds",
    WORKERS: "num_workers",
    SEED: "anomalous_seed seed",
}
"""Names of options by their range. Names that end in ``_weight`` are at least 0; other numbers are finite."""

RANGES = {name: wanted for wanted, names in NAMES.items() for name in names.split()}

NOT_EMPTY = {
    "anomalous_types",
    "filename",
    "category",
    "normal_dir",
    "operations",
    "patch_sizes",
    "scales",
    "widths",
    "strides",
}
"""Options of lists and texts that must hold something."""

EVERYWHERE = {
    "lr",
    "weight_decay",
    "num_workers",
    "seed",
    "train_batch_size",
    "eval_batch_size",
    "latent_dim",
    "dropout",
}
"""Names that cannot mean anything else in a class of one's own."""


def range_of(name: str) -> Range:
    """The range of an option's values.

    Example:
        >>> range_of("lr").wants(-1), range_of("latent_dim").wants(0.5), range_of("dropout").wants(1)
        ('at least 0', 'a whole number and at least 1', 'in [0, 1)')
    """
    return RANGES.get(name, NOT_NEGATIVE if name.endswith("_weight") else FINITE)


def check_values(owner: str, options: Mapping[str, Any], types: Mapping[str, str]) -> None:
    """Refuse numbers with which nothing could work, before anything is built with them.

    Args:
        owner: Class that is given the options.
        options: Values by name. Numbers are checked, also those in lists and tuples.
        types: Annotations as they are written, by name; an option of a number takes neither a text nor null.

    Raises:
        ConfigError: a number out of the range of its option, something else where a number is needed, or an empty list; the message has the name, the
            range and the value.
    """
    for name, value in options.items():
        wanted, kind = range_of(name), types.get(name, "")
        if name in NOT_EMPTY and isinstance(value, Sequence) and not len(value):
            raise ConfigError(f"{name} must not be empty; got {value!r}. Give {owner} at least one value.")
        given = [value] if kind in ("int", "float") and not isinstance(value, numbers.Real) else _numbers(value)
        for number in given:
            if not isinstance(number, numbers.Real) or not wanted.holds(number):
                raise ConfigError(f"{name} must be {wanted.wants(number)}; got {value!r}. Give {owner} such a value.")


def _numbers(value: Any) -> Iterator[Any]:
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        yield value
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for part in value:
            yield from _numbers(part)
