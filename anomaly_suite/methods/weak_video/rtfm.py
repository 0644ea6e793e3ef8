"""RTFM: a video is classified by its snippets of largest feature magnitude, which are made large if anomalous, small if normal.

Paper: Tian et al., "Weakly-supervised Video Anomaly Detection with Robust Temporal Feature Magnitude Learning", ICCV 2021;
    chapter 8 of Yu Tian's thesis.
Reference: the authors' PyTorch release (tianyu0207/RTFM) is described by our notes; no code was read.
Differs: smoothness never couples two videos, where the release takes it along all videos as one sequence. The cross-entropy is
    computed from logits; its gradient is that of the release, which has the probability, down to where that rounds. Whole videos may
    be padded to one length: convolutions see zeros there, as beyond the ends, and attention neither sees nor counts it.
    ``variant: thesis`` states what the text
    and the release do differently; where the text gives no figure (weight of the hinge, reductions of the sums), ours is
    said below. Width 2048 is no constant: branches have a quarter of ``feature_dim``.
Published figures: those of the checkpoint, of one tested every five steps, with the best AUROC on the test set, in the release and by its
    authors' own words. Here the last one is tested.
Axes: B bags, N normal and M anomalous ones, P pairs of them, C crops, T snippets (L segments in training), D feature width,
    S = B C sequences, k selected snippets.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from anomaly_suite.contract import SEGMENTS, Batch
from anomaly_suite.errors import ConfigError, ShapeError, WeightsError
from anomaly_suite.methods.weak_video.bags import BagModule, Bags, crop_portions, smoothness, top_mean
from anomaly_suite.methods.weak_video.deep_mil import ranking_loss
from anomaly_suite.nn.multiscale_temporal import TemporalNetwork
from anomaly_suite.nn.snippet_classifier import SnippetClassifier
from anomaly_suite.nn.weights import first_mismatch, read_tensors, without_prefixes

TOP_SHARE = 10  # one segment in ten is selected: 3 of 32
RANKING_PENALTY = 8e-5  # smoothness and sparsity of DeepMIL, which ``magnitude: false`` takes over

VARIANTS: dict[str, tuple[Any, Any]] = {  # what the release does, what the thesis says
    "fuse": (True, False),
    "attention_width": ("half", "full"),
    "attention_scaling": (True, False),
    "mag_loss": ("released", "hinge"),
    "bag_loss": ("mean", "each"),
    "select_dropout": (0.7, 0.0),
    "sparsity": ("released", "l1"),
    "weight_decay": (5e-3, 5e-4),
}
MAGNITUDE_WEIGHT = {"released": 1e-4, "hinge": 1e-2}  # the second is ours: the thesis gives none

RELEASED = {  # beginnings of names in the authors' files of weights, and ours
    **{
        f"Aggregate.conv_{branch + 1}.{layer}.": f"temporal.branches.{branch}.{layer}."
        for branch in range(3)
        for layer in (0, 2)
    },
    "Aggregate.conv_4.0.": "temporal.attention.reduce.",
    "Aggregate.non_local.theta.": "temporal.attention.query.",
    "Aggregate.non_local.phi.": "temporal.attention.key.",
    "Aggregate.non_local.g.": "temporal.attention.value.",
    "Aggregate.non_local.W.0.": "temporal.attention.expand.",
    "Aggregate.non_local.W.1.": "temporal.attention.norm.",
    "Aggregate.conv_5.0.": "temporal.fuse.0.",
    "Aggregate.conv_5.2.": "temporal.fuse.2.",
    **{f"fc{number + 1}.": f"classifier.layers.{3 * number}." for number in range(3)},
}

Terms = dict[str, tuple[float, Tensor]]  # each loss by name, with its weight


def _ranking_terms(score: Tensor, bags: Bags) -> Terms:
    """DeepMIL's losses, divided by the number of anomalous bags."""
    best, anomalous = top_mean(score, 1), score[bags.normal :]
    return {
        "ranking": (1 / bags.anomalous, ranking_loss(best[: bags.normal], best[bags.normal :])),
        "smoothness": (RANKING_PENALTY / bags.anomalous, smoothness(anomalous).sum()),
        "sparsity": (RANKING_PENALTY / bags.anomalous, anomalous.sum()),
    }


