"""ALPS: an autoencoder learns to undo what a second encoder adds to its codes; it can do so for normal images alone.

Paper: Khazaie, MSc thesis 2022, ch. 3, "Adversarially Learned Perturbations of Latent Space" (CRV 2022).
Reference: no code was released; where the text is silent, the released code of OLED, of the same authors, is followed.
Differs: the text has no bound on perturbations and warns of it; ours is ``epsilon * tanh`` (``unbounded`` is the literal reading).
    Equation 3.2 has the perturbed error alone, and the text says that reconstruction is learned beside it: both count 1
    (``clean_weight: 0`` is the literal equation). "Every couple of epochs" is every third, as in OLED. The thesis reports the best of
    three scores, which needs the labels of the test; here validation data decide, or an option. Its comparators of table 3.3, random
    noise and no perturbation, are values of ``perturbation``; the deviation of the noise is not given, ours is ``epsilon``.
Axes: B batch, C channels, H and W pixels, Z latent width, K scores.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, cast

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Generator, Tensor, nn
from torch.optim import Adam, Optimizer

from anomaly_suite.contract import AnomalyModule, Batch, Prediction, Reconstruction
from anomaly_suite.losses import with_idle_weights
from anomaly_suite.nn.dcgan import to_signed, to_unit
from anomaly_suite.nn.pooled_autoencoder import Output, Pool, PooledDecoder, PooledEncoder, running_statistics_kept
from anomaly_suite.nn.size import ImageSize

BETAS = (0.5, 0.9)  # of both Adams, as in OLED
SHARES = {"clean": 0.0, "perturbed": 1.0, "average": 0.5}
"""Scores by name, and the share that the error of the perturbed reconstruction has in each."""

NOISE_SEED = 0  # of the draw that images are scored with; the same for all, so that a score does not depend on others


def mean_square(image: Tensor, reconstruction: Tensor) -> Tensor:
    """Squared error of each pixel, averaged over channels: (B, C, H, W) twice to (B, 1, H, W), in float32."""
    error: Tensor = (image.float() - reconstruction.float()).square().mean(1, keepdim=True)
    return error


def distortion(delta: Tensor, code: Tensor) -> Tensor:
    """Length of perturbations as a share of that of codes, averaged over a batch: 0 where codes outgrow them, a scalar.

    Args:
        delta: Shape (B, Z).
        code: Shape (B, Z).
    """
    length = code.float().norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    share: Tensor = delta.float().norm(dim=1) / length
    return share.mean()


def best_score(scores: Tensor, label: Tensor) -> str:
    """Name of the score with the highest AUROC on labelled images; of equal ones the perturbed score, the training's own.

    Args:
        scores: Of clean and perturbed reconstructions, shape (2, B).
        label: 0 or 1, both there, shape (B,).
    """
    from sklearn.metrics import roc_auc_score

    truth = label.cpu().numpy()
    names = sorted(SHARES, key=lambda name: name != "perturbed")
    ranked = {name: roc_auc_score(truth, scores[0].lerp(scores[1], SHARES[name]).cpu().numpy()) for name in names}
    return max(ranked, key=lambda name: float(ranked[name]))


class ALPS(AnomalyModule):
    """Autoencoder trained against a network that distorts its codes.

    Every prediction has three scores: mean squared errors of the ``clean`` and of the ``perturbed`` reconstruction, and their ``average``.
    One of them is the anomaly score. The map is the squared error of the perturbed reconstruction.

    Args:
        in_channels: C.
        image_size: Height and width; other sizes are refused.
        widths: Channels of the encoder's first three convolutions; the decoder mirrors them.
        latent_dim: Z; 64 for digits and clothes, 128 for patches of UCSD.
        pool: Of the encoders: ``mean`` over positions as published, or ``flatten`` with a linear layer, for images whose parts have places.
        output: What ends the decoder: ``tanh``, ``leaky_relu`` as in the authors' code of another method, or ``linear``. The thesis does not
            say. On mostly black images a ``tanh`` may saturate, and the training stays black.
        perturbation: ``tanh`` bounds the learned one; ``unbounded`` does not; ``noise`` adds Gaussian noise of deviation ``epsilon``
            instead; ``none`` is the plain autoencoder, all three scores being one.
        epsilon: Bound of a component of the perturbation; not read by ``unbounded``.
        perturbed_weight: Of the error of the perturbed reconstruction in the autoencoder's loss.
        clean_weight: Of the error of the clean one; 0 is the printed equation.
        distorter_every: The distorter learns in epochs divisible by this, from epoch 0 on.
        score: Which of the three is ``anomaly_score``. ``chosen`` takes the one with the highest AUROC on validation data with both
            labels (``validation: augmented`` makes them of normals), and ``perturbed`` where there are none or where
            validation is the test set.
        lr: Learning rate of both Adams.

    Shapes: images (B, C, H, W) in [0, 1]; scores (B,); map (B, 1, H, W), both on the scale of [-1, 1].
    """

    perturbed_share: Tensor
    noise: Tensor

    def __init__(
        self,
        *,
        in_channels: int = 1,
        image_size: ImageSize = 28,
        widths: tuple[int, int, int] = (64, 96, 128),
        latent_dim: int = 64,
        pool: Pool = "mean",
        output: Output = "tanh",
        perturbation: Literal["tanh", "unbounded", "noise", "none"] = "tanh",
        epsilon: float = 1.0,
        perturbed_weight: float = 1.0,
        clean_weight: float = 1.0,
        distorter_every: int = 3,
        score: Literal["chosen", "perturbed", "clean", "average"] = "chosen",
        lr: float = 5e-4,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.image_channels = (in_channels,)
        self.automatic_optimization = False
        encoder: dict[str, Any] = {
            "in_channels": in_channels,
            "image_size": image_size,
            "widths": widths,
            "latent_dim": latent_dim,
            "pool": pool,
        }
        self.encoder = PooledEncoder(**encoder)
        self.decoder = PooledDecoder(
            latent_dim=latent_dim, out_channels=in_channels, image_size=image_size, widths=widths, output=output
        )
        learned = perturbation in ("tanh", "unbounded")
        self.distorter = PooledEncoder(**encoder) if learned else None
        self.perturbation, self.epsilon = perturbation, epsilon
        self.perturbed_weight, self.clean_weight = perturbed_weight, clean_weight
        self.distorter_every, self.score, self.lr = distorter_every, score, lr
        draw = torch.randn(latent_dim, generator=torch.Generator().manual_seed(NOISE_SEED))
        self.register_buffer("noise", draw, persistent=False)
        self.register_buffer("perturbed_share", torch.tensor(SHARES.get(score, 1.0)))

    @property
    def chosen_score(self) -> str:
        """Name of the score that is used."""
        return next(name for name, share in SHARES.items() if share == float(self.perturbed_share))

    def perturb(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        """What is added to the codes of images.

        Args:
            x: Shape (B, C, H, W), in [-1, 1].
            generator: Of a training step's noise; without it the noise is the fixed draw of evaluations.

        Returns:
            Shape (B, Z).
        """
        if self.distorter is not None:
            raw: Tensor = self.distorter(x)
            return self.epsilon * raw.tanh() if self.perturbation == "tanh" else raw
        shape = (len(x), len(self.noise))
        if self.perturbation == "none":
            return x.new_zeros(shape)
        if generator is None:
            return self.epsilon * self.noise.to(x.dtype).expand(shape)
        return self.epsilon * torch.randn(shape, generator=generator, dtype=x.dtype, device=x.device)

    def errors(self, x: Tensor, code: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Squared errors of the clean and of the perturbed reconstruction.

        Args:
            x: Shape (B, C, H, W), in [-1, 1].
            code: Shape (B, Z).
            delta: Shape (B, Z).

        Returns:
            Twice (B, 1, H, W), averaged over channels.
        """
        if self.perturbation == "none":
            error = mean_square(x, self.decoder(code))
            return error, error
        clean, perturbed = self.decoder(torch.cat([code, code + delta])).unflatten(0, (2, -1)).unbind(0)
        return mean_square(x, clean), mean_square(x, perturbed)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Score images.

        Args:
            image: Shape (B, C, H, W), in [0, 1].

        Returns:
            ``anomaly_score`` (B,), and the map of the perturbed reconstruction (B, 1, H, W), on the scale of [-1, 1].

        Raises:
            ShapeError: images of another size than ``image_size``.
        """
        score, _, perturbed = self._score(image)
        return score, perturbed

    def predict(self, batch: Batch) -> Prediction:
        """Raw scores of one batch, all three of them, and the map, in float32."""
        score, clean, perturbed = self._score(batch["image"])
        first, second = clean.flatten(1).mean(1), perturbed.flatten(1).mean(1)
        return {
            "anomaly_score": score,
            "anomaly_map": perturbed,
            "clean_score": first,
            "perturbed_score": second,
            "average_score": first.lerp(second, SHARES["average"]),
        }

    def _score(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The score that is used (B,), and the two error maps (B, 1, H, W)."""
        x = to_signed(image)
        clean, perturbed = self.errors(x, self.encoder(x), self.perturb(x))
        return clean.flatten(1).mean(1).lerp(perturbed.flatten(1).mean(1), self.perturbed_share), clean, perturbed

    def reconstruct(self, image: Tensor) -> Reconstruction:
        """Images (B, C, H, W) in [0, 1], decoded from their clean codes."""
        return Reconstruction(to_unit(self.decoder(self.encoder(to_signed(image)))))

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """A step of the autoencoder against a distorter at rest; in some epochs then one of the distorter, on the same batch."""
        x = to_signed(batch["image"])
        autoencoder, *distorter = cast(list[Any], [self.optimizers()] if self.distorter is None else self.optimizers())
        loss = self._autoencoder_loss(x, self.step_generator(batch_idx))
        self._step(autoencoder, loss)
        if distorter and self.current_epoch % self.distorter_every == 0:
            self._step(distorter[0], self._distorter_loss(x))

    def _autoencoder_loss(self, x: Tensor, generator: Generator) -> Tensor:
        with torch.no_grad(), running_statistics_kept(self.distorter or nn.Identity()):
            delta = self.perturb(x, generator)
        code = self.encoder(x)
        clean, perturbed = (error.mean() for error in self.errors(x, code, delta))
        values = {"clean": clean, "perturbed": perturbed, "distortion": distortion(delta, code.detach())}
        self.log_dict({f"train/{name}": value.detach() for name, value in values.items()}, batch_size=len(x))
        return self.perturbed_weight * perturbed + self.clean_weight * clean

    def _distorter_loss(self, x: Tensor) -> Tensor:
        with torch.no_grad(), running_statistics_kept(self.encoder):
            code = self.encoder(x)
        return -mean_square(x, self.decoder(code + self.perturb(x))).mean()

    def _step(self, optimizer: Any, loss: Tensor) -> None:
        # Gradients of the other player's weights are neither needed nor computed, ...
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        if self.trainer.world_size > 1:  # ... but DDP waits for a gradient of every parameter
            weights = list(self.parameters())
            loss = with_idle_weights(loss, weights)
        self.manual_backward(loss, inputs=weights)
        optimizer.step()
        self.zero_grad()

    def fit_statistics(self) -> None:
        """Choose the score on validation data."""
        if self.score != "chosen" or self.perturbation == "none":
            return
        if getattr(self.trainer.datamodule, "validation", None) == "test":  # type: ignore[attr-defined]
            rank_zero_warn(
                "ALPS chooses its score on validation data, and validation: test has none of their own; it takes the perturbed one. "
                "Set validation: augmented, or score of the model."
            )
            return
        training = self.training
        self.eval()
        scores, label = self._gathered(self._validated(self.validation_batches()))
        self.train(training)
        if 0 < int(label.sum()) < len(label):
            self.perturbed_share.fill_(SHARES[best_score(scores, label)])

    @torch.no_grad()
    def _validated(self, batches: Iterable[Batch]) -> Tensor:
        """Clean score, perturbed score and label of this process's validation images, shape (3, B)."""
        parts = [torch.empty(3, 0, dtype=torch.float32, device=self.device)]
        for batch in batches:
            if "label" not in batch:
                continue
            errors = self._score(batch["image"])[1:]
            rows = torch.stack([*(error.flatten(1).mean(1) for error in errors), batch["label"].float()])
            parts.append(rows[:, ~batch["padding"]] if "padding" in batch else rows)
        return torch.cat(parts, 1)

    def _gathered(self, mine: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (2, B) and labels (B,) of the images of all processes."""
        counts = cast(Tensor, self.all_gather(torch.tensor(mine.shape[1], device=self.device))).reshape(-1).tolist()
        padded = torch.nn.functional.pad(mine, (0, max(counts) - mine.shape[1]))
        every = cast(Tensor, self.all_gather(padded)).reshape(len(counts), 3, -1)
        found = torch.cat([part[:, :count] for part, count in zip(every, counts, strict=True)], 1)
        self.watch("a score", found[:2])
        return found[:2], found[2].long()

    def configure_optimizers(self) -> list[Optimizer]:
        """Adam for encoder and decoder, and another one for the distorter."""
        players: list[list[nn.Module]] = [[self.encoder, self.decoder]]
        if self.distorter is not None:
            players.append([self.distorter])
        return [Adam([w for net in nets for w in net.parameters()], lr=self.lr, betas=BETAS) for nets in players]
