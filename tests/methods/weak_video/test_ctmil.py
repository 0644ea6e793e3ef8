"""CTMIL: the checks and pitfalls of its card."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor

from anomaly_suite.data import SyntheticVideos
from anomaly_suite.errors import ConfigError, ShapeError
from anomaly_suite.methods import CTMIL
from anomaly_suite.methods.weak_video import ctmil
from anomaly_suite.methods.weak_video.ctmil import snippet_loss, temporal_penalty, video_loss
from anomaly_suite.methods.weak_video.snippet_contrast import Mined, contrast, mine, mining_mask

pytestmark = pytest.mark.filterwarnings("ignore:You are trying to `self.log")

TINY: dict[str, Any] = {"feature_dim": 12, "embed_dim": 16, "depth": 2, "heads": 4, "hidden": (16, 8)}


def tiny(**options: Any) -> CTMIL:
    """Scores far from constant, which those of a fresh network would be."""
    model = CTMIL(**{**TINY, **options})
    for layer in model.snippet_head.modules():
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.xavier_normal_(layer.weight, gain=2)
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm1d):
            part.running_mean = 0.3 * torch.randn(part.num_features)
            part.running_var = 0.5 + torch.rand(part.num_features)
    return model


def batch(normal: int, anomalous: int, *, crops: int = 1, snippets: int = 32) -> dict[str, Tensor]:
    label = torch.arange(normal + anomalous) >= normal
    return {"snippet_features": torch.randn(len(label), crops, snippets, 12), "label": label.long()}


def weights(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


class TestWiring:
    def test_weights_of_the_release(self) -> None:
        model = CTMIL(preset="released")
        assert weights(model) == 13_779_010
        assert weights(model.embed) == 12_584_960
        assert weights(model.transformer.blocks) == 79_104
        assert model.transformer.class_token.numel() == 32
        assert weights(model.video_head) == 33
        assert weights(model.snippet_head) == 1_114_881

    def test_weights_of_the_thesis(self) -> None:
        with torch.device("meta"):
            model = CTMIL(preset="thesis")
        # A block: four square layers, a perceptron of 8 d^2, two layer norms, three convolutions with batch norms, biases.
        assert weights(model.transformer.blocks) == 12 * (12 * 2048**2 + 28 * 2048)
        assert model.video_head.in_features == 2048

    def test_the_release_attends_over_channels(self) -> None:
        model = CTMIL(preset="released", feature_dim=24, segments=16).eval()
        attention = model.transformer.blocks[0].attention
        keys: list[Tensor] = []
        attention.projections[1].register_forward_hook(lambda _, __, out: keys.append(out))
        encoded = model.encode(torch.rand(2, 1, 16, 24))
        assert encoded.embedding.shape == (2, 1, 16, 24)
        assert encoded.video_logit.shape == (2, 1)
        assert keys[0].shape == (2, 1 + 12, 16)  # every second channel and the class token
        assert attention.scale == 16**-0.5
        assert CTMIL(preset="released", feature_dim=24, segments=16, attention_scale="head").transformer.blocks[
            0
        ].attention.scale == pytest.approx(2**-0.5)
        assert len(model.transformer.blocks) == 6
        assert model.edge == "released"

    @torch.no_grad()
    def test_channel_tokens_by_hand(self) -> None:
        model = tiny(tokens="channel", heads=8).eval()
        features = torch.rand(2, 1, 32, 12)
        tokens = model.embed(features[:, 0].transpose(1, 2))  # channels in rows, snippets in columns
        rest, class_token = model.transformer(tokens)
        encoded = model.encode(features)
        assert torch.equal(encoded.embedding[:, 0, 5], rest[:, :, 5])
        assert torch.equal(encoded.video_logit, model.video_head(class_token))
        filled = torch.cat([features[:, :, :20], torch.zeros(2, 1, 12, 12)], 2)
        cut = model.encode(features, torch.tensor([20, 20]))  # snippets, not channels, are cut
        assert torch.equal(cut.embedding, model.encode(filled).embedding)

    def test_release_refuses_other_lengths(self) -> None:
        model = CTMIL(preset="released", feature_dim=24).eval()
        for snippets in (31, 33):
            with pytest.raises(ShapeError, match=f"exactly 32 snippets at a time; got {snippets}"):
                model.encode(torch.rand(1, 1, snippets, 24))

    @pytest.mark.parametrize("snippets", [1, 2, 31, 32, 33, 100])
    def test_snippet_tokens_take_any_length(self, snippets: int) -> None:
        encoded = tiny().eval().encode(torch.rand(2, 3, snippets, 12))
        assert encoded.embedding.shape == (2, 3, snippets, 16)
        assert encoded.video_logit.shape == (2, 3)

    def test_presets_and_what_overrides_them(self) -> None:
        def decay(**options: Any) -> float:
            (group,) = CTMIL(feature_dim=16, segments=8, **options).configure_optimizers().param_groups
            return group["weight_decay"]

        assert decay() == 5e-4
        assert decay(preset="thesis", depth=1) == 5e-4
        assert decay(preset="released") == 5e-3
        assert decay(preset="released", weight_decay=0.0) == 0
        default = CTMIL(feature_dim=16)
        assert default.embed.weight.shape == (512, 16, 3)
        assert len(default.transformer.blocks) == 2
        changed = CTMIL(
            feature_dim=16, preset="released", tokens="snippet", embed_dim=20, depth=1, heads=5, kernel=5, kv_stride=3, edge="width3"
        )  # fmt: skip
        (block,) = changed.transformer.blocks
        assert [mixer[0].weight.shape for mixer in block.attention.mixers] == [(20, 1, 5)] * 3
        assert [mixer[0].stride for mixer in block.attention.mixers] == [(1,), (3,), (3,)]
        assert block.attention.heads == 5
        assert block.attention.scale == pytest.approx(20**-0.5)
        assert changed.edge == "width3"

    def test_initial_weights(self) -> None:
        model = CTMIL(feature_dim=64, embed_dim=256, depth=1)
        linear = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
        assert len(linear) == 4 + 2 + 3 + 1
        for layer in linear:
            assert not layer.bias.any()
            if layer.weight.numel() > 10_000:
                assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=0.05)

    def test_linear_encoder_sees_each_snippet_alone(self) -> None:
        model = tiny(encoder="linear", video_loss=False).eval()
        features = torch.rand(1, 1, 9, 12)
        embedding = model.encode(features).embedding
        assert embedding.shape == (1, 1, 9, 16)
        assert torch.allclose(embedding[:, :, 4:5], model.encode(features[:, :, 4:5]).embedding, atol=1e-6)
        assert weights(model.embed) == 12 * 16 + 16

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"encoder": "linear"}, "no class token"),
            ({"use_video_prob": True, "video_loss": False}, "needs the video head"),
            ({"tokens": "channel", "windows": False, "heads": 8}, "takes exactly 32 snippets"),
            ({"heads": 3}, "heads must divide the width of a token, 16; got 3"),
            ({"tokens": "channel", "heads": 3}, "width of a token, 32; got 3"),
            ({"depth": 0}, "depth must be at least 1"),
            ({"kernel": 4}, "kernel must be odd"),
            ({"kernel": 1, "kv_stride": 2}, "above 1 needs a convolution"),
            ({"embed_dim": 0}, "embed_dim must be at least 1"),
            ({"dropout": 1.0}, "dropout must be in"),
            ({"segments": 0}, "segments must be at least 1"),
            ({"feature_dim": 0}, "feature_dim must be at least 1"),
        ],
    )
    def test_options_that_cannot_work(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            CTMIL(**{**TINY, **options})


class TestMining:
    def test_each_kind_comes_from_its_own_videos(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = tiny()
        seen: list[tuple[Tensor, Tensor]] = []

        def spy(normal: Tensor, anomalous: Tensor, mined: Mined) -> tuple[Tensor, Tensor]:
            seen.append((normal, anomalous))
            return contrast(normal, anomalous, mined)

        monkeypatch.setattr(ctmil, "contrast", spy)
        videos = batch(2, 3)
        order = torch.tensor([4, 0, 2, 1, 3])  # not normal first
        model.training_step({key: value[order] for key, value in videos.items()}, 0)
        # Batch norms make embeddings depend on the whole batch, so compare with the whole batch, ordered.
        embedding = model.encode(
            torch.stack([videos["snippet_features"][row] for row in (0, 1, 4, 2, 3)])
        ).embedding.mean(1)
        ((normal, anomalous),) = seen
        assert torch.allclose(normal, embedding[:2], atol=1e-5)
        assert torch.allclose(anomalous, embedding[2:4], atol=1e-5)

    def test_scores_for_mining_carry_dropout_unless_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        guides: list[Tensor] = []

        def spy(normal: Tensor, anomalous: Tensor, *args: Tensor, **options: Any) -> Mined:
            guides.append(torch.cat([normal, anomalous]))
            return mine(normal, anomalous, *args, **options)

        monkeypatch.setattr(ctmil, "mine", spy)
        videos = batch(3, 3)
        for mine_eval in (False, True):
            model = tiny(mine_eval=mine_eval)
            guides.clear()
            for step in (0, 1):  # other dropout in each step
                model.training_step(videos, step)
            assert torch.allclose(*guides, atol=1e-6) is mine_eval
            assert model.snippet_head.training
            assert not any(guide.requires_grad for guide in guides)
            if mine_eval:
                encoded = model.encode(videos["snippet_features"])
                model.snippet_head.eval()
                assert torch.allclose(guides[0], model.snippet_head(encoded.embedding).mean(1), atol=1e-6)


class TestLosses:
    @pytest.mark.parametrize("pairs", ["same", "all"])
    def test_ranking_of_the_card(self, pairs: Any) -> None:
        assert float(snippet_loss(torch.zeros(3), torch.ones(3), pairs=pairs)) == 0
        assert float(snippet_loss(torch.full((3,), 0.3), torch.full((3,), 0.3), pairs=pairs)) == pytest.approx(1)
        assert float(snippet_loss(torch.ones(3), torch.zeros(3), pairs=pairs)) == 2

    def test_ranking_equals_a_slow_loop(self) -> None:
        normal, anomalous = 3 * torch.rand(4), 3 * torch.rand(3)
        same = [max(0.0, 1 - float(anomalous[i]) + float(normal[i])) for i in range(3)]
        every = [max(0.0, 1 - float(a) + float(n)) for n, a in itertools.product(normal, anomalous)]
        assert float(snippet_loss(normal, anomalous)) == pytest.approx(sum(same) / 3)
        assert float(snippet_loss(normal, anomalous, pairs="all")) == pytest.approx(sum(every) / 12)

    def test_video_loss_equals_a_slow_loop(self) -> None:
        logit, label = torch.randn(4, 2), torch.tensor([0, 0, 1, 1])
        values = [
            -math.log(p if label[row] else 1 - p)
            for row in range(4)
            for p in torch.sigmoid(logit[row]).tolist()
        ]  # fmt: skip
        assert float(video_loss(logit, label)) == pytest.approx(sum(values) / 8, rel=1e-5)
        assert video_loss(torch.tensor([[-200.0]]), torch.tensor([1])).isfinite()

    def test_penalty_equals_a_slow_loop(self) -> None:
        normal, anomalous = torch.rand(2, 5), torch.rand(3, 5)

        def changes(row: list[float]) -> float:
            return sum((after - before) ** 2 for before, after in itertools.pairwise(row))

        released = [8e-5 * (changes(row) + math.sqrt(sum(s * s for s in row))) for row in anomalous.tolist()]
        thesis = [5e-4 * (changes(row) + sum(row)) / 5 for row in [*normal.tolist(), *anomalous.tolist()]]
        assert float(temporal_penalty(normal, anomalous)) == pytest.approx(sum(released) / 3, rel=1e-5)
        assert float(temporal_penalty(normal, anomalous, kind="thesis")) == pytest.approx(sum(thesis) / 5, rel=1e-5)

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"pairs": "all", "regularizer": "thesis", "edge": "released"},
            {"contrastive": False},
            {"contrastive": False, "video_loss": False},
        ],
    )
    def test_the_whole_loss(self, options: dict[str, Any]) -> None:
        model = tiny(dropout=0.0, **options)
        videos = batch(3, 3, crops=2)
        loss = model.training_step(videos, 5)
        encoded = model.encode(videos["snippet_features"])
        score = model.snippet_head(encoded.embedding).mean(1)
        best = score.sort(1, descending=True).values[:, :3].mean(1)
        expected = snippet_loss(best[:3], best[3:], pairs=options.get("pairs", "same"))
        expected = expected + temporal_penalty(score[:3], score[3:], kind=options.get("regularizer", "released"))
        if options.get("video_loss", True):
            expected = expected + video_loss(encoded.video_logit, videos["label"])
        if options.get("contrastive", True):
            z = mining_mask(score, generator=model.step_generator(5))
            mined = mine(score[:3], score[3:], z[:3], z[3:], edge=options.get("edge", "width3"))
            embedding = encoded.embedding.mean(1)
            expected = expected + 0.25 * sum(contrast(embedding[:3], embedding[3:], mined))
        assert float(loss) == pytest.approx(float(expected), rel=1e-5)

    def test_repeated_crops_change_nothing(self) -> None:
        videos = batch(2, 2)
        twice = {**videos, "snippet_features": videos["snippet_features"].repeat(1, 3, 1, 1)}
        model = tiny(dropout=0.0)
        assert float(model.training_step(twice, 0)) == pytest.approx(float(model.training_step(videos, 0)), rel=1e-4)

    def test_mining_draws_are_those_of_the_step(self) -> None:
        videos, model = batch(4, 4), tiny()
        first = model.training_step(videos, 0)
        torch.rand(100)
        assert torch.equal(model.training_step(videos, 0), first)
        assert not torch.equal(model.training_step(videos, 1), first)

    def test_constant_scores_give_a_finite_loss(self) -> None:
        model = tiny()
        torch.nn.init.zeros_(model.snippet_head.layers[-1].weight)
        loss = model.training_step(batch(3, 3), 0)
        loss.backward()
        assert loss.isfinite()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())

    def test_contrast_and_video_loss_leave_the_snippet_head_alone(self) -> None:
        model = tiny()
        videos = batch(3, 3)
        for kind in ("hard_anomalous", "hard_normal", "video"):
            model.zero_grad()
            encoded = model.encode(videos["snippet_features"])
            score = model.snippet_head(encoded.embedding).mean(1)
            if kind == "video":
                loss = video_loss(encoded.video_logit, videos["label"])
            else:
                z = mining_mask(score, generator=torch.Generator().manual_seed(0))
                mined = mine(score[:3], score[3:], z[:3], z[3:])
                assert mined.found.any()
                embedding = encoded.embedding.mean(1)
                loss = contrast(embedding[:3], embedding[3:], mined)[0 if kind == "hard_anomalous" else 1]
            # Zeros, because the graph of the scores hangs on the loss only here.
            (loss + 0 * score.sum()).backward()
            assert not any(parameter.grad.any() for parameter in model.snippet_head.parameters())
            assert model.embed.weight.grad.any()
            assert model.transformer.blocks[0].attention.projections[0].weight.grad.any()

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"tokens": "channel", "heads": 8, "kv_stride": 2},
            {"video_loss": False},
            {"video_loss": False, "contrastive": False},
            {"contrastive": False, "kernel": 1},
            {"encoder": "linear", "video_loss": False},
            {"encoder": "linear", "video_loss": False, "contrastive": False},
        ],
    )
    @pytest.mark.parametrize("counts", [(1, 1), (3, 2)])
    def test_every_weight_gets_a_gradient(self, options: dict[str, Any], counts: tuple[int, int]) -> None:
        model = tiny(**options)
        model.training_step(batch(*counts, snippets=40), 0).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name

    def test_bags_of_one_kind_are_refused(self) -> None:
        with pytest.raises(ShapeError, match="needs normal and anomalous videos"):
            tiny().training_step(batch(4, 0), 0)


class TestInference:
    @pytest.mark.parametrize("options", [{}, {"windows": False}, {"tokens": "channel", "heads": 8}])
    @pytest.mark.parametrize("snippets", [1, 31, 32, 33, 64, 65])
    def test_as_many_scores_as_snippets(self, options: dict[str, Any], snippets: int) -> None:
        score, snippet_score = tiny(**options).eval()(torch.rand(2, 3, snippets, 12))
        assert snippet_score.shape == (2, snippets)
        assert ((snippet_score > 0) & (snippet_score < 1)).all()
        assert torch.equal(score, snippet_score.amax(1))

    @torch.no_grad()
    def test_windows_by_hand(self) -> None:
        model = tiny().eval()
        features = torch.rand(1, 1, 70, 12)
        filled = torch.cat([features[:, :, 64:], features[:, :, 69:].expand(1, 1, 26, 12)], 2)
        windows = [features[:, :, :32], features[:, :, 32:64], filled]
        expected = torch.cat([model.snippet_head(model.encode(window).embedding).mean(1) for window in windows], 1)
        assert torch.allclose(model(features)[1], expected[:, :70], atol=1e-6)

    @torch.no_grad()
    def test_filling_up_changes_the_last_window_only(self) -> None:
        model = tiny().eval()
        features = torch.rand(1, 1, 96, 12)
        whole, short = model(features)[1], model(features[:, :, :70])[1]
        assert torch.allclose(whole[:, :64], short[:, :64], atol=1e-6)
        assert not torch.allclose(whole[:, 64:70], short[:, 64:], atol=1e-4)

    @torch.no_grad()
    def test_whole_video_at_once_by_hand(self) -> None:
        model = tiny(windows=False).eval()
        features = torch.rand(1, 1, 70, 12)
        expected = model.snippet_head(model.encode(features).embedding).mean(1)
        assert torch.allclose(model(features)[1], expected, atol=1e-6)
        model.windows = True
        assert not torch.allclose(model(features)[1], expected, atol=1e-4)

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"windows": False},
            {"windows": False, "kv_stride": 2, "kernel": 5},
            {"windows": False, "kernel": 1},
            {"windows": False, "use_video_prob": True},
            {"tokens": "channel", "heads": 8, "kv_stride": 2, "use_video_prob": True},
            {"encoder": "linear", "video_loss": False, "windows": False},
        ],
    )
    @pytest.mark.parametrize("filler", [0.0, 1e6, math.nan])
    @torch.no_grad()
    def test_padded_videos_score_as_each_alone(self, options: dict[str, Any], filler: float) -> None:
        model = tiny(**options).eval()
        length = torch.tensor([1, 33, 31, 70, 64, 2])
        features = torch.randn(6, 2, 70, 12)
        padding = torch.arange(70) >= length.unsqueeze(1)
        padded = features.masked_fill(padding[:, None, :, None], filler)
        score, snippet_score = model(padded, length)
        for row, count in enumerate(length.tolist()):
            alone, alone_snippets = model(features[row : row + 1, :, :count])
            assert torch.allclose(snippet_score[row, :count], alone_snippets[0], atol=1e-5)
            assert torch.allclose(score[row], alone[0], atol=1e-5)
        assert not snippet_score[padding].any()

    @pytest.mark.parametrize("windows", [True, False])
    @torch.no_grad()
    def test_crops_are_averaged(self, windows: bool) -> None:
        model = tiny(windows=windows).eval()
        features = torch.rand(2, 3, 40, 12)
        each = torch.stack([model(features[:, crop : crop + 1])[1] for crop in range(3)])
        assert torch.allclose(model(features)[1], each.mean(0), atol=1e-6)
        assert torch.allclose(model(features[:, [2, 0, 1]])[1], each.mean(0), atol=1e-6)

    @pytest.mark.parametrize("windows", [True, False])
    @torch.no_grad()
    def test_scores_times_the_probability_of_the_video(self, windows: bool) -> None:
        model = tiny(windows=windows).eval()
        features = torch.rand(1, 2, 64, 12)
        plain = model(features)[1]
        parts = (features[:, :, :32], features[:, :, 32:]) if windows else (features,)
        probability = torch.cat(
            [model.encode(part).video_logit.sigmoid().mean(1, keepdim=True).expand(1, part.shape[2]) for part in parts],
            1,
        )
        model.use_video_prob = True
        assert torch.allclose(model(features)[1], plain * probability, atol=1e-6)

    @torch.no_grad()
    def test_a_prediction_does_not_change_statistics(self) -> None:
        model = tiny().eval()
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        model.predict({**batch(1, 1), "length": torch.tensor([32, 9])})
        assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())

    def test_features_of_another_width(self) -> None:
        with pytest.raises(ShapeError, match="snippet features of width 12; got 13"):
            tiny().eval()(torch.rand(1, 1, 5, 13))


@pytest.mark.slow
def test_learns_when_events_happen(trainer_in: Callable[..., Trainer]) -> None:
    """The card's synthetic experiment: one seed in three may lock on whole videos instead of snippets."""
    areas: list[float] = []
    for seed in range(2):
        seed_everything(seed, verbose=False)
        data = SyntheticVideos(
            fresh=True, feature_dim=32, train_batch_size=16, validation="none", batches_per_epoch=200, eval_batch_size=80, seed=seed
        )  # fmt: skip
        model = CTMIL(feature_dim=32, embed_dim=32, heads=4, depth=2, hidden=(128, 32), windows=False)
        trainer_in().fit(model, datamodule=data)
        (videos,) = data.test_dataloader()
        with torch.no_grad():
            score = model.eval().predict(videos)["frame_score"]
        truth = videos["frame_label"]
        high, low = score[truth], score[~truth].sort().values
        ties = (torch.searchsorted(low, high) + torch.searchsorted(low, high, right=True)) / 2
        areas.append(float(ties.mean()) / len(low))
        if areas[-1] > 0.75:
            return
    pytest.fail(f"frame AUROC above 0.75 was expected on one of two seeds; got {areas}")