def own_name(name: str) -> str:
    """Our name of a tensor in a file of the authors' or of ours, with or without what training programs put in front.

    Example:
        >>> own_name("module.Aggregate.non_local.g.weight"), own_name("fc3.bias"), own_name("temporal.fuse.0.weight")
        ('temporal.attention.value.weight', 'classifier.layers.6.bias', 'temporal.fuse.0.weight')
    """
    name = without_prefixes(name)
    theirs = next((beginning for beginning in RELEASED if name.startswith(beginning)), None)
    return name if theirs is None else RELEASED[theirs] + name.removeprefix(theirs)


def magnitudes(embedded: Tensor) -> Tensor:
    """Length of every snippet's feature vector, the mean over crops: shape (B, C, T, D) to (B, T).

    Its gradient at a vector of zeros is zero.
    """
    length: Tensor = torch.linalg.vector_norm(embedded, dim=-1)
    return length.mean(1)


@torch.no_grad()
def select_snippets(magnitude: Tensor, k: int, *, drop: float, generator: Generator) -> Tensor:
    """Positions of the ``k`` largest magnitudes of every bag, after each was set to zero with probability ``drop``.

    Where fewer than ``k`` are left, any others fill up. No gradient passes.

    Args:
        magnitude: Shape (B, L), 0 or more.
        k: 1 to L.
        drop: In [0, 1); 0 gives plain top-k.
        generator: Source of the draws, on the device of ``magnitude``.

    Returns:
        Shape (B, k), long.
    """
    kept = torch.empty_like(magnitude).bernoulli_(1 - drop, generator=generator)
    index: Tensor = (magnitude * kept).topk(k, dim=1).indices
    return index


def selected_mean(embedded: Tensor, index: Tensor) -> Tensor:
    """Mean feature of the selected snippets, the same ones in every crop: shapes (B, C, L, D) and (B, k) to (B, C, D)."""
    where = index[:, None, :, None].expand(-1, embedded.shape[1], -1, embedded.shape[3])
    return embedded.gather(2, where).mean(2)


def bag_loss(selected_logit: Tensor, label: Tensor, *, kind: Literal["mean", "each"]) -> Tensor:
    """Binary cross-entropy of the selected scores with the label of their bag, averaged over bags.

    From logits, so that a bag that is wrong and sure of it still learns: its gradient goes to -1, and nothing is clamped.

    Args:
        selected_logit: Before the sigmoid; a score is the mean over crops of the sigmoids. Shape (B, C, k).
        label: Shape (B,), 0 or 1.
        kind: ``mean`` averages the scores first; ``each`` sums the cross-entropies of all.

    Returns:
        Scalar, 0 or more.

    Example:
        >>> bag_loss(torch.tensor([[[40.0, -40.0]]]), torch.tensor([1]), kind="mean")
        tensor(0.6931)
    """
    # 1 - sigmoid(x) is sigmoid(-x): the probability of the bag's own label is a mean of sigmoids for both labels.
    sign = torch.where(label == 1, 1.0, -1.0).view(-1, 1, 1)
    over = (1, 2) if kind == "mean" else (1,)
    count = math.prod(selected_logit.shape[dim] for dim in over)
    of_label = torch.logsumexp(F.logsigmoid(sign * selected_logit), over) - math.log(count)  # B, or B k
    return -of_label.view(len(label), -1).sum(1).mean()


