from __future__ import annotations

from typing import Any

import pytest
import torch

from anomaly_suite.contract import Batch, Splits
from anomaly_suite.data import SyntheticTextures, SyntheticVideos
from anomaly_suite.data.synthetic import Weave, plant_defects
from anomaly_suite.errors import ConfigError


def build(**options: Any) -> Splits:
    data = SyntheticTextures(**options)
    data.setup()
    assert data.splits is not None
    return data.splits


def everything(part: Any) -> Batch:
    batch: Batch = part.__getitems__(list(range(len(part))))
    return batch


def test_sizes_labels_and_masks() -> None:
    train, val, test = build(train_size=100, test_size=31, val_anomalies=7, image_size=48)
    assert [len(part) for part in (train, val, test)] == [90, 17, 31]
    assert everything(val)["label"].tolist() == [0] * 10 + [1] * 7
    batch = everything(test)
    assert batch["label"].tolist() == [0] * 16 + [1] * 15
    assert torch.equal(batch["mask"].flatten(1).any(1), batch["label"].bool())
    assert batch["image"].shape == (31, 3, 48, 48)
    assert set(everything(train)) == {"image", "label", "image_path"}
    paths = [path for part in (train, val, test) for path in everything(part)["image_path"]]
    assert len(set(paths)) == len(paths)


@pytest.mark.parametrize(("validation", "labels"), [("augmented", [0, 0, 1, 1]), ("holdout", [0, 0, 1])])
def test_validation(validation: str, labels: list[int]) -> None:
    val = build(validation=validation, val_size=2, val_anomalies=1, image_size=16).val
    assert everything(val)["label"].tolist() == labels
    assert build(validation="none").val is None


