"""Whole videos with their truth, and balanced training batches of pooled videos."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from video_parts import Listed, listed, names, splits, videos

from anomaly_suite.contract import AnomalyModule, Batch
from anomaly_suite.data.videos import datasets, scale
from anomaly_suite.data.videos.datasets import BalancedBags, WholeVideos
from anomaly_suite.data.videos.feature_files import Video, read_pooled, read_video
from anomaly_suite.errors import DatasetError, DatasetNotFoundError

Save = Callable[..., Path]


class TestWholeVideos:
    def test_padding_names_labels_and_truth(self) -> None:
        parts = [
            Video("a", 0, torch.rand(2, 3, 4)),
            Video("b", 1, torch.rand(2, 5, 4), np.arange(75) >= 70),
            Video("c", 1, torch.rand(2, 1, 4), np.ones(40, np.bool_)),
        ]
        with pytest.raises(DatasetError, match="'c' has frame truth of 40 frames"):
            WholeVideos(parts, frames=True).batch([0, 1, 2])
        parts[2] = parts[2]._replace(frame_label=np.ones(30, np.bool_))
        batch = WholeVideos(parts, frames=True).batch([0, 1, 2])
        assert batch["snippet_features"].shape == (3, 2, 5, 4)
        assert batch["length"].tolist() == [3, 5, 1]
        assert batch["label"].tolist() == [0, 1, 1]
        assert batch["image_path"] == ["a", "b", "c"]
        for row, video in enumerate(parts):
            assert isinstance(video.source, Tensor)
            length = video.source.shape[1]
            assert torch.equal(batch["snippet_features"][row, :, :length], video.source)
            assert not batch["snippet_features"][row, :, length:].any()
        assert batch["frame_count"].tolist() == [48, 75, 16]
        assert batch["frame_label"].tolist() == [False] * 48 + [False] * 70 + [True] * 5 + [True] * 16
        extended = WholeVideos(parts, frames=True, rule="extend").batch([0, 1])
        assert extended["frame_count"].tolist() == [48, 80]
        assert int(extended["frame_label"].sum()) == 10

    def test_videos_of_different_networks(self) -> None:
        parts = [
            Video("a", 0, torch.rand(2, 3, 4)),
            Video("b", 0, torch.rand(2, 3, 5)),
            Video("c", 0, torch.rand(1, 3, 4)),
        ]
        for other, message in ((1, "'b' 2 of 5"), (2, "'c' 1 of 4")):
            with pytest.raises(DatasetError, match=f"video 'a' has 2 crops of width 4, {message}"):
                WholeVideos(parts).batch([0, other])


class TestBags:
    @pytest.mark.parametrize("snippets", [1, 5, 32, 67])
    def test_pooled_videos_equal_a_slow_loop(self, save: Save, snippets: int) -> None:
        files = [save(f"{name}.npy", snippets) for name in "ab"]
        whole = WholeVideos([Video("a", 0, files[0]), Video("b", 1, files[1])])
        bags = BalancedBags(whole, segments=32, block=1, batches=None, seed=0)
        batch = bags.batch([0])
        assert batch["image_path"] == ["a", "b"]
        for row, file in enumerate(files):
            values = np.load(file).astype(np.float64)
            bounds = np.linspace(0, snippets, 33).astype(int)
            for segment, (first, last) in enumerate(itertools.pairwise(bounds)):
                wanted = values[first : max(last, first + 1)].mean(0)
                np.testing.assert_allclose(batch["snippet_features"][row, :, segment], wanted, rtol=1e-5)

    def test_normal_first_as_many_of_both(self) -> None:
        for batch in listed(train_batch_size=3).train_dataloader():
            assert batch["label"].tolist() == [0] * 3 + [1] * 3
            numbers = batch["snippet_features"][:, 0, 0, 0]
            wanted = [int(name[-3:]) + 1000 * int(name[6]) for name in batch["image_path"]]
            assert numbers.tolist() == pytest.approx(wanted)

    @pytest.mark.parametrize(("normal", "anomalous", "size"), [(7, 5, 3), (20, 4, 4), (4, 6, 4), (9, 9, 9)])
    def test_no_video_is_twice_in_a_batch_and_none_is_forgotten(self, normal: int, anomalous: int, size: int) -> None:
        data = listed(normal, anomalous, train_batch_size=size)
        batches = names(data)
        assert len(batches) == max(normal, anomalous) // size
        for batch in batches:
            assert len(set(batch)) == 2 * size
        larger = 0 if normal >= anomalous else 1
        seen = [name for batch in batches for name in batch if name.startswith(f"train/{larger}")]
        assert len(set(seen)) == len(batches) * size  # the larger class never repeats in an epoch
        several = {name for epoch in range(12) for batch in names(data, epoch) for name in batch}
        assert len(several) == normal + anomalous

    def test_a_class_smaller_than_the_batch_repeats_evenly(self) -> None:
        (batch,) = names(listed(2, 3, train_batch_size=5))
        counts = [sum(name == f"train/0/{row:03d}" for name in batch) for row in range(2)]
        assert sorted(counts) == [2, 3]
        assert sorted(sum(name == f"train/1/{row:03d}" for name in batch) for row in range(3)) == [1, 2, 2]

    def test_batches_of_an_epoch_can_be_chosen(self) -> None:
        batches = names(listed(7, 5, train_batch_size=3, batches_per_epoch=10))
        assert len(batches) == 10
        assert all(len(set(batch)) == 6 for batch in batches)
        assert len({tuple(batch) for batch in batches}) > 5  # every turn through the videos has its own order

    def test_order_depends_on_seed_and_epoch_alone(self) -> None:
        first = [names(listed(seed=3), epoch) for epoch in range(3)]
        np.random.default_rng(0).random()
        torch.rand(3)
        assert [names(listed(seed=3), epoch) for epoch in range(3)] == first
        data = listed(seed=3, num_workers=2)
        assert [names(data, epoch) for epoch in (2, 0, 1)] == [first[2], first[0], first[1]]
        assert first[0] != first[1] != first[2]
        assert names(listed(seed=4)) != first[0]

    @pytest.mark.parametrize("epoch", [0, 1])
    def test_processes_see_different_pairs(self, epoch: int) -> None:
        shares = []
        for rank in range(2):
            data = listed(9, 8, train_batch_size=2)
            data.trainer = SimpleNamespace(world_size=2, global_rank=rank)  # type: ignore[assignment] # all that is read
            shares.append(names(data, epoch))
        assert [len(share) for share in shares] == [2, 2]
        together = names(listed(9, 8, train_batch_size=4), epoch)
        for *parts, whole in zip(*shares, together, strict=True):
            assert not set(parts[0]) & set(parts[1])
            assert sorted(parts[0] + parts[1]) == sorted(whole)

    def test_cache(self, save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        files = [save(f"{name}.npy", 40) for name in "abcd"]
        train = [Video(file.stem, index // 2, file) for index, file in enumerate(files)]
        test = videos("test", 1, 1)
        reads: list[str] = []

        def counted(read: Callable[..., Tensor]) -> Callable[..., Tensor]:
            def counting(video: Video, *options: Any) -> Tensor:
                reads.append(video.name)
                return read(video, *options)

            return counting

        monkeypatch.setattr(datasets, "read_video", counted(read_video))
        monkeypatch.setattr(datasets, "read_pooled", counted(read_pooled))
        monkeypatch.setattr(scale, "read_video", counted(read_video))

        def fetch(**options: Any) -> tuple[dict[str, Tensor], int]:
            reads.clear()
            data = Listed(train, test, validation="none", train_batch_size=2, **options)
            (batch,) = data.train_dataloader()
            return dict(zip(batch["image_path"], batch["snippet_features"], strict=True)), len(reads)

        def check(got: tuple[dict[str, Tensor], int], wanted: dict[str, Tensor], count: int) -> None:
            assert got[1] == count
            assert all(torch.equal(got[0][name], wanted[name]) for name in "abcd")

        cache = str(tmp_path / "cache")
        plain, _ = fetch()
        check(fetch(cache=cache), plain, 4)
        check(fetch(cache=cache), plain, 0)
        assert len(list((tmp_path / "cache").iterdir())) == 4  # no temporary file stays
        check(fetch(cache=cache, segments=8), fetch(segments=8)[0], 4)
        standard, _ = fetch(standardize=True)
        check(fetch(cache=cache, standardize=True), standard, 2 + 4)  # two normal ones for the mean
        check(fetch(cache=cache, standardize=True), standard, 2)
        save("b.npy", 41)
        os.utime(files[1], ns=(1, 1))
        check(fetch(cache=cache), {**plain, "b": fetch()[0]["b"]}, 1)

    @pytest.mark.parametrize("left", [0, 60, -1])
    def test_a_cut_file_of_the_cache_is_named_and_made_again(
        self, left: int, save: Save, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        train = [Video(name, index, save(f"{name}.npy", 40)) for index, name in enumerate("ab")]

        def fetch() -> Tensor:
            data = Listed(
                train, videos("test", 1, 1), validation="none", train_batch_size=1, cache=str(tmp_path / "cache")
            )
            (batch,) = data.train_dataloader()
            return batch["snippet_features"]

        plain = fetch()
        assert "again" not in caplog.text
        cut = sorted((tmp_path / "cache").iterdir())[0]
        whole = cut.read_bytes()
        cut.write_bytes(whole[:left])
        assert torch.equal(fetch(), plain)
        assert f"'{cut}' is no whole array" in caplog.text
        assert cut.read_bytes() == whole

    def test_missing_files_are_found_before_training(self, save: Save, tmp_path: Path) -> None:
        train = [Video("a", 0, save("a.npy")), Video("b", 1, tmp_path / "b.npy")]
        for options in ({}, {"cache": str(tmp_path / "cache")}):
            with pytest.raises(DatasetNotFoundError, match=r"1 files .* do not exist: .*b.npy"):
                splits(Listed(train, videos("test", 1, 1), validation="none", **options))


class Recorder(AnomalyModule):
    """Learns nothing and remembers the videos of every step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, list[str]]] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.seen.append((self.current_epoch, batch["image_path"]))
        return 0.0 * self.weight

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_training_reshuffles_every_epoch_and_a_resumed_one_repeats_it(
    trainer_in: Callable[..., Trainer], tmp_path: Path
) -> None:
    whole, first, second = Recorder(), Recorder(), Recorder()
    trainer_in(max_epochs=3).fit(whole, listed(train_batch_size=3))
    orders = [[batch for epoch, batch in whole.seen if epoch == number] for number in range(3)]
    assert orders == [names(listed(train_batch_size=3), epoch) for epoch in range(3)]
    trainer = trainer_in(max_epochs=1)
    trainer.fit(first, listed(train_batch_size=3))
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    trainer_in(max_epochs=3).fit(
        second, listed(train_batch_size=3), ckpt_path=tmp_path / "half.ckpt", weights_only=False
    )
    assert first.seen + second.seen == whole.seen