def magnitude_loss(normal: Tensor, anomalous: Tensor, *, margin: float) -> Tensor:
    """Anomalous magnitudes are pulled to the margin, from above too, and normal ones to zero, both at once.

    Args:
        normal: Lengths of the mean selected feature of normal bags, shape (P, C).
        anomalous: Those of anomalous bags, shape (P, C).
        margin: m.

    Returns:
        Mean of ``(abs(m - anomalous) + normal) ** 2``.

    Source:
        The release. Up to the margin it is the square of the hinge's argument.

    Example:
        >>> magnitude_loss(torch.tensor([[0.0]]), torch.tensor([[120.0]]), margin=100.0)
        tensor(400.)
    """
    return ((margin - anomalous).abs() + normal).square().mean()


def hinge_loss(normal: Tensor, anomalous: Tensor, *, margin: float) -> Tensor:
    """Anomalous magnitudes are to exceed normal ones by the margin.

    Args:
        normal: Mean selected magnitudes of normal bags, shape (P,).
        anomalous: Those of anomalous bags, shape (P,).
        margin: m.

    Returns:
        Mean of ``max(0, m - (anomalous - normal))``.

    Source:
        Equation 8.7 of the thesis.
    """
    return (margin - (anomalous - normal)).relu().mean()


def sparsity_loss(anomalous: Tensor, *, kind: Literal["released", "l1"]) -> Tensor:
    """Size of the scores of anomalous bags.

    Args:
        anomalous: Shape (M, L).
        kind: ``released``, the root of the sum of all squares, or ``l1``, each bag's sum averaged over bags.

    Returns:
        Scalar, 0 or more.
    """
    # The gradient of this norm at zero is zero.
    return torch.linalg.vector_norm(anomalous) if kind == "released" else anomalous.sum(1).mean()


NETWORKS = ("temporal.", "classifier.")