def test_the_seed_repeats_and_changes_everything() -> None:
    first, again, other = (everything(build(seed=seed).test)["image"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_defects_change_their_mask_only() -> None:
    generator = torch.Generator().manual_seed(0)
    weave = Weave.draw(generator, 3)
    clean = weave.render(6 * torch.rand(40, 2, generator=generator), 32)
    assert clean.min() >= 0
    assert clean.max() <= 1
    broken, mask = plant_defects(clean, weave, strength=1.0, generator=generator)
    assert mask.flatten(1).any(1).all()
    assert torch.equal(torch.where(mask, 0.0, broken), torch.where(mask, 0.0, clean))
    inside = ((broken - clean).abs() * mask).sum((1, 2, 3)) / (3 * mask.sum((1, 2, 3)))
    assert inside.min() > 0.05


def contrast(difficulty: float) -> float:
    """Mean distance of defect pixels to their image's mean, over that of its other pixels."""
    batch = everything(build(difficulty=difficulty, test_size=64).test)
    image, mask = batch["image"][32:], batch["mask"][32:].expand(-1, 3, -1, -1)
    distance = (image - image.mean((2, 3), keepdim=True)).abs()
    return float(distance[mask].mean() / distance[~mask].mean())


def test_difficulty_lowers_the_contrast() -> None:
    assert contrast(0.0) > contrast(0.5) > contrast(0.9) > 0.8
    assert contrast(0.0) > 1.5


def test_grey() -> None:
    assert everything(build(channels=1, image_size=16).train)["image"].shape[1:] == (1, 16, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_size": 0}, "train_size must be at least 1; got 0"),
        ({"test_size": 1}, "test_size must be at least 2; got 1"),
        ({"val_anomalies": -1}, "val_anomalies must be at least 0; got -1"),
        ({"image_size": 15}, "image_size must be at least 16; got 15"),
        ({"difficulty": 1.0}, r"difficulty must be in \[0, 1\); got 1.0"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SyntheticTextures(**options)


def build_videos(**options: Any) -> Splits:
    data = SyntheticVideos(**options)
    data.setup()
    assert data.splits is not None
    return data.splits


def bags(epoch: int = 0, **options: Any) -> list[Batch]:
    loader = SyntheticVideos(**options).train_dataloader()
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined] # what the trainer does
    return list(loader)


class TestVideos:
    def test_sizes_labels_and_names(self) -> None:
        train, val, test = build_videos(train_size=10, test_size=4, val_size=0.2, feature_dim=6, crops=3, segments=8)
        assert [len(part) for part in (train, val, test)] == [16, 4, 8]
        batch = everything(train)
        assert batch["snippet_features"].shape == (16, 3, 8, 6)
        assert batch["label"].tolist() == [0] * 8 + [1] * 8
        assert "frame_label" not in batch
        batch = everything(test)
        assert batch["label"].tolist() == [0] * 4 + [1] * 4
        assert ((batch["length"] >= 32) & (batch["length"] <= 64)).all()
        assert len(set(batch["length"].tolist())) > 1
        names = [name for part in (train, val, test) for name in everything(part)["image_path"]]
        assert len(set(names)) == 28

    def test_truth_is_one_event_of_3_to_6_snippets_with_ragged_ends(self) -> None:
        test = build_videos(test_size=40, feature_dim=4).test
        batch = everything(test)
        assert ((16 * batch["length"] - batch["frame_count"]) < 16).all()
        assert (16 * batch["length"] > batch["frame_count"]).any()
        truths = batch["frame_label"].split(batch["frame_count"].tolist())
        lengths = set()
        for truth, label, count in zip(truths, batch["label"].tolist(), batch["frame_count"].tolist(), strict=True):
            if not label:
                assert not truth.any()
                continue
            edges = torch.diff(truth.int(), prepend=torch.zeros(1), append=torch.zeros(1)).nonzero().flatten().tolist()
            start, stop = edges  # one event
            assert start % 16 == 0
            assert stop % 16 == 0 or stop == count
            lengths.add(-(-(stop - start) // 16))
        assert lengths == {3, 4, 5, 6}

    def test_snippets_without_event_are_noise_cut_at_zero(self) -> None:
        batch = everything(build_videos(test_size=200, feature_dim=32, scene=0.0).test)
        quiet = ~torch.cat([truth[::16] for truth in batch["frame_label"].split(batch["frame_count"].tolist())])
        rows = zip(batch["snippet_features"], batch["length"].tolist(), strict=True)
        features = torch.cat([row[0, :count] for row, count in rows])[quiet]
        # relu of 0.5 times a standard normal number: mean 0.5 / sqrt(2 pi), mean square 0.125
        assert float(features.mean()) == pytest.approx(0.5 / (2 * torch.pi) ** 0.5, rel=0.01)
        assert float(features.square().mean()) == pytest.approx(0.125, rel=0.01)

    def test_events_add_one_of_three_unit_vectors(self) -> None:
        strong, weak = (
            everything(build_videos(test_size=12, crops=200, feature_dim=8, difficulty=difficulty).test)
            for difficulty in (0.8, 0.9)
        )
        added = (strong["snippet_features"] - weak["snippet_features"])[12:].flatten(1, 2)  # the noise is the same
        largest = added.gather(1, added.abs().argmax(1, keepdim=True)).squeeze(1)  # where ReLU cuts neither
        torch.testing.assert_close(largest.norm(dim=1), torch.full((12,), 0.3), atol=1e-4, rtol=0)
        assert len({tuple(row) for row in largest.mul(100).round().tolist()}) == 3
        for batch in (strong, weak):
            assert not (batch["snippet_features"][:12] < 0).any()
        assert torch.equal(strong["snippet_features"][:12], weak["snippet_features"][:12])

    def test_scenes_make_videos_differ(self) -> None:
        def spread(scene: float) -> float:
            batch = everything(build_videos(test_size=40, scene=scene).test)
            means = [
                row[0, :count].mean(0) for row, count in zip(batch["snippet_features"], batch["length"], strict=True)
            ]
            return float(torch.stack(means[:40]).std(0).mean())

        assert spread(0.0) < 0.1 < spread(0.6)

    def test_difficulty_weakens_events(self) -> None:
        def height(difficulty: float) -> float:
            batch = everything(build_videos(test_size=40, difficulty=difficulty).test)
            return float(batch["snippet_features"][40:].square().sum(3).amax(2).mean())

        assert height(0.0) > height(0.5) > height(0.9)

    def test_the_seed_decides_everything(self) -> None:
        first, again, other = (everything(build_videos(seed=seed).test)["snippet_features"] for seed in (0, 0, 1))
        assert torch.equal(first, again)
        assert not torch.equal(first[:, :, :32], other[:, :, :32])

    def test_fixed_bags_come_again_and_fresh_ones_never(self) -> None:
        options = {"train_size": 6, "train_batch_size": 3, "feature_dim": 4, "validation": "none"}
        fixed = {name for epoch in range(3) for batch in bags(epoch, **options) for name in batch["image_path"]}
        assert len(fixed) == 12
        options |= {"fresh": True, "batches_per_epoch": 4}
        batches = [batch for epoch in range(3) for batch in bags(epoch, **options)]
        assert len(batches) == 12
        assert all(batch["label"].tolist() == [0] * 3 + [1] * 3 for batch in batches)
        features = torch.cat([batch["snippet_features"] for batch in batches])
        assert features.shape == (72, 1, 32, 4)
        assert len({tuple(row) for row in features.flatten(1).tolist()}) == 72
        again = bags(2, **options)
        assert all(
            torch.equal(a["snippet_features"], b["snippet_features"]) for a, b in zip(batches[8:], again, strict=True)
        )

    def test_crops_share_the_scene_and_the_event(self) -> None:
        batch = everything(build_videos(test_size=20, crops=2, feature_dim=16, scene=1.0).test)
        one, two = batch["snippet_features"].unbind(1)
        assert not torch.equal(one, two)
        flat = torch.stack([one.flatten(), two.flatten()])
        assert float(torch.corrcoef(flat)[0, 1]) > 0.7

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"train_size": 0}, "train_size must be at least 1; got 0"),
            ({"crops": 0}, "crops must be at least 1; got 0"),
            ({"difficulty": 1.0}, r"difficulty must be in \[0, 1\) and scene at least 0; got 1.0"),
            ({"scene": -0.1}, "scene at least 0; got 0.0 and -0.1"),
            ({"segments": 0}, "segments must be at least 1"),
        ],
    )
    def test_options_out_of_range(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            SyntheticVideos(**options)
