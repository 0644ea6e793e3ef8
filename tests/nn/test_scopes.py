"""Scopes: which parts there are, what they train on, and how they score."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from anomaly_suite.errors import ShapeError
from anomaly_suite.nn.encoders import ImageEncoder
from anomaly_suite.nn.patches import PatchGrid
from anomaly_suite.nn.scopes import ATTRIBUTES, Scope, ScopeOptions, Scopes, mix_scores

WHOLE = ScopeOptions("global", 16, "residual", None)
PATCH = ScopeOptions("local", 8, "residual", None)


class Scaled(nn.Module):
    """The score of an image is its largest value, scaled; its map the first channel."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.factor * image.amax((1, 2, 3)), self.factor * image[:, :1]


def make(scope: Scope, *, per_step: int | None = 5) -> Scopes[Scaled]:
    return Scopes(
        lambda it: Scaled(2.0 if it.name == "global" else 3.0),
        scope=scope,
        whole=WHOLE,
        patch=PATCH,
        patches=PatchGrid(size=8, stride=4),
        per_step=per_step,
    )


NAMES: dict[Scope, list[str]] = {"global": ["global"], "local": ["local"], "both": ["global", "local"]}


class TestParts:
    @pytest.mark.parametrize("scope", NAMES)
    def test_each_scope_has_the_part_built_of_its_options_global_first(self, scope: Scope) -> None:
        asked: list[ScopeOptions] = []
        scopes = Scopes(
            lambda it: asked.append(it) or nn.Linear(1, 1),  # type: ignore[func-returns-value]
            scope=scope, whole=WHOLE, patch=PATCH, patches=PatchGrid(size=8, stride=4), per_step=None,
        )  # fmt: skip
        assert asked == [{"global": WHOLE, "local": PATCH}[name] for name in NAMES[scope]]
        assert [name for name, _ in scopes.named_parts()] == list(scopes) == NAMES[scope]
        assert scopes.parts() == [scopes[name] for name in NAMES[scope]]
        assert set(scopes.state_dict()) == {
            f"{ATTRIBUTES[name]}.{key}" for name in NAMES[scope] for key in ("weight", "bias")
        }

    def test_a_copy_has_parts_of_its_own(self) -> None:
        scopes = make("both")
        other = copy.deepcopy(scopes)
        nn.init.zeros_(other.parts()[1].factor)
        assert [part.factor.item() for part in scopes.parts()] == [2, 3]
        assert [part.factor.item() for part in other.parts()] == [2, 0]

    @pytest.mark.parametrize(
        ("weights", "freeze", "frozen"),
        [(None, None, False), ("imagenet", None, True), (None, True, True), ("imagenet", False, False)],
    )
    def test_an_encoder_with_weights_is_frozen_unless_said_otherwise(
        self, weights: str | None, freeze: bool | None, frozen: bool
    ) -> None:
        options = ScopeOptions("local", 8, "residual", weights)
        net = options.autoencoder(latent_dim=3, width=2, freeze_encoder=freeze)
        assert net.encoder.frozen is frozen
        latent, reconstruction = net(torch.rand(2, 1, 8, 8))
        assert latent.shape == (2, 3)
        assert reconstruction.shape == (2, 3, 8, 8)

    def test_each_encoder_gets_the_weights_of_its_scope(self, tmp_path: Path) -> None:
        values = {"global": 0.25, "local": 0.5}
        for name, value in values.items():
            encoder = ImageEncoder("residual", image_size=8, width=2)
            for weight in encoder.parameters():
                nn.init.constant_(weight, value)
            torch.save({f"encoder.{key}": tensor for key, tensor in encoder.state_dict().items()}, tmp_path / name)

        class Holder(nn.Module):
            """An encoder below the part, and something else that stays."""

            def __init__(self) -> None:
                super().__init__()
                self.net = nn.ModuleDict({"encoder": ImageEncoder("residual", image_size=8, width=2)})
                self.head = nn.Linear(1, 1)

        scopes = Scopes(
            lambda it: Holder(),
            scope="both",
            whole=ScopeOptions("global", 8, "residual", str(tmp_path / "global")),
            patch=ScopeOptions("local", 8, "residual", str(tmp_path / "local")),
            patches=PatchGrid(size=8, stride=4),
            per_step=None,
        )
        heads = [part.head.weight.clone() for part in scopes.parts()]
        scopes.load_encoder_weights()
        for (name, part), head in zip(scopes.named_parts(), heads, strict=True):
            assert all((weight == values[name]).all() for weight in part.net.parameters())
            assert torch.equal(part.head.weight, head)