class RTFM(BagModule):
    """A temporal network makes features whose magnitude tells anomalous videos from normal ones; a classifier scores them.

    In every training video the ``top_k`` snippets of largest magnitude are selected. They pull the magnitudes of the two
    classes apart and teach the classifier, with the label of their video.

    Options that are None follow ``variant``; each can be set by itself.

    Args:
        feature_dim: D; 2048 for I3D ResNet-50, 4096 for C3D, 1024 for I3D Inception.
        variant: ``released`` is what made the published figures, ``thesis`` what the text says.
        pdc: Dilated convolutions.
        tsa: Temporal self-attention; without both, the temporal network is one convolution of kernel 1.
        magnitude: Learn from magnitudes. Without, the loss is DeepMIL's with means: every normal bag's highest score
            against every anomalous one's, plus 8e-5 of smoothness and sparsity; ``top_k`` and the options of the losses
            below then do nothing.
        fuse: See :class:`~anomaly_suite.nn.multiscale_temporal.TemporalNetwork`; thesis: no.
        attention_width: Of its attention; released: half, thesis: full.
        attention_scaling: Divide its attention by the number of snippets; thesis: no.
        hidden: Widths of the classifier's hidden layers.
        dropout: Of temporal features, and of the classifier's hidden layers. Magnitudes are those after dropout.
        mag_loss: ``released``, see :func:`magnitude_loss`, or ``hinge``, see :func:`hinge_loss`.
        bag_loss: ``mean``, the cross-entropy of a video's mean selected score, or ``each``, the sum of those of its
            selected scores; either is averaged over videos.
        select_dropout: Share of magnitudes that do not take part in the selection; thesis: 0.
        sparsity: ``released``, the root of the sum of all squared scores of anomalous videos, or ``l1``, the sum of
            scores averaged over anomalous videos; at 32 videos of 32 segments both start alike.
        top_k: k; None is a tenth of the segments, at least 1.
        margin: m.
        magnitude_weight: None is 1e-4 with ``mag_loss: released`` and 1e-2 with ``hinge``.
        smoothness_weight: Of the sum of squared differences of neighbouring scores of anomalous videos.
        sparsity_weight: Of the sparsity.
        lr: Learning rate of Adam, constant; 1e-4 for XD-Violence.
        weight_decay: Of Adam, added to gradients; released: 5e-3, thesis: 5e-4.
        train_crops: Crops drawn at random for each step, the same for the whole batch; None takes all.
        segments: L.
        weights: The authors' published weights (``*.pkl``, with the options of ``variant: released``), a checkpoint of this method, or
            the folder of its run; a test then needs no other checkpoint. null begins with random weights.

    Raises:
        ConfigError: an option out of its range.

    Source:
        Chapter 8 and table 8.5 of the thesis.
    """

    whole_weights = ("weights",)

    def __init__(
        self,
        *,
        feature_dim: int = 2048,
        variant: Literal["released", "thesis"] = "released",
        pdc: bool = True,
        tsa: bool = True,
        magnitude: bool = True,
        fuse: bool | None = None,
        attention_width: Literal["half", "full"] | None = None,
        attention_scaling: bool | None = None,
        hidden: tuple[int, ...] = (512, 128),
        dropout: float = 0.7,
        mag_loss: Literal["released", "hinge"] | None = None,
        bag_loss: Literal["mean", "each"] | None = None,
        select_dropout: float | None = None,
        sparsity: Literal["released", "l1"] | None = None,
        top_k: int | None = None,
        margin: float = 100.0,
        magnitude_weight: float | None = None,
        smoothness_weight: float = 8e-4,
        sparsity_weight: float = 8e-3,
        lr: float = 1e-3,
        weight_decay: float | None = None,
        train_crops: int | None = None,
        segments: int = SEGMENTS,
        weights: str | None = None,
    ) -> None:
        super().__init__(feature_dim=feature_dim, segments=segments)
        self.save_hyperparameters()
        if variant not in ("released", "thesis"):
            raise ConfigError(f"variant must be released or thesis; got {variant!r}.")
        self.weights = weights
        self.magnitude = magnitude
        self.settings = {name: pair[variant == "thesis"] for name, pair in VARIANTS.items()}
        self.settings |= {name: self.hparams[name] for name in VARIANTS if self.hparams[name] is not None}
        default_weight = MAGNITUDE_WEIGHT[self.settings["mag_loss"]]
        self.magnitude_weight = default_weight if magnitude_weight is None else magnitude_weight
        self.top_k = max(1, segments // TOP_SHARE) if top_k is None else top_k
        if not 1 <= self.top_k <= segments:
            raise ConfigError(f"top_k must be in 1 to {segments}, the segments of a video; got {top_k}.")
        for name, value in (("dropout", dropout), ("select_dropout", self.settings["select_dropout"])):
            if not 0 <= value < 1:
                raise ConfigError(f"{name} must be in [0, 1); got {value}.")
        if train_crops is not None and train_crops < 1:
            raise ConfigError(f"train_crops must be at least 1, or null for all; got {train_crops}.")
        network = {name: self.settings[name] for name in ("fuse", "attention_width", "attention_scaling")}
        self.temporal = TemporalNetwork(feature_dim=feature_dim, pdc=pdc, tsa=tsa, **network)
        self.dropout = nn.Dropout(dropout)
        self.classifier = SnippetClassifier(feature_dim=feature_dim, hidden=hidden, dropout=dropout)
        for layer in self.modules():
            if isinstance(layer, nn.Conv1d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def load_pretrained(self) -> None:
        """Load published weights, or those of another run.

        Raises:
            WeightsError: no such file, an unreadable one, or one of another network: the first difference is named.
        """
        if self.weights is None:
            return
        state = {key: value for key, value in self.state_dict().items() if key.startswith(NETWORKS)}
        tensors = {own_name(key): value for key, value in read_tensors(self.weights).items()}
        tensors = {key: value for key, value in tensors.items() if not key.startswith("calibration.")}
        extra = sorted(tensors.keys() - state.keys())
        if fault := first_mismatch(tensors, state) or (
            extra and f"it also holds {extra[0]} {tuple(tensors[extra[0]].shape)}"
        ):
            raise WeightsError(
                f"the weights in '{self.weights}' must fit RTFM with these options, but {fault}. Give a file of RTFM, and the options "
                "(feature_dim, variant, pdc, tsa, fuse, hidden) that it was fitted with."
            )
        self.load_state_dict(tensors, strict=False)

    def embed(self, snippet_features: Tensor, length: Tensor | None = None) -> Tensor:
        """Temporal features, after dropout in training.

        Args:
            snippet_features: Shape (B, C, T, D).
            length: Snippets of each video, shape (B,); T for all if None.

        Returns:
            Shape (B, C, T, D), anything in padding.
        """
        batch, crops, snippets, _ = snippet_features.shape
        padding = None
        if length is not None:
            position = torch.arange(snippets, device=snippet_features.device)
            padding = (position >= length.view(-1, 1, 1).expand(batch, crops, 1).flatten(0, 1)).unsqueeze(1)  # S 1 T
        embedded: Tensor = self.dropout(self.temporal(snippet_features.flatten(0, 1).transpose(1, 2), padding))  # S D T
        return embedded.transpose(1, 2).view(batch, crops, snippets, -1)

    def snippet_scores(self, snippet_features: Tensor, length: Tensor) -> Tensor:
        """Scores of all snippets, the mean over crops: shape (B, C, T, D) to (B, T)."""
        scores = [self.classifier(self.embed(few, length)) for few in crop_portions(snippet_features)]  # B some T
        return torch.cat(scores, 1).mean(1)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The weighted sum of the losses, each of which is logged."""
        bags = self.bags(batch)
        generator = self.step_generator(batch_idx)
        embedded = self.embed(self._draw_crops(bags.snippet_features, generator))  # B C L D
        logit, embedded = self.classifier.logits(embedded), embedded.float()  # B C L
        if self.magnitude:
            terms = self._magnitude_terms(embedded, logit, bags, generator)
        else:
            terms = _ranking_terms(logit.sigmoid().mean(1), bags)
        loss = torch.stack([weight * value for weight, value in terms.values()]).sum()
        values = {"loss": loss, **{name: value for name, (_, value) in terms.items()}}
        self.log_dict({f"train/{name}": value for name, value in values.items()}, batch_size=len(logit))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam at a constant rate, its weight decay coupled to the gradients."""
        return torch.optim.Adam(self.parameters(), lr=self.hparams["lr"], weight_decay=self.settings["weight_decay"])

    def _draw_crops(self, features: Tensor, generator: Generator) -> Tensor:
        wanted, crops = self.hparams["train_crops"], features.shape[1]
        if wanted is None:
            return features
        if wanted > crops:
            raise ShapeError(f"train_crops is {wanted}, but videos have {crops} crops. Set train_crops: null for all.")
        return features[:, torch.randperm(crops, generator=generator, device=generator.device)[:wanted]]

    def _magnitude_terms(self, embedded: Tensor, logit: Tensor, bags: Bags, generator: Generator) -> Terms:
        options, normal, anomalous = self.settings, slice(bags.pairs), slice(bags.normal, bags.normal + bags.pairs)
        strength = magnitudes(embedded)  # B L
        index = select_snippets(strength, self.top_k, drop=options["select_dropout"], generator=generator)  # B k
        if options["mag_loss"] == "hinge":
            size, separate = strength.gather(1, index).mean(1), hinge_loss  # B
        else:
            size, separate = torch.linalg.vector_norm(selected_mean(embedded, index), dim=-1), magnitude_loss  # B C
        separated = separate(size[normal], size[anomalous], margin=self.hparams["margin"])
        of_crops = index.unsqueeze(1).expand(-1, logit.shape[1], -1)  # B C k
        classified = bag_loss(logit.gather(2, of_crops), bags.label, kind=options["bag_loss"])
        suspect = logit[bags.normal :].sigmoid().mean(1)  # M L
        return {
            "classification": (1.0, classified),
            "magnitude": (self.magnitude_weight, separated),
            "smoothness": (self.hparams["smoothness_weight"], smoothness(suspect).sum()),
            "sparsity": (self.hparams["sparsity_weight"], sparsity_loss(suspect, kind=options["sparsity"])),
        }
