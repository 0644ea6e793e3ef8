from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from anomaly_suite.errors import ConfigError, ShapeError
from anomaly_suite.methods import MemAE
from anomaly_suite.methods.reconstruction.memae import Memory, entropy, shrink

Make = Callable[..., Trainer]
TINY: dict[str, Any] = {"in_channels": 1, "image_size": 8, "widths": [4, 6], "items": 5, "lr": 1e-3}


def make(**options: Any) -> MemAE:
    seed_everything(0, verbose=False)
    return MemAE(**{**TINY, **options})


def memory(items: Tensor, *, shrinkage: float = 0.0, addressing: Any = "dot", temperature: float = 1.0) -> Memory:
    made = Memory(
        items=len(items), features=items.shape[1], shrinkage=shrinkage, addressing=addressing, temperature=temperature
    )
    made.items = nn.Parameter(items)
    return made


class TestShrinkage:
    def test_by_hand(self) -> None:
        found = shrink(torch.tensor([[0.5, 0.3, 0.2]]), 0.25)
        torch.testing.assert_close(found, torch.tensor([[0.625, 0.375, 0.0]]))

    def test_none_of_it_leaves_the_weights(self) -> None:
        weight = torch.randn(6, 5).softmax(1)
        torch.testing.assert_close(shrink(weight, 0.0), weight)

    def test_below_it_all_weights_are_0_and_gradients_finite(self) -> None:
        weight = torch.full((2, 4), 0.25, requires_grad=True)
        found = shrink(weight, 0.3)
        (found.sum() + entropy(found).sum()).backward()
        assert found.count_nonzero() == 0
        assert weight.grad is not None
        assert weight.grad.isfinite().all()

    def test_entropy_of_evenly_shared_weights(self) -> None:
        weight = torch.tensor([[0.25] * 4 + [0.0], [1.0, 0, 0, 0, 0]])
        torch.testing.assert_close(entropy(weight), torch.tensor([math.log(4), 0.0]))


class TestMemory:
    def test_a_long_query_reads_its_item(self) -> None:
        items = 2 * torch.eye(4, 6)
        read, weight = memory(items)(50 * items[2:3] / items[2].square().sum())
        torch.testing.assert_close(weight, torch.eye(4)[2:3])
        torch.testing.assert_close(read, items[2:3])
        assert entropy(weight).item() == pytest.approx(0, abs=1e-5)

    def test_rows_of_weights_sum_to_1_over_the_items(self) -> None:
        weight = memory(torch.randn(7, 3), shrinkage=1 / 7).address(torch.randn(11, 3))
        assert weight.shape == (11, 7)
        torch.testing.assert_close(weight.sum(1), torch.ones(11))

    def test_what_is_read_lies_among_the_items_and_does_not_depend_on_their_order(self) -> None:
        items, query = torch.randn(7, 3), 3 * torch.randn(11, 3)
        read, _ = memory(items, shrinkage=1 / 7)(query)
        assert (read <= items.amax(0) + 1e-6).all()
        assert (read >= items.amin(0) - 1e-6).all()
        torch.testing.assert_close(memory(items.flip(0), shrinkage=1 / 7)(query)[0], read)

    @pytest.mark.parametrize("addressing", ["dot", "cosine"])
    def test_against_a_loop(self, addressing: Any) -> None:
        items, query = torch.randn(4, 3), torch.randn(2, 3)
        read, _ = memory(items, shrinkage=0.2, addressing=addressing, temperature=0.5)(query)
        for row in range(2):
            scale = [float(query[row].norm() * item.norm()) if addressing == "cosine" else 1.0 for item in items]
            powers = [math.exp(float(query[row] @ item) / s / 0.5) for item, s in zip(items, scale, strict=True)]
            weights = [power / sum(powers) for power in powers]
            kept = [weight if weight > 0.2 else 0.0 for weight in weights]
            expected = sum(weight / sum(kept) * item for weight, item in zip(kept, items, strict=True))
            torch.testing.assert_close(read[row], expected)

    def test_gradients_reach_items_that_are_read_and_others_only_by_the_softmax(self) -> None:
        part = memory(torch.eye(3), shrinkage=0.3)
        read, weight = part(torch.tensor([[2.0, 1.9, -3.0]]))
        assert (weight > 0).tolist() == [[True, True, False]]
        read.pow(2).sum().backward()
        assert part.items.grad is not None
        assert part.items.grad[:2].abs().sum(1).min() > 1e-2
        part.items.grad = None
        read, weight = part(torch.tensor([[2.0, 1.9, -3.0]]))
        (weight.detach() @ part.items).pow(2).sum().backward()  # without the addressing
        assert not part.items.grad[2].any()

    def test_initial_items(self) -> None:
        items = make(items=100).memory.items.detach()
        bound = 1 / math.sqrt(items.shape[1])
        assert items.abs().max().item() == pytest.approx(bound, rel=0.01)