class TestTrainingInputs:
    def inputs(self, scopes: Scopes[Scaled], image: Tensor, *, seed: int = 0) -> list[tuple[str, Any, Tensor]]:
        return list(scopes.training_inputs(image, generator=torch.Generator().manual_seed(seed)))

    @pytest.mark.parametrize("scope", ["global", "local"])
    def test_one_scope_logs_without_its_name(self, scope: Scope) -> None:
        scopes, image = make(scope), torch.rand(2, 1, 16, 16)
        ((prefix, part, seen),) = self.inputs(scopes, image)
        assert prefix == "train/"
        assert part is scopes[scope]
        assert seen.shape == ((2, 1, 16, 16) if scope == "global" else (5, 1, 8, 8))

    def test_both_have_images_and_patches_of_them(self) -> None:
        scopes, image = make("both"), torch.rand(2, 1, 16, 16)
        whole, local = self.inputs(scopes, image)
        assert whole[:2] == ("train/global_", scopes["global"])
        assert whole[2] is image
        assert local[:2] == ("train/local_", scopes["local"])
        generator = torch.Generator().manual_seed(0)
        assert torch.equal(local[2], scopes.patches.sample(image, 5, generator=generator))
        assert len(self.inputs(make("both", per_step=None), image)[1][2]) == 2 * 9

    def test_patches_are_drawn_when_the_loop_reaches_them(self) -> None:
        scopes, image = make("both"), torch.rand(2, 1, 16, 16)
        generator, expected = (torch.Generator().manual_seed(0) for _ in range(2))
        drawn = []
        for _, _, seen in scopes.training_inputs(image, generator=generator):
            drawn.append((seen, torch.rand(3, generator=generator)))
        assert torch.equal(drawn[0][1], torch.rand(3, generator=expected))
        assert torch.equal(drawn[1][0], scopes.patches.sample(image, 5, generator=expected))
        assert torch.equal(drawn[1][1], torch.rand(3, generator=expected))

    def test_an_image_smaller_than_a_patch(self) -> None:
        with pytest.raises(ShapeError, match="at least as large as a patch of 8 pixels"):
            self.inputs(make("local"), torch.rand(1, 1, 4, 4))


class TestScore:
    @pytest.mark.parametrize("scope", NAMES)
    def test_whole_images_and_the_worst_patch(self, scope: Scope) -> None:
        image = torch.rand(2, 3, 16, 12)
        scores, maps = make(scope).score(image, lambda part, x: part(x))
        assert scores.shape == (len(NAMES[scope]), 2)
        assert maps.shape == (len(NAMES[scope]), 2, 1, 16, 12)
        for row, name in enumerate(NAMES[scope]):
            factor = 2 if name == "global" else 3
            torch.testing.assert_close(scores[row], factor * image.amax((1, 2, 3)))
            torch.testing.assert_close(maps[row], factor * image[:, :1])  # all patches agree where they overlap

    def test_a_local_score_is_that_of_one_patch(self) -> None:
        image = torch.zeros(1, 1, 16, 16)
        image[..., :8, :8] = torch.rand(8, 8)
        seen: list[int] = []

        def mean(part: Scaled, x: Tensor) -> tuple[Tensor, Tensor]:
            seen.append(len(x))
            return x.mean((1, 2, 3)), x

        scores, _ = make("local").score(image, mean)
        assert seen == [9]
        torch.testing.assert_close(scores, image[..., :8, :8].mean().view(1, 1))

    def test_pieces_are_images_or_a_bounded_number_of_patches(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("anomaly_suite.nn.scopes.PATCHES_AT_ONCE", 7)
        scopes, image = make("both"), torch.rand(2, 1, 16, 16)
        (whole,) = scopes.pieces("global", image)
        assert whole is image
        pieces = scopes.pieces("local", image)
        assert [len(piece) for piece in pieces] == [7, 7, 4]
        assert torch.equal(torch.cat(pieces), scopes.patches.cut(image))

    def test_mixing(self) -> None:
        scores = torch.tensor([[1.0, 2.0], [5.0, 7.0]])
        assert mix_scores(scores, share=0.25).tolist() == [4.0, 5.75]
        assert mix_scores(scores, share=1.0).tolist() == [1.0, 2.0]
        assert mix_scores(scores[1:], share=0.25).tolist() == [5.0, 7.0]  # one scope has all of the weight
