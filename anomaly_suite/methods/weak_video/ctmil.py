"""CTMIL: a transformer scores snippets and videos; hard snippets are pulled to easy ones of their kind.

Paper: Tian et al., "Contrastive Transformer-based Multiple Instance Learning for Weakly Supervised Polyp Frame Detection",
    MICCAI 2022; chapter 9 of Yu Tian's thesis.
Reference: the authors' released code is described by our notes; no code was read.
Differs: the wiring is the thesis' unless ``preset: released``, which takes feature channels for tokens; the transformer is
    smaller unless ``preset: thesis``. Losses, weights and counts are those of the release, except where
    ``snippet_contrast.py`` says so. ``pairs: all`` averages, where the thesis sums, so that the weights of the other losses keep their
    meaning. With several crops each goes through the network as a sequence of its own; scores, their losses and mining
    take the mean over crops of the scores, the contrast the mean of the embeddings, the video loss the mean of the losses.
Axes: B bags, N normal and M anomalous ones, P pairs of them, C crops, T snippets, D feature width, E embedding width, K
    chosen snippets.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_suite.contract import SEGMENTS, Batch
from anomaly_suite.errors import ConfigError, ShapeError
from anomaly_suite.methods.weak_video.bags import BagModule, Bags, crop_portions, smoothness, top_mean
from anomaly_suite.methods.weak_video.snippet_contrast import Edge, contrast, mine, mining_mask
from anomaly_suite.nn.conv_transformer import INIT_STD, AttentionScale, ConvTransformer
from anomaly_suite.nn.exporting import is_exporting
from anomaly_suite.nn.snippet_classifier import SnippetClassifier

EMBEDDING_KERNEL = 3
TOP_K = 3  # snippets that make the score of a video
CONTRAST_WEIGHT = 0.25
PENALTY = {"released": 8e-5, "thesis": 5e-4}  # a = b

Tokens = Literal["snippet", "channel"]
Pairs = Literal["same", "all"]
Regularizer = Literal["released", "thesis"]
Preset = Literal["default", "thesis", "released"]


class _Settings(NamedTuple):
    """What a preset decides; ``embed_dim`` None is the width of the features."""

    tokens: Tokens = "snippet"
    embed_dim: int | None = None
    depth: int = 12
    heads: int = 8
    kernel: int = 3
    kv_stride: int = 1
    attention_scale: AttentionScale = "head"
    edge: Edge = "width3"
    weight_decay: float = 5e-4


PRESETS: dict[str, _Settings] = {
    "default": _Settings(embed_dim=512, depth=2),
    "thesis": _Settings(),
    "released": _Settings(
        tokens="channel", depth=6, kv_stride=2, attention_scale="width", edge="released", weight_decay=5e-3
    ),
}


class Encoded(NamedTuple):
    """``embedding`` of snippets (B, C, T, E), and ``video_logit`` (B, C) where there is a video head."""

    embedding: Tensor
    video_logit: Tensor | None


def snippet_loss(normal: Tensor, anomalous: Tensor, *, pairs: Pairs = "same") -> Tensor:
    """L_snp: mean hinge of the scores of pairs of bags, 0 where the anomalous one is higher by 1.

    Args:
        normal: Scores of normal bags, shape (N,).
        anomalous: Scores of anomalous bags, shape (M,).
        pairs: ``same``, the i-th with the i-th, or ``all``.

    Returns:
        Scalar, 0 or more; 1 where all scores are equal.

    Example:
        >>> snippet_loss(torch.tensor([0.0]), torch.tensor([1.0])), snippet_loss(torch.tensor([0.5]), torch.tensor([0.5]))
        (tensor(0.), tensor(1.))
    """
    if pairs == "all":
        return (1 - anomalous + normal.unsqueeze(1)).relu().mean()
    count = min(len(normal), len(anomalous))
    return (1 - anomalous[:count] + normal[:count]).relu().mean()


def video_loss(video_logit: Tensor, label: Tensor) -> Tensor:
    """L_vid: mean binary cross entropy, every crop by itself.

    Args:
        video_logit: Shape (B, C).
        label: Shape (B,), 1 is anomalous.

    Returns:
        Scalar.
    """
    target = label.to(video_logit.dtype).unsqueeze(1).expand_as(video_logit)
    return F.binary_cross_entropy_with_logits(video_logit, target)


def temporal_penalty(normal: Tensor, anomalous: Tensor, *, kind: Regularizer = "released") -> Tensor:
    """L_reg: scores are to change slowly and be low on most snippets.

    Args:
        normal: Scores of normal bags, shape (N, T).
        anomalous: Scores of anomalous bags, shape (M, T).
        kind: ``released``: 8e-5 times the sum of squared differences plus the norm, mean over anomalous bags; ``thesis``:
            5e-4 times squared differences plus scores, mean over snippets and all bags.

    Returns:
        Scalar.
    """
    weight = PENALTY[kind]
    if kind == "thesis":
        score = torch.cat([normal, anomalous])
        return weight * (smoothness(score) + score.sum(1)).mean() / score.shape[1]
    norm: Tensor = torch.linalg.vector_norm(anomalous, dim=1)
    return weight * (smoothness(anomalous) + norm).mean()


class CTMIL(BagModule):
    """Contrastive transformer multiple-instance learning.

    Args:
        feature_dim: Width of the snippet features; 2048 for I3D ResNet-50.
        preset: Sets the nine options that follow wherever they are null: ``default``, the thesis' wiring, 2 blocks of width
            512; ``thesis``, 12 blocks as wide as the features; ``released``, 6 blocks on channels as tokens.
        tokens: What the transformer attends over: the snippets, or the channels of the embedding, whose values at the ``segments``
            snippets are then the width of a token.
        embed_dim: E; as wide as the features in ``thesis`` and ``released``.
        depth: Blocks of the transformer.
        heads: Heads of the attention, a divisor of the width of a token.
        kernel: Of the depth-wise convolutions before queries, keys and values; odd, 1 for none.
        kv_stride: Step of these convolutions for keys and values; 2 in ``released``.
        attention_scale: Divide products by the root of the width of a ``head``, or of a whole token (``width``, in ``released``).
        edge: Snippets at the ends of high-scored runs that count as hard: the first and last (``width3``), or what the
            off-centre erosion of ``released`` leaves.
        weight_decay: Of Adam; 5e-3 in ``released``, otherwise 5e-4.
        encoder: ``linear`` maps every snippet alone to an embedding, for ablations; it has no class token, so it needs
            ``video_loss: false``.
        hidden: Widths of the two hidden layers of the snippet head.
        dropout: Share of their values dropped in training.
        video_loss: Classify whole videos from the class token as well.
        contrastive: Pull hard snippets to easy ones of their kind, away from easy ones of the other.
        pairs: Rank the i-th anomalous bag above the i-th normal one, or every one above every other (``all``).
        regularizer: ``released``, of anomalous bags with the norm of the scores, or ``thesis``, of all bags with their mean.
        mine_eval: Choose easy and hard snippets by scores without dropout.
        lr: Learning rate of Adam.
        windows: Score ``segments`` consecutive snippets at a time, as many as in training; otherwise a whole video at once.
        use_video_prob: Multiply snippet scores by the probability that their window, or whole video, is anomalous.
        segments: Snippets of a bag in training and of a window.

    Raises:
        ConfigError: options out of range or that do not fit together.

    Source:
        Section 9.2 of the thesis.
    """

    def __init__(
        self,
        *,
        feature_dim: int = 2048,
        preset: Preset = "default",
        tokens: Tokens | None = None,
        embed_dim: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        kernel: int | None = None,
        kv_stride: int | None = None,
        attention_scale: AttentionScale | None = None,
        edge: Edge | None = None,
        weight_decay: float | None = None,
        encoder: Literal["transformer", "linear"] = "transformer",
        hidden: tuple[int, int] = (512, 128),
        dropout: float = 0.7,
        video_loss: bool = True,
        contrastive: bool = True,
        pairs: Pairs = "same",
        regularizer: Regularizer = "released",
        mine_eval: bool = False,
        lr: float = 1e-3,
        windows: bool = True,
        use_video_prob: bool = False,
        segments: int = SEGMENTS,
    ) -> None:
        super().__init__(feature_dim=feature_dim, segments=segments)
        settings = _settings(
            preset, tokens=tokens, embed_dim=embed_dim, depth=depth, heads=heads, kernel=kernel, kv_stride=kv_stride,
            attention_scale=attention_scale, edge=edge, weight_decay=weight_decay,
        )  # fmt: skip
        width = feature_dim if settings.embed_dim is None else settings.embed_dim
        _check_heads(
            width, dropout, class_token=encoder == "transformer", video_loss=video_loss, video_prob=use_video_prob
        )
        self.by_channel = settings.tokens == "channel" and encoder == "transformer"
        if self.by_channel and not windows:
            raise ConfigError(f"tokens: channel takes exactly {segments} snippets at a time. Set windows: true.")
        self.save_hyperparameters()
        self.edge: Edge = settings.edge
        self.weight_decay = settings.weight_decay
        self.contrastive = contrastive
        self.pairs: Pairs = pairs
        self.regularizer: Regularizer = regularizer
        self.mine_eval = mine_eval
        self.lr = lr
        self.windows = windows
        self.use_video_prob = use_video_prob
        self._build(settings, width, hidden, dropout, transformer=encoder == "transformer", video_head=video_loss)

    def _build(
        self,
        settings: _Settings,
        width: int,
        hidden: tuple[int, int],
        dropout: float,
        *,
        transformer: bool,
        video_head: bool,
    ) -> None:
        token_width = self.segments if self.by_channel else width
        self.transformer: ConvTransformer | None = None
        if transformer:
            self.transformer = ConvTransformer(
                width=token_width, depth=settings.depth, heads=settings.heads, kernel=settings.kernel,
                kv_stride=settings.kv_stride, scale=settings.attention_scale,
            )  # fmt: skip
        taps = EMBEDDING_KERNEL if transformer else 1
        self.embed = nn.Conv1d(self.feature_dim, width, taps, padding=taps // 2)
        self.snippet_head = SnippetClassifier(feature_dim=width, hidden=hidden, dropout=dropout)
        self.video_head = nn.Linear(token_width, 1) if video_head else None
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=INIT_STD)
                nn.init.zeros_(layer.bias)

    def encode(self, snippet_features: Tensor, length: Tensor | None = None) -> Encoded:
        """Embed snippets, each crop as a sequence of its own.

        Args:
            snippet_features: Shape (B, C, T, D).
            length: Snippets of each video, shape (B,); T for all if None. What comes after them does not matter.

        Returns:
            Embeddings, anything in padding, and the logit of each whole sequence.

        Raises:
            ShapeError: T other than ``segments`` where the tokens are channels.
        """
        batch, crops, snippets, _ = snippet_features.shape
        if self.by_channel and snippets != self.segments:
            raise ShapeError(
                f"with tokens: channel CTMIL takes exactly {self.segments} snippets at a time; got {snippets}. "
                "Pool the video, or cut it to windows."
            )
        sequences = snippet_features.flatten(0, 1).transpose(1, 2)  # BC D T
        if length is not None:
            length = length.repeat_interleave(crops)
            padding = torch.arange(snippets, device=length.device) >= length.unsqueeze(1)
            sequences = sequences.masked_fill(padding.unsqueeze(1), 0)
        embedding = self.embed(sequences)  # BC E T
        video_logit = None
        if self.transformer is None:
            embedding = embedding.transpose(1, 2)  # BC T E
        else:
            tokens = embedding if self.by_channel else embedding.transpose(1, 2)
            tokens, class_token = self.transformer(tokens, None if self.by_channel else length)
            embedding = tokens.transpose(1, 2) if self.by_channel else tokens  # BC T E
            if self.video_head is not None:
                video_logit = self.video_head(class_token).float().view(batch, crops)
        return Encoded(embedding.unflatten(0, (batch, crops)), video_logit)

    def snippet_scores(self, snippet_features: Tensor, length: Tensor) -> Tensor:
        """Scores of all snippets, shape (B, C, T, D) to (B, T), window by window or all at once.

        The last window of a video is filled up with its last snippet. Padding does not change the scores.
        """
        values = [self._crop_values(few, length) for few in crop_portions(snippet_features)]
        mean = torch.cat(values, 2).mean(2)  # 1 or 2, B T
        return mean.prod(0) if len(mean) > 1 else mean[0]

    def _crop_values(self, snippet_features: Tensor, length: Tensor) -> Tensor:
        """See :meth:`_values`, window by window or all at once: shape (B, C, T, D) to (1 or 2, B, C, T)."""
        if not self.windows:
            return self._values(snippet_features, length)
        batch, _, snippets, _ = snippet_features.shape
        device, size = length.device, self.segments
        if is_exporting():  # a graph takes as many windows of every video
            count = (snippets + size - 1) // size
            every = torch.arange(batch * count, device=device)
            video, first = every // count, torch.arange(batch, device=device) * count
        else:
            held = (length + size - 1) // size  # windows that hold any snippet
            first = held.cumsum(0) - held
            video = torch.arange(batch, device=device).repeat_interleave(held)
            every = torch.arange(len(video), device=device)
        window = every - first[video]
        position = size * window.unsqueeze(1) + torch.arange(size, device=device)
        position = torch.minimum(position, length[video].unsqueeze(1) - 1)  # W L
        cut = snippet_features[video.unsqueeze(1), :, position].transpose(1, 2)  # W C L D
        values = self._values(cut, None).transpose(1, 2)  # 1 or 2, C W L
        place = torch.minimum(torch.arange(snippets, device=device), length.unsqueeze(1) - 1)  # B T
        return values.flatten(2)[:, :, size * first.unsqueeze(1) + place].transpose(1, 2)

    def _values(self, snippet_features: Tensor, length: Tensor | None) -> Tensor:
        """Scores, and with ``use_video_prob`` beside each the probability of its sequence: (B, C, T, D) to (1 or 2, B, C, T)."""
        encoded = self.encode(snippet_features, length)
        values: list[Tensor] = [self.snippet_head(encoded.embedding)]
        if self.use_video_prob and encoded.video_logit is not None:
            values.append(encoded.video_logit.sigmoid().unsqueeze(2).expand_as(values[0]))
        return torch.stack(values)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Ranking, classification of videos, regularisation and contrast."""
        bags = self.bags(batch)
        encoded = self.encode(bags.snippet_features)
        score = self.snippet_head(encoded.embedding).mean(1)  # B T
        normal, anomalous = score[: bags.normal], score[bags.normal :]
        best = top_mean(score, TOP_K)
        losses = {
            "ranking": snippet_loss(best[: bags.normal], best[bags.normal :], pairs=self.pairs),
            "regularization": temporal_penalty(normal, anomalous, kind=self.regularizer),
        }
        if encoded.video_logit is not None:
            losses["video"] = video_loss(encoded.video_logit, bags.label)
        loss = torch.stack(list(losses.values())).sum()
        if self.contrastive:
            guide = self._mining_scores(encoded, score)
            mask = mining_mask(score, generator=self.step_generator(batch_idx))
            embedding = encoded.embedding.float().mean(1)  # B T E
            mined = mine(*_paired(guide, bags), *_paired(mask, bags), edge=self.edge)
            hard_anomalous, hard_normal = contrast(*_paired(embedding, bags), mined)
            loss = loss + CONTRAST_WEIGHT * (hard_anomalous + hard_normal)
            losses |= {"hard_anomalous": hard_anomalous, "hard_normal": hard_normal}
        self.log("train/loss", loss, batch_size=len(score))
        self.log_dict({f"train/{name}": value for name, value in losses.items()}, batch_size=len(score))
        self.log("train/score_gap", anomalous.amax(1).mean() - normal.amax(1).mean(), batch_size=len(score))
        return loss

    @torch.no_grad()
    def _mining_scores(self, encoded: Encoded, score: Tensor) -> Tensor:
        if not self.mine_eval:
            return score.detach()
        self.snippet_head.eval()  # the only part with dropout
        clean: Tensor = self.snippet_head(encoded.embedding).mean(1)
        self.snippet_head.train()
        return clean

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam at a constant rate."""
        return torch.optim.Adam(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)


def _paired(values: Tensor, bags: Bags) -> tuple[Tensor, Tensor]:
    """Rows of the normal and of the anomalous bag of every pair: the classes may have unequal numbers."""
    return values[: bags.pairs], values[bags.normal : bags.normal + bags.pairs]


def _settings(preset: Preset, **given: Any) -> _Settings:
    """A preset with the options that are given; None is not given."""
    return PRESETS[preset]._replace(**{key: value for key, value in given.items() if value is not None})


def _check_heads(width: int, dropout: float, *, class_token: bool, video_loss: bool, video_prob: bool) -> None:
    if width < 1 or not 0 <= dropout < 1:
        raise ConfigError(f"embed_dim must be at least 1 and dropout in [0, 1); got {width} and {dropout}.")

    if video_loss and not class_token:
        raise ConfigError("encoder: linear has no class token to classify videos by. Set video_loss: false.")
    if video_prob and not video_loss:
        raise ConfigError("use_video_prob needs the video head, which only video_loss: true trains.")
