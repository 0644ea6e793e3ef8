"""MemMC-MAE: what reaches what, the loss and the score by hand, masks that belong to the module, published sizes and weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from tiny_runs import fitted, make_trainer
from torch import Tensor

from anomaly_suite.errors import ConfigError, ShapeError, WeightsError
from anomaly_suite.losses import MSSSIM
from anomaly_suite.methods import MemMCMAE
from anomaly_suite.methods.reconstruction.memmc_mae import learning_rate, masked_error, pooled
from anomaly_suite.nn.encoders import standardize
from anomaly_suite.nn.patch_tokens import draw_visible, hidden, patchify

PLAIN: dict[str, Any] = {"memory_slots": 0, "cross_attention": False, "skips": False}


def tiny(**options: Any) -> MemMCMAE:
    return MemMCMAE(**{"size": "tiny", "image_size": 16, "patch_size": 4, "mask_seeds": 3, **options}).eval()


def count(part: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in part.parameters())


# Sizes -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "encoder", "decoder"),
    [
        ({}, 86_383_872, 84_802_304),
        ({"gate": "scalar"}, 86_383_872, 34_519_904),
        # A published one, 111,907,840, without class token and position tables.
        (PLAIN, 86_383_872 - 737_280, 111_907_840 - 768 - 197 * 768 - 197 * 512 - (86_383_872 - 737_280)),
        ({"size": "small"}, 21_958_272, 21_331_712),
    ],
)
def test_numbers_of_weights(options: dict[str, Any], encoder: int, decoder: int) -> None:
    with torch.device("meta"):
        model = MemMCMAE(**options)
    assert (count(model.encoder), count(model.decoder)) == (encoder, decoder)


def test_a_quarter_of_the_tokens_reaches_the_encoder_and_all_the_decoder() -> None:
    with torch.device("meta"):
        model = MemMCMAE(mask_seeds=2)
    shapes: list[tuple[int, ...]] = []
    for part in (model.encoder.blocks[0], model.encoder.blocks[-1], model.decoder.blocks[0], model.decoder.blocks[-1]):
        part.register_forward_hook(lambda _module, args, _out: shapes.append(tuple(args[0].shape)))
    visible = torch.zeros(3, 49, dtype=torch.long, device="meta")
    assert model.visible.shape == (2, 49)
    tokens = model.encoder.embed(torch.zeros(3, 3, 224, 224, device="meta"))
    assert model.predict_patches(tokens, visible).shape == (3, 196, 768)
    assert shapes == [(3, 49, 768)] * 2 + [(3, 196, 512)] * 2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"image_size": 18}, r"image_size must be a multiple of patch_size=4, at least two of them; got \(18, 18\)"),
        ({"image_size": 4}, r"image_size must be a multiple of patch_size=4, at least two of them; got \(4, 4\)"),
        ({"mask_ratio": 0.99}, "mask_ratio must leave some of the 16 patches visible and some hidden; got 0.99"),
        ({"mask_ratio": 0.01}, "mask_ratio must leave some of the 16 patches visible and some hidden; got 0.01"),
        ({"comparison": "ms_ssim_product", "score": "masked"}, "score=masked needs a comparison that has a value for"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        tiny(**options)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"built for images of shape \(C, H, W\) = \(3, 16, 16\); got \(3, 16, 20\)"):
        tiny()(torch.rand(1, 1, 16, 20))


# What reaches what -------------------------------------------------------------------------------------------------------


def predict(model: MemMCMAE, image: Tensor, visible: Tensor) -> Tensor:
    return model.predict_patches(model.encoder.embed(model.standardized(image)), visible)


@torch.no_grad()
def test_hidden_pixels_reach_no_prediction() -> None:
    model, image = tiny(), torch.rand(2, 3, 16, 16)
    visible = draw_visible(2, 16, 4, generator=torch.Generator().manual_seed(0))
    is_hidden = hidden(visible, 16).view(2, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3).bool()
    before = predict(model, image, visible)
    assert torch.equal(predict(model, torch.where(is_hidden, torch.rand_like(image), image), visible), before)
    changed = image.clone()
    row, column = divmod(int(visible[0, 2]), 4)
    changed[0, 0, 4 * row, 4 * column] += 0.5  # one visible pixel of the first image
    after = predict(model, changed, visible)
    assert (after[0] != before[0]).flatten(1).any(1).all()  # every patch
    assert torch.equal(after[1], before[1])


def test_every_part_learns_and_positions_do_not() -> None:
    model, image = tiny(), torch.rand(4, 3, 16, 16)
    visible = draw_visible(4, 16, 4, generator=torch.Generator().manual_seed(0))
    target = patchify(model.standardized(image), 4)
    masked_error(predict(model, image, visible), target, hidden(visible, 16)).backward()  # type: ignore[no-untyped-call]
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    assert [name for name, value in gradients.items() if value is None or not value.any()] == []
    assert len([name for name in gradients if ".memory_" in name]) == 2 * 4
    gates = [value for name, value in gradients.items() if name.endswith("gate_weight") and value is not None]
    assert [tuple(gate.flatten(1).any(1).tolist()) for gate in gates] == [(True,) * 4] * 2  # each level of both blocks
    assert not model.encoder.positions.requires_grad
    assert not [name for name in gradients if "positions" in name]


def test_an_option_changes_what_it_says() -> None:
    """Each with the same weights, as far as they are there."""
    base, image = tiny(), torch.rand(2, 3, 16, 16)
    for option, value in {
        "skips": False, "scale_levels": False, "cross_residual": False, "attention": "cosine", "cross_attention": False,
        "memory_slots": 0, "gate": "scalar",
    }.items():  # fmt: skip
        other = tiny(**{option: value})
        own = other.state_dict()
        state = {
            name: value for name, value in base.state_dict().items() if name in own and value.shape == own[name].shape
        }
        other.load_state_dict({**own, **state})
        with torch.no_grad():
            assert not torch.allclose(other.fill(image), base.fill(image), atol=1e-4), option


# Training ----------------------------------------------------------------------------------------------------------------


def test_the_loss_is_that_of_hidden_patches() -> None:
    target = torch.randn(2, 8, 5)
    is_hidden = hidden(torch.tensor([[0, 1, 2], [5, 6, 7]]), 8)
    prediction = (target + 0.3).requires_grad_()
    loss = masked_error(prediction, target, is_hidden)
    assert loss.item() == pytest.approx(0.09)
    loss.backward()  # type: ignore[no-untyped-call]
    assert prediction.grad is not None
    assert torch.equal(prediction.grad.abs().sum(2) > 0, is_hidden.bool())
    torch.testing.assert_close(prediction.grad[0, 4], torch.full((5,), 2 * 0.3 / 5 / 10))


def test_eight_images_are_learned_by_heart() -> None:
    model = tiny(image_size=8, weight_decay=0.0, lr=3e-3).train()
    x = model.standardized(torch.rand(8, 3, 2, 2).repeat_interleave(4, 2).repeat_interleave(4, 3))
    visible, target = draw_visible(8, 4, 1, generator=torch.Generator().manual_seed(0)), patchify(x, 4)
    optimizer = model.configure_optimizers()
    for _ in range(90):
        loss = masked_error(model.predict_patches(model.encoder.embed(x), visible), target, hidden(visible, 4))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert loss.item() < 0.1 * x.var().item()


def test_learning_rate() -> None:
    # 20 epochs, of which 5 warm up.
    assert [learning_rate(epoch, epoch / 20, warmup=5) for epoch in (0.0, 2.5, 5.0)] == [0.0, 0.5, 1.0]
    assert learning_rate(12.5, 12.5 / 20, warmup=5) == pytest.approx(0.5)
    assert learning_rate(20.0, 1.0, warmup=5) == pytest.approx(0.0)
    assert learning_rate(10.0, 0.5, warmup=0) == pytest.approx(0.5)
    assert learning_rate(0.0, 0.0, warmup=0) == 1.0
    assert learning_rate(7.0, 0.0, warmup=5) == 1.0  # a run without an end
    assert learning_rate(5.0, 1.0, warmup=5) == 0.0


@pytest.mark.parametrize("decay_memory", [False, True])
def test_what_decays(decay_memory: bool) -> None:
    model = tiny(decay_memory=decay_memory)
    decayed, kept = model.configure_optimizers().param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.05, 0.0)
    names = {id(weight): name for name, weight in model.named_parameters()}
    spared = {names[id(weight)] for weight in kept["params"]}
    assert {names[id(weight)] for weight in decayed["params"]} | spared == set(names.values())
    expected = {
        name for name in names.values() if name.endswith(("bias", "norm1.weight", "norm2.weight", "norm.weight"))
    }
    memory = {name for name in names.values() if ".memory_" in name}
    assert spared == expected | (set() if decay_memory else memory)


def test_adam_is_what_the_text_says() -> None:
    assert type(tiny(optimizer="adam").configure_optimizers()) is torch.optim.Adam
    assert type(tiny().configure_optimizers()) is torch.optim.AdamW


# The score ---------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_score_and_map_by_hand() -> None:
    model, image = tiny(score="literal"), torch.rand(2, 1, 16, 16)
    filled = model.fill(image)
    assert filled.shape == (2, 3, 3, 16, 16)
    similarity = MSSSIM(scales=3, window_size=3)
    maps = [similarity.with_map(image.expand(-1, 3, -1, -1), filled[:, k], want_map=True)[1] for k in range(3)]
    expected = torch.stack([part.mean(1, keepdim=True) for part in maps if part is not None]).mean(0)
    score, error = model(image)
    torch.testing.assert_close(error, expected)
    torch.testing.assert_close(score, expected.mean((1, 2, 3)))
    product = tiny(score="literal", comparison="ms_ssim_product")
    product.load_state_dict(model.state_dict())
    values = torch.stack([1 - similarity(image.expand(-1, 3, -1, -1), filled[:, k]) for k in range(3)])
    torch.testing.assert_close(product(image)[0], values.mean(0))
    torch.testing.assert_close(product(image)[1], expected)


@torch.no_grad()
@pytest.mark.parametrize("score", ["pasted", "masked"])
def test_visible_patches_count_as_they_are(score: str) -> None:
    model, image = tiny(comparison="mse", score=score), torch.rand(2, 3, 16, 16)
    squared = (model.fill(image) - image.unsqueeze(1)).square().mean(2)
    is_hidden = model.hidden_pixels()
    assert is_hidden.shape == (3, 16, 16)
    assert torch.equal(is_hidden[:, ::4, ::4].flatten(1), hidden(model.visible, 16))
    total, times = (squared * is_hidden).sum(1), is_hidden.sum(0)
    if score == "pasted":
        expected = total / 3
    else:
        expected = total / times.clamp_min(1)
        known = expected[:, times > 0].mean(1)
        expected = torch.where(times > 0, expected, known.view(2, 1, 1))
    found, error = model(image)
    torch.testing.assert_close(error.squeeze(1), expected)
    torch.testing.assert_close(found, expected.mean((1, 2)))
    in_patches = tiny(comparison="mse", score=score, map_unit="patch")
    in_patches.load_state_dict(model.state_dict())
    by_patch = in_patches(image)
    torch.testing.assert_close(by_patch[0], found)
    assert torch.equal(by_patch[1][:, :, ::4, ::4], by_patch[1][:, :, 3::4, 3::4])
    torch.testing.assert_close(by_patch[1][0, 0, 4, 8], expected[0, 4:8, 8:12].mean())


def test_pixels_that_no_mask_hides_get_the_mean_of_the_others() -> None:
    error = torch.tensor([[[[1.0, 5.0, 9.0]], [[3.0, 7.0, 9.0]]]])  # 1 image, 2 masks, 1 x 3 pixels
    is_hidden = torch.tensor([[[1.0, 0.0, 0.0]], [[1.0, 1.0, 0.0]]])
    assert pooled(error, is_hidden).flatten().tolist() == [2.0, 7.0, 4.5]
    assert pooled(error, None).flatten().tolist() == [2.0, 6.0, 9.0]


@torch.no_grad()
@pytest.mark.parametrize("space", ["unit", "standardized"])
def test_an_image_that_is_filled_in_perfectly_has_no_error(space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, image = tiny(score="literal", pixel_space=space), torch.rand(2, 3, 16, 16)
    monkeypatch.setattr(model, "fill", lambda x: x.unsqueeze(1).expand(-1, 3, -1, -1, -1))
    score, error = model(image)
    assert score.abs().max() < 1e-6
    monkeypatch.setattr(model, "fill", lambda x: (1 - x).unsqueeze(1).expand(-1, 3, -1, -1, -1))
    inverted, error = model(image)
    assert (inverted > 0.3).all()
    assert 0 <= error.min() <= error.max() <= 1 + 1e-6
    if space == "standardized":
        similarity = MSSSIM(scales=3, window_size=3, value_range=4.7579)
        expected = similarity.with_map(standardize(image), standardize(1 - image), want_map=True)[1]
        assert expected is not None
        torch.testing.assert_close(error, expected.mean(1, keepdim=True))


@torch.no_grad()
def test_masks_belong_to_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    model, image = tiny(), torch.rand(5, 3, 16, 16)
    torch.manual_seed(5)
    again = tiny()
    again.load_state_dict(model.state_dict())
    score, error = model(image)
    assert torch.equal(again(image)[0], score)
    assert torch.equal(tiny(mask_seeds=1).visible, model.visible[:1])  # a seed is a mask
    order = torch.tensor([3, 0, 4, 2, 1])
    # Other batches take other matrix kernels, which round otherwise.
    torch.testing.assert_close(model(image[order])[0], score[order], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.cat([model(part)[1] for part in image.split(2)]), error, rtol=1e-5, atol=1e-6)
    monkeypatch.setattr("anomaly_suite.methods.reconstruction.memmc_mae.SEQUENCES_AT_ONCE", 4)
    torch.testing.assert_close(model(image)[0], score, rtol=1e-5, atol=1e-6)


@pytest.mark.xdist_group("MemMCMAE")
@torch.no_grad()
def test_pooling_masks_steadies_scores() -> None:
    """The score of one mask scatters; the mean of ten scatters about a third as much."""
    model = fitted("MemMCMAE").model
    many = tiny(mask_seeds=40, comparison="mse", score="masked")
    many.load_state_dict(model.state_dict())
    image = torch.rand(4, 1, 16, 16)
    error = (many.fill(image) - image.unsqueeze(1)).square().mean(2) * many.hidden_pixels()
    single = error.sum((2, 3)) / many.hidden_pixels().sum((1, 2))  # 4 images, 40 masks
    tens = single.unflatten(1, (4, 10)).mean(2)
    assert tens.std(1).mean() < 0.6 * single.std(1).mean()


# Weights -----------------------------------------------------------------------------------------------------------------


def published(**changes: Tensor) -> dict[str, Tensor]:
    """A file in the published layout, of the tiny size: timm's ViT with the table of a class token, and a decoder."""
    vit = timm.models.VisionTransformer(
        img_size=16, patch_size=4, embed_dim=64, depth=4, num_heads=4, num_classes=0, global_pool="token"
    )
    own = tiny(**PLAIN)
    state = {**vit.state_dict(), "pos_embed": torch.cat([torch.zeros(1, 64), own.encoder.positions]).unsqueeze(0)}
    decoder = {f"decoder_{name}": torch.randn_like(value) for name, value in own.decoder.state_dict().items()}
    decoder["mask_token"] = decoder.pop("decoder_mask_token")
    return {**state, **decoder, "decoder_pos_embed": torch.zeros(1, 17, 48), **changes}


