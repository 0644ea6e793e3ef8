"""Student-Teacher: networks taught on normal images only err, and disagree, about what a teacher says of anomalous pixels.

Paper: Bergmann et al., "Uninformed Students: Student-Teacher Anomaly Detection with Discriminative Latent Embeddings",
    CVPR 2020, arXiv:1911.02357.
Reference: none was released by the authors, and no code was read. Students regress the descriptor itself, without dropout,
    not the wider vector decoded from it.
Differs: the teacher is distilled on patches of the training images instead of ImageNet, in every run, unless ``distilled_teachers``
    names a run whose teachers are shared, as the paper shares one over all categories. Random scales are drawn once for a
    step, not for each patch. Descriptors are decorrelated over their dimensions, which the paper's wording leaves open. The
    last convolution has no activation, which could hardly go below zero.
Axes: B batch, C channels, H and W pixels, D descriptor width, p side of a patch, M students, S patch sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.optim import Adam, Optimizer

from anomaly_suite.contract import AnomalyModule, Batch, Prediction
from anomaly_suite.errors import ConfigError
from anomaly_suite.losses import with_idle_weights
from anomaly_suite.nn.distillation import PooledTeacher, distillation_error
from anomaly_suite.nn.encoders import standardize
from anomaly_suite.nn.gaussian import channel_moments, mean_and_deviation
from anomaly_suite.nn.patch_network import PATCH_SIZES, PatchNetwork
from anomaly_suite.nn.patches import rescaled_patches
from anomaly_suite.nn.weights import load_part

MARGIN = 1.0  # of the triplet term
JITTER = 0.2  # largest relative change of brightness and contrast
GREY_SHARE = 0.1  # of the patches that lose their colour
MIN_STD = 1e-3
"""Smallest deviation of a descriptor dimension, in units of the mean deviation: one that hardly varies must not decide."""

EPS = 1e-12  # smallest deviation that is divided by

PIXELS_AT_ONCE = 2**17
"""Pixels that are scored at once, two images of 256 x 256: every layer keeps up to 2 D numbers for each of them."""


def compactness_loss(descriptor: Tensor) -> Tensor:
    """Sum of squared correlations between different dimensions of descriptors (B, D) over a batch; every pair counts twice."""
    with torch.autocast(descriptor.device.type, enabled=False):
        descriptor = descriptor.float()
        unit = F.normalize(descriptor - descriptor.mean(0), dim=0)
        correlation = unit.mT @ unit  # (D, D)
        return (correlation - torch.diag(correlation.diagonal())).square().sum()


def triplet_loss(anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Mean excess of the squared distance to the positive, plus a margin of 1, over that to the negative; all (B, D)."""
    closer, farther = distillation_error(anchor, positive), distillation_error(anchor, negative)
    return (MARGIN + closer - farther).clamp_min(0).mean()


def jitter(patch: Tensor, generator: Generator) -> Tensor:
    """Change brightness and contrast of every patch (B, C, p, p) by up to a fifth; a tenth of them lose their colour."""

    def uniform() -> Tensor:
        """Numbers in [0, 1), shape (B, 1, 1, 1)."""
        draw = torch.rand(len(patch), 1, 1, 1, generator=generator, dtype=torch.float32, device=patch.device)
        return draw.to(patch.dtype)

    contrast, brightness = (1 + JITTER * (2 * uniform() - 1) for _ in range(2))
    mean = patch.mean((1, 2, 3), keepdim=True)
    changed = (((patch - mean) * contrast + mean) * brightness).clamp(0, 1)
    return torch.where(uniform() < GREY_SHARE, changed.mean(1, keepdim=True), changed)