class TestNetworks:
    @pytest.mark.parametrize(
        ("options", "features", "items", "layers"),
        [
            ({"in_channels": 1}, 64 * 16, 100, [64, 32, 1]),
            ({}, 256 * 4, 500, [256, 128, 128, 3]),
            ({"in_channels": 1, "frames": 16}, 256, 2000, [256, 128, 96, 1]),
        ],
    )
    def test_defaults_of_the_card(self, options: Any, features: int, items: int, layers: list[int]) -> None:
        model = MemAE(**options)
        assert model.memory.items.shape == (items, features)
        assert model.memory.shrinkage == 1 / items
        kinds = (nn.ConvTranspose2d, nn.ConvTranspose3d)
        assert [part.out_channels for part in model.decoder if isinstance(part, kinds)] == layers
        assert isinstance(model.encoder[-1], nn.Conv2d | nn.Conv3d)
        assert isinstance(model.decoder[-1], kinds)
        assert model.encoder[0].weight.std().item() == pytest.approx(0.02, rel=0.2)

    @pytest.mark.parametrize("code", ["whole", "cells"])
    def test_clips_come_back_in_their_shape(self, code: Any) -> None:
        model = make(frames=4, widths=[4, 6, 6], in_channels=2, code=code).eval()
        clip = torch.rand(2, 8, 8, 8)
        made, weight = model.decode(clip)
        assert made.shape == clip.shape
        assert weight.shape == (2, 5)  # a clip has one cell left
        score, anomaly_map = model(clip)
        error = (2 * clip - 1 - model.decode(2 * clip - 1)[0]).view(2, 4, 2, 8, 8)
        torch.testing.assert_close(score, error.norm(dim=2).mean((1, 2, 3)))
        assert anomaly_map.shape == (2, 1, 8, 8)

    def test_cells_are_addressed_each_alone(self) -> None:
        model = make(code="cells").eval()
        with torch.no_grad():
            model.memory.items.mul_(100)  # or all cells would read nearly the same
        x = torch.rand(3, 1, 8, 8)
        _, weight = model.decode(x)
        assert weight.shape == (3 * 2 * 2, 5)
        code = model.encoder(x)
        cells = [model.memory(one[:, row, column][None])[1] for one in code for row in range(2) for column in range(2)]
        torch.testing.assert_close(weight, torch.cat(cells))
        assert weight.std(0).max() > 1e-3

    def test_one_item_makes_one_image_of_everything(self) -> None:
        model = make(items=1).eval()
        made, weight = model.decode(torch.rand(3, 1, 8, 8))
        torch.testing.assert_close(weight, torch.ones(3, 1))
        torch.testing.assert_close(made, made[:1].expand_as(made))

    def test_sizes_that_do_not_fit(self) -> None:
        with pytest.raises(ConfigError, match="image_size must be divisible by 4 for 2 levels"):
            make(image_size=10)
        with pytest.raises(ConfigError, match="frames must be divisible by 4 for 3 widths; got 6"):
            make(frames=6, widths=[4, 4, 4])
        with pytest.raises(ShapeError, match="built for images of shape"):
            make().decode(torch.rand(1, 1, 16, 16))


class TestScore:
    def test_score_and_map_by_hand(self) -> None:
        model, image = make(in_channels=3).eval(), torch.rand(2, 3, 8, 8)
        score, anomaly_map = model(image)
        squared = (2 * image - 1 - model.decode(2 * image - 1)[0]).square()
        torch.testing.assert_close(score, squared.mean((1, 2, 3)))
        torch.testing.assert_close(anomaly_map[:, 0], squared.mean(1))
        torch.testing.assert_close((2 * (image - model.reconstruct(image).image)).square().mean((1, 2, 3)), score)

    def test_loss_by_hand(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = make(entropy_weight=0.3, warmup_epochs=1)
        monkeypatch.setattr(model, "log_dict", lambda values: None)
        monkeypatch.setattr(model, "log", lambda *args, **named: None)
        image = torch.rand(4, 1, 8, 8)
        made, weight = model.decode(2 * image - 1, shrunk=False)
        torch.testing.assert_close(weight.sum(1), torch.ones(4))
        assert (weight > 0).all()
        expected = (2 * image - 1 - made).square().mean() - 0.3 * (weight * weight.log()).sum(1).mean()
        torch.testing.assert_close(model.training_step({"image": image}, 0), expected)


class TestTraining:
    def data(self) -> DataLoader[Any]:
        image = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        return DataLoader(TensorDataset(image, torch.zeros(8, dtype=torch.long)), batch_size=4)

    def test_a_dead_memory_is_said_once(self, trainer_in: Make) -> None:
        with pytest.warns(UserWarning, match=r"lets none of its 5 items live.*Lower it to 0.2, or give warmup") as said:
            trainer_in(max_epochs=2).fit(make(shrinkage=0.6), self.data())
        assert sum("items live" in str(each.message) for each in said) == 1

    def test_a_warm_up_without_shrinkage_keeps_it_alive(
        self, trainer_in: Make, recwarn: pytest.WarningsRecorder
    ) -> None:
        trainer = trainer_in(max_epochs=1)
        trainer.fit(make(shrinkage=0.6, warmup_epochs=1), self.data())
        assert not [each for each in recwarn if "items live" in str(each.message)]
        assert trainer.callback_metrics["train/alive"] == 1
        assert trainer.callback_metrics["train/items"] == 5