def test_published_weights_are_loaded(tmp_path: Path) -> None:
    tensors = published()
    torch.save({"model": tensors}, tmp_path / "mae.pth")
    model = tiny(weights=str(tmp_path / "mae.pth"))
    memory = model.encoder.blocks[0].attn.memory_key.clone()  # type: ignore[union-attr, operator]
    model.load_pretrained()
    state = model.state_dict()
    for name in ("patch_embed.proj.weight", "blocks.3.attn.qkv.weight", "blocks.0.mlp.fc2.bias", "norm.weight"):
        assert torch.equal(state[f"encoder.{name}"], tensors[name]), name
    for name in ("embed.weight", "blocks.1.attn.proj.weight", "norm.bias", "pred.weight"):
        assert torch.equal(state[f"decoder.{name}"], tensors[f"decoder_{name}"]), name
    assert torch.equal(state["decoder.mask_token"], tensors["mask_token"])
    assert torch.equal(state["encoder.blocks.0.attn.memory_key"], memory)


@torch.no_grad()
def test_the_encoder_is_timms(tmp_path: Path) -> None:
    """With all patches visible and neither memory nor class token, a ViT of timm."""
    vit = timm.models.VisionTransformer(
        img_size=16, patch_size=4, embed_dim=64, depth=4, num_heads=4, num_classes=0, class_token=False, global_pool=""
    ).eval()
    vit.pos_embed.copy_(tiny().encoder.positions)
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    model = tiny(weights=str(tmp_path / "vit.pth"), **PLAIN)
    model.load_pretrained()
    image = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(model.encoder(model.encoder.embed(image))[-1], vit(image), rtol=1e-4, atol=1e-5)


