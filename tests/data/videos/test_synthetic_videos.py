"""Videos made from a seed: sizes, truth, noise, difficulty and draws."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from anomaly_suite.contract import Batch, Splits
from anomaly_suite.data import SyntheticVideos
from anomaly_suite.errors import ConfigError


def everything(part: Any) -> Batch:
    batch: Batch = part.__getitems__(list(range(len(part))))
    return batch


def build_videos(**options: Any) -> Splits:
    data = SyntheticVideos(**options)
    data.setup()
    assert data.splits is not None
    return data.splits


def bags(epoch: int = 0, **options: Any) -> list[Batch]:
    loader = SyntheticVideos(**options).train_dataloader()
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined] # what the trainer does
    return list(loader)


def test_sizes_labels_and_names() -> None:
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


def test_truth_is_one_event_of_3_to_6_snippets_with_ragged_ends() -> None:
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


def test_snippets_without_event_are_noise_cut_at_zero() -> None:
    batch = everything(build_videos(test_size=200, feature_dim=32, scene=0.0).test)
    quiet = ~torch.cat([truth[::16] for truth in batch["frame_label"].split(batch["frame_count"].tolist())])
    rows = zip(batch["snippet_features"], batch["length"].tolist(), strict=True)
    features = torch.cat([row[0, :count] for row, count in rows])[quiet]
    # relu of 0.5 times a standard normal number: mean 0.5 / sqrt(2 pi), mean square 0.125
    assert float(features.mean()) == pytest.approx(0.5 / (2 * torch.pi) ** 0.5, rel=0.01)
    assert float(features.square().mean()) == pytest.approx(0.125, rel=0.01)


def test_events_add_one_of_three_unit_vectors() -> None:
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


def test_scenes_make_videos_differ() -> None:
    def spread(scene: float) -> float:
        batch = everything(build_videos(test_size=40, scene=scene).test)
        means = [row[0, :count].mean(0) for row, count in zip(batch["snippet_features"], batch["length"], strict=True)]
        return float(torch.stack(means[:40]).std(0).mean())

    assert spread(0.0) < 0.1 < spread(0.6)


def test_difficulty_weakens_events() -> None:
    def height(difficulty: float) -> float:
        batch = everything(build_videos(test_size=40, difficulty=difficulty).test)
        return float(batch["snippet_features"][40:].square().sum(3).amax(2).mean())

    assert height(0.0) > height(0.5) > height(0.9)


def test_the_seed_decides_everything() -> None:
    first, again, other = (everything(build_videos(seed=seed).test)["snippet_features"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first[:, :, :32], other[:, :, :32])


def test_fixed_bags_come_again_and_fresh_ones_never() -> None:
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


def test_crops_share_the_scene_and_the_event() -> None:
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
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SyntheticVideos(**options)