def mean_and_spread(outputs: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean of several outputs and their mean squared distance to it, with only one of them in memory at a time.

    Welford's recurrence: no small difference of large numbers is taken, and the spread cannot become negative.

    Args:
        outputs: Tensors of shape (B, D, H, W).

    Returns:
        Shapes (B, D, H, W) and (B, H, W), float32.
    """
    remaining = iter(outputs)
    mean = next(remaining).float()
    spread, count = torch.zeros_like(mean[:, 0]), 1
    for output in remaining:
        step = output.float() - mean
        spread = spread + (step**2).sum(1) * (count / (count + 1))
        count += 1
        mean = mean + step / count
    return mean, spread / count


class StudentTeacher(AnomalyModule):
    """Students regress a teacher's descriptor of every pixel; their error and their disagreement are the anomaly map.

    Epochs before ``teacher_epochs`` distil a timm network into one patch network for each patch size, the teachers; until
    they are over, the module is unfitted, and scores in validation are those of untrained students. Mean and deviation of the teachers' descriptors
    over all training pixels are then measured once, and all later epochs train the students. Each of these ends with a pass
    over the training set that measures mean and deviation of error and disagreement, by which both are standardised. Give
    the trainer ``max_epochs`` of both phases together.

    Memory grows with ``width``, patch sizes and pixels: a training step keeps the layers of all students.

    Args:
        patch_sizes: p of every teacher, 17, 33 or 65; the map is the mean over them. Images must be larger than p / 2.
        num_students: M; with a single one there is no disagreement.
        width: D; the paper has 128.
        teacher_epochs: Epochs of the first phase; 0 leaves the teachers random. The paper takes 50,000 steps.
        teacher: Any timm network that is distilled.
        teacher_weights: ``imagenet``, a local file, or null for random weights.
        encoder_weights: Checkpoint or run folder of a pre-training whose encoder is ``teacher``, in place of ``teacher_weights``; or null.
        distilled_teachers: Checkpoint or run folder of another StudentTeacher, whose teachers are taken, so that categories share one
            distillation; needs ``teacher_epochs: 0``.
        teacher_size: Height and width that patches are resized to for the timm network.
        patches_per_image: Patches of each training image and step of the first phase; 64 a step in the paper.
        distillation_weight: Of the squared distance to the timm network's features, lambda k.
        compactness_weight: Of the squared correlations between descriptor dimensions, lambda c.
        triplet_weight: Of the triplet term, lambda m, which pulls two jittered versions of a patch together and pushes a
            patch of another image away; 0 leaves it out.
        teacher_lr: Learning rate of Adam in the first phase.
        lr: Learning rate of Adam for the students.
        weight_decay: Of both.
        pool: The image score is the ``max`` or the ``mean`` of the map; the mean suits 28- and 32-pixel images.

    Raises:
        ConfigError: an unknown network or patch size, no student, or training images of one colour.
    """

    image_channels = (1, 3)

    target_statistics: Tensor
    score_statistics: Tensor
    has_targets: Tensor

    def __init__(
        self,
        *,
        patch_sizes: Sequence[int] = (17, 33, 65),
        num_students: int = 3,
        width: int = 128,
        teacher_epochs: int = 240,
        teacher: str = "resnet18",
        teacher_weights: str | None = "imagenet",
        encoder_weights: str | None = None,
        distilled_teachers: str | None = None,
        teacher_size: int = 224,
        patches_per_image: int = 64,
        distillation_weight: float = 1.0,
        compactness_weight: float = 1.0,
        triplet_weight: float = 0.0,
        teacher_lr: float = 2e-4,
        lr: float = 1e-4,
        weight_decay: float = 1e-5,
        pool: Literal["max", "mean"] = "max",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if not patch_sizes or set(patch_sizes) - set(PATCH_SIZES) or len(set(patch_sizes)) < len(patch_sizes):
            raise ConfigError(f"patch_sizes must be one or several of 17, 33 and 65; got {list(patch_sizes)}.")
        for name, value in {"num_students": num_students, "patches_per_image": patches_per_image}.items():
            if value < 1:
                raise ConfigError(f"{name} must be at least 1; got {value}. See the defaults of StudentTeacher.")
        if distilled_teachers is not None and teacher_epochs:
            raise ConfigError(
                f"distilled_teachers are taken as they are and need teacher_epochs=0; got {teacher_epochs}. Set it to 0, or leave them out."
            )
        if encoder_weights is not None and not teacher_epochs:
            raise ConfigError(
                f"encoder_weights are distilled in the first phase and need teacher_epochs above 0; got {encoder_weights!r} with 0. Raise "
                "it, or leave them out."
            )
        self.distilled_teachers = distilled_teachers
        self.pretrained: PooledTeacher | None = None
        self.decoders = nn.ModuleList()
        self.teachers = nn.ModuleList(PatchNetwork(size=size, width=width) for size in patch_sizes)
        if teacher_epochs:
            self.pretrained = PooledTeacher(teacher, size=teacher_size)
            self.decoders.extend(nn.Linear(width, self.pretrained.out_features) for _ in patch_sizes)
        else:
            self.teachers.requires_grad_(False)
        # Built one after another, they start from different weights: equal ones would never disagree.
        self.students = nn.ModuleList(
            nn.ModuleList(PatchNetwork(size=size, width=width) for _ in range(num_students)) for size in patch_sizes
        )
        self.teacher_epochs = teacher_epochs
        self.teacher_weights = teacher_weights if encoder_weights is None else encoder_weights
        self.patches_per_image = patches_per_image
        self.distillation_weight, self.compactness_weight = distillation_weight, compactness_weight
        self.triplet_weight, self.pool = triplet_weight, pool
        self.teacher_lr, self.lr, self.weight_decay = teacher_lr, lr, weight_decay
        neutral = torch.tensor([0.0, 1.0]).view(1, 2, 1)
        self.register_buffer("target_statistics", neutral.repeat(len(patch_sizes), 1, width))  # mean, deviation
        self.register_buffer("score_statistics", neutral.repeat(len(patch_sizes), 1, 2))  # of error and disagreement
        self.register_buffer("has_targets", torch.tensor(0.0))  # 1 once they are measured

    @property
    def unfinished(self) -> str | None:
        """The phase of the teachers, or an epoch of students that has not been measured yet."""
        if not self.has_targets:
            return (
                f"it has not left its first phase, which trains the teachers for teacher_epochs={self.teacher_epochs} epochs. "
                "Run fit first, for more epochs than that, or lower teacher_epochs."
            )
        if bool((self.score_statistics == self.score_statistics.new_tensor([0.0, 1.0]).view(2, 1)).all()):
            return (
                "no epoch of its students (those after teacher_epochs) is over, which would measure their error. Run fit first, to "
                "the end of such an epoch."
            )
        return None

    def load_pretrained(self) -> None:
        """Load the weights of the timm network, or those of teachers distilled before."""
        if self.pretrained is not None:
            self.pretrained.encoder.load_weights(self.teacher_weights)
        if self.distilled_teachers is not None:
            load_part(self.teachers, self.distilled_teachers, prefix="teachers.", option="distilled_teachers")

    @torch.no_grad()
    def target(self, scale: int, x: Tensor) -> Tensor:
        """Descriptors of a teacher, standardised by their statistics over all training pixels.

        Args:
            scale: Number of the patch size.
            x: Standardised images, shape (B, 3, H, W).

        Returns:
            Shape (B, D, H, W).
        """
        mean, deviation = self.target_statistics[scale].unsqueeze(-1).unsqueeze(-1)
        normalised: Tensor = (self._net(self.teachers, scale).dense(x).float() - mean) / deviation
        return normalised

    def components(self, scale: int, x: Tensor) -> Tensor:
        """Error of the students' mean, and their mean squared distance to it.

        Args:
            scale: Number of the patch size.
            x: Standardised images, shape (B, 3, H, W).

        Returns:
            Shape (B, 2, H, W), 0 or above.
        """
        mean, disagreement = mean_and_spread(student.dense(x) for student in self._students(scale))
        return torch.stack([distillation_error(mean, self.target(scale, x)), disagreement], 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Score images.

        Args:
            image: Shape (B, C, H, W), in [0, 1], C 1 or 3, any size above half the largest patch.

        Returns:
            ``anomaly_score`` (B,) and ``anomaly_map`` (B, 1, H, W): error and disagreement, each standardised to mean 0 and
            deviation 1 on training pixels, added, and averaged over the patch sizes.

        Raises:
            ShapeError: images that are too small.
        """
        x = standardize(image)
        maps = []
        for scale, (mean, deviation) in enumerate(self.score_statistics):
            standardised = (self.components(scale, x) - mean.view(2, 1, 1)) / deviation.view(2, 1, 1)
            maps.append(standardised.sum(1, keepdim=True))
        anomaly_map = torch.stack(maps).mean(0)
        return anomaly_map.amax((1, 2, 3)) if self.pool == "max" else anomaly_map.mean((1, 2, 3)), anomaly_map

    def predict(self, batch: Batch) -> Prediction:
        """Raw scores of one batch: what ``forward`` gives, in portions that fit into memory."""
        scores, maps = zip(*(self(few) for few in _portions(batch["image"])), strict=True)
        return {"anomaly_score": torch.cat(scores), "anomaly_map": torch.cat(maps)}

    def on_train_start(self) -> None:
        """Warn of a run without second phase."""
        self.warn_of_first_phase("trains its teacher", "teacher_epochs", self.teacher_epochs)

    def on_train_epoch_start(self) -> None:
        """Set the learning rates of the phase, and measure the targets when the second phase begins.

        Both phases share one optimiser, whose state is cleared between them and whose rates follow from the epoch alone, so
        that a run can be resumed in either.

        Raises:
            ConfigError: descriptors that are the same at every pixel.
        """
        super().on_train_epoch_start()
        (optimizer,) = self.trainer.optimizers
        if self._trains_students and not self.has_targets:
            self._measure_targets()
            optimizer.state.clear()
        rates = (0.0, self.lr) if self._trains_students else (self.teacher_lr, 0.0)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Losses of all teachers in the first phase, of all students in the second; they share no weights."""
        if self._trains_students:
            loss, resting = self._student_loss(batch["image"]), [self.teachers, self.decoders]
        else:
            loss, resting = self._teacher_loss(batch["image"], self.step_generator(batch_idx)), [self.students]
        if self.trainer.world_size > 1:  # DDP waits for a gradient of every parameter
            loss = with_idle_weights(loss, (weight for part in resting for weight in part.parameters()))
        self.log("train/loss", loss)
        return loss

    def fit_statistics(self) -> None:
        """Measure error and disagreement over the training pixels, in the phase of the students."""
        if self._trains_students:
            mean, deviation = self._measure(self.components, channels=2).unbind(1)
            self.score_statistics.copy_(torch.stack([mean, deviation.clamp_min(EPS)], 1))

    def at_rest(self) -> list[nn.Module]:
        """The teachers, in the phase of the students, who learn what these are and not what an average of them would be."""
        return [self.teachers] if self.has_targets else []

    def configure_optimizers(self) -> Optimizer:
        """Adam; :meth:`on_train_epoch_start` sets its rates."""
        phases = [*self.teachers.parameters(), *self.decoders.parameters()], [*self.students.parameters()]
        return Adam([{"params": weights} for weights in phases], weight_decay=self.weight_decay)

    @property
    def _trains_students(self) -> bool:
        return self.current_epoch >= self.teacher_epochs

    def _net(self, nets: nn.ModuleList, index: int) -> PatchNetwork:
        return cast(PatchNetwork, nets[index])

    def _students(self, scale: int) -> Iterator[PatchNetwork]:
        return cast(Iterator[PatchNetwork], iter(cast(nn.ModuleList, self.students[scale])))

    def _student_loss(self, image: Tensor) -> Tensor:
        """Squared distance to the target, mean over images and pixels, sum over students and patch sizes."""
        x = standardize(image)
        losses = []
        for scale in range(len(self.teachers)):
            target = self.target(scale, x)
            losses += [distillation_error(student.dense(x), target).mean() for student in self._students(scale)]
        return torch.stack(losses).sum()

    def _teacher_loss(self, image: Tensor, generator: Generator) -> Tensor:
        """Weighted sum of the three terms, summed over patch sizes; they are taken on descriptors of random patches."""
        pretrained = cast(PooledTeacher, self.pretrained)  # there in the first phase
        losses = []
        for scale, decoder in enumerate(self.decoders):
            net = self._net(self.teachers, scale)
            clean = rescaled_patches(image, size=net.size, count=self.patches_per_image, generator=generator)
            patch = jitter(clean, generator)
            descriptor = net(standardize(patch))
            loss = self.distillation_weight * distillation_error(decoder(descriptor), pretrained(patch)).mean()
            loss = loss + self.compactness_weight * compactness_loss(descriptor)
            if self.triplet_weight:
                positive = net(standardize(jitter(clean, generator)))
                negative = descriptor.roll(self.patches_per_image if len(image) > 1 else 1, 0)
                loss = loss + self.triplet_weight * triplet_loss(descriptor, positive, negative)
            losses.append(loss)
        return torch.stack(losses).sum()

    def _measure_targets(self) -> None:
        """Mean and deviation of the teachers' descriptors over all training pixels."""
        mean, deviation = self._measure(self.target, channels=self.target_statistics.shape[2]).unbind(1)
        typical = deviation.mean(1, keepdim=True)
        if not bool((typical > EPS + 1e-6 * mean.abs().mean(1, keepdim=True)).all()):  # no more than rounding errors
            raise ConfigError(
                "StudentTeacher needs training images that are not all of one colour. Look at the data set."
            )
        self.target_statistics.copy_(torch.stack([mean, deviation.clamp_min(MIN_STD * typical)], 1))
        self.has_targets.fill_(1)

    @torch.no_grad()
    def _measure(self, function: Callable[[int, Tensor], Tensor], *, channels: int) -> Tensor:
        """Mean and deviation of ``function(scale, x)`` over all training pixels of all processes, (S, 2, ``channels``)."""
        total = torch.zeros(len(self.teachers), 3, channels, dtype=torch.float64, device=self.device)
        for image in self.training_images():
            for few in _portions(image):
                x = standardize(few)
                moments = torch.stack([channel_moments(function(scale, x)) for scale in range(len(self.teachers))])
                self.watch("a descriptor", moments)
                total += moments
        return mean_and_deviation(self.sum_over_ranks(total))


def _portions(image: Tensor) -> tuple[Tensor, ...]:
    height, width = image.shape[2:]
    return torch.split(image, max(1, PIXELS_AT_ONCE // (height * width)))