def test_a_run_of_this_method_is_a_start(tmp_path: Path) -> None:
    first = tiny()
    trainer = make_trainer()
    trainer.strategy.connect(first)
    trainer.save_checkpoint(tmp_path / "first.ckpt")
    second = tiny(weights=str(tmp_path / "first.ckpt"))
    second.load_pretrained()
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


@pytest.mark.parametrize(
    ("change", "options", "sentence"),
    [
        ({}, {"patch_size": 8}, r"patch_embed.proj.weight is \(64, 3, 4, 4\) in it and \(64, 3, 8, 8\) in the network"),
        ({"norm.bias": torch.zeros(3)}, {}, r"norm.bias is \(3,\) in it and \(64,\) in the network"),
        ({"decoder_pred.bias": torch.zeros(3)}, {}, r"pred.bias is \(3,\) in it and \(48,\) in the network"),
        (
            {"pos_embed": torch.rand(1, 17, 64)},
            {},
            r"its positions \(pos_embed\) were trained, and those here are fixed",
        ),
    ],
)
def test_weights_that_do_not_fit(
    change: dict[str, Tensor], options: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    torch.save(published(**change), tmp_path / "mae.pth")
    model = tiny(weights=str(tmp_path / "mae.pth"), **options)
    with pytest.raises(WeightsError, match=rf"^weights must be those of a masked autoencoder .* but {sentence}"):
        model.load_pretrained()


def test_weights_without_an_encoder(tmp_path: Path) -> None:
    torch.save({"something": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"no tensor in it is named patch_embed\.proj\.weight \(64, 3, 4, 4\)"):
        tiny(weights=str(tmp_path / "other.pth")).load_pretrained()
    with pytest.raises(WeightsError, match="an existing file or the folder of a run; got 'nowhere"):
        tiny(weights="nowhere.pth").load_pretrained()


def test_a_quarter_is_rounded() -> None:
    assert tiny(mask_ratio=0.7).num_visible == 5
    assert math.isclose(tiny().num_visible / 16, 0.25)
