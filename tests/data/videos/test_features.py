"""Feature files, frame truth of ragged lengths, pooled and balanced training batches."""

from __future__ import annotations

import itertools
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

import anomaly_suite.data.videos.features as features_module
from anomaly_suite.contract import AnomalyModule, Batch, Splits
from anomaly_suite.data.videos.features import (
    BalancedBags,
    Scale,
    Video,
    VideoFeatures,
    WholeVideos,
    check_videos,
    fit_length,
    open_features,
    read_video,
    snippets_of,
)
from anomaly_suite.errors import ConfigError, DatasetError, DatasetNotFoundError
from anomaly_suite.snippets import frame_scores

Save = Callable[..., Path]


class Listed(VideoFeatures):
    """A data set of the given videos."""

    def __init__(self, train: list[Video], test: list[Video], **options: Any) -> None:
        super().__init__(**options)
        self.listed = train, test

    def read(self) -> tuple[list[Video], list[Video]]:
        return self.listed


def videos(part: str, normal: int, anomalous: int, *, snippets: int = 8, width: int = 4, crops: int = 2) -> list[Video]:
    """Videos in memory; the first number of all features is the video's own."""
    made = []
    for label, count in enumerate((normal, anomalous)):
        for row in range(count):
            value = torch.rand(crops, snippets, width)
            value[..., 0] = row + 1000 * label
            truth = np.arange(16 * snippets) < 20 if label else None
            made.append(Video(f"{part}/{label}/{row:03d}", label, value, truth))
    return made


def listed(normal: int = 7, anomalous: int = 5, **options: Any) -> Listed:
    data = Listed(videos("train", normal, anomalous), videos("test", 2, 2), **{"validation": "none", **options})
    data.setup()
    return data


def splits(data: Listed) -> Splits:
    data.setup()
    assert data.splits is not None
    return data.splits


def names(data: Listed, epoch: int = 0) -> list[list[str]]:
    """Names in every training batch of an epoch."""
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined] # what the trainer does
    return [batch["image_path"] for batch in loader]


class TestFiles:
    def test_every_order_of_axes(self, save: Save) -> None:
        values = np.random.default_rng(0).random((5, 2, 3))
        wanted = np.swapaxes(values, 0, 1)
        assert np.array_equal(open_features(save("a.npy", values=values)), wanted)
        assert np.array_equal(open_features(save("b.npy", values=wanted), "crops_first"), wanted)
        for layout in ("snippets_first", "crops_first"):
            assert np.array_equal(open_features(save("c.npy", values=values[:, 0]), layout), wanted[:1])

    def test_nothing_is_read_before_it_is_needed(self, save: Save) -> None:
        array = open_features(save("a.npy"))
        while not isinstance(array, np.memmap):
            assert array.base is not None
            array = array.base
        assert array.filename is not None

    @pytest.mark.parametrize("kind", ["float16", "float64", "int32", "uint8"])
    def test_numbers_become_float32(self, save: Save, kind: str) -> None:
        values = (10 * np.random.default_rng(0).random((5, 2, 3))).astype(kind)
        read = read_video(Video("a", 0, save("a.npy", values=values)))
        assert read.dtype == torch.float32
        assert np.array_equal(read.numpy(), np.swapaxes(values, 0, 1).astype("float32"))

    def test_changes_to_what_was_read_stay_out_of_the_file(self, save: Save) -> None:
        video = Video("a", 0, save("a.npy"))
        before = read_video(video).clone()
        read_video(video).zero_()
        assert torch.equal(read_video(video), before)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (np.zeros(4), r"must be numbers of shape .*; got \(4,\)"),
            (np.zeros((2, 2, 2, 2)), r"got \(2, 2, 2, 2\)"),
            (np.array([["a", "b"]]), "got .*<U1"),
            (np.zeros((2, 2), bool), "got .*bool"),
            (np.zeros((0, 2, 3)), "Extract the features|no plain NumPy array"),
        ],
        ids=["vector", "four axes", "text", "bool", "empty"],
    )
    def test_arrays_that_are_no_features(self, save: Save, values: Any, message: str) -> None:
        with pytest.raises(DatasetError, match=message):
            open_features(save("a.npy", values=values))

    def test_pickles_are_never_loaded(self, tmp_path: Path) -> None:
        class Harmful:
            def __reduce__(self) -> tuple[Any, ...]:
                return os.mkdir, (str(tmp_path / "harm"),)

        np.save(tmp_path / "object.npy", np.array([Harmful()], dtype=object), allow_pickle=True)
        (tmp_path / "bare.npy").write_bytes(pickle.dumps(Harmful()))
        for name in ("object.npy", "bare.npy"):
            with pytest.raises(DatasetError, match=rf"{name}' is no plain NumPy array.*never loaded: save it again"):
                open_features(tmp_path / name)
        assert not (tmp_path / "harm").exists()

    def test_damaged_files_and_archives(self, save: Save, tmp_path: Path) -> None:
        whole = save("whole.npy", 100).read_bytes()
        cases = {"cut.npy": whole[:500], "header.npy": whole[:20], "empty.npy": b"", "noise.npy": bytes(range(256)) * 4}
        np.savez(tmp_path / "archive.npz", a=np.zeros((2, 2)))
        cases["archive.npy"] = (tmp_path / "archive.npz").read_bytes()
        cases["damaged.npy"] = whole[:12] + b"\x00(" * 40 + whole[92:]
        for name, content in cases.items():
            (tmp_path / name).write_bytes(content)
            with pytest.raises(DatasetError, match=f"{name}' is no plain NumPy array"):
                open_features(tmp_path / name)
        (tmp_path / "folder.npy").mkdir()
        with pytest.raises(DatasetError, match=r"folder.npy' is no plain NumPy array"):
            open_features(tmp_path / "folder.npy")
        with pytest.raises(DatasetNotFoundError, match=r"no file '.*none.npy'"):
            open_features(tmp_path / "none.npy")

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_values_that_are_no_numbers_name_their_file(self, save: Save, bad: float) -> None:
        values = np.ones((3, 4))
        crops = [save(f"v__{crop}.npy", values=values) for crop in range(3)]
        values[2, 1] = bad
        crops.insert(1, save("v__bad.npy", values=values))
        with pytest.raises(DatasetError, match=r"v__bad.npy' holds NaN or infinity.*video 'v'"):
            read_video(Video("v", 0, tuple(crops)))

    def test_crops_in_files_of_their_own(self, save: Save) -> None:
        values = np.random.default_rng(0).random((3, 5, 4)).astype("float32")
        video = Video("v", 0, tuple(save(f"v__{crop}.npy", values=values[crop]) for crop in range(3)))
        assert np.array_equal(read_video(video).numpy(), values)
        assert snippets_of(video) == 5

    def test_crops_must_be_alike(self, save: Save) -> None:
        files = (save("v__0.npy", values=np.ones((5, 4))), save("v__1.npy", values=np.ones((6, 4))))
        with pytest.raises(
            DatasetError, match=r"crops of video 'v' differ .*v__0.npy \(1, 5, 4\), v__1.npy \(1, 6, 4\)"
        ):
            read_video(Video("v", 0, files))

    def test_features_beside_are_appended(self, save: Save) -> None:
        rgb, flow = (np.random.default_rng(seed).random((2, 6, 3 + seed)).astype("float32") for seed in (0, 1))
        files = tuple(save(f"rgb__{crop}.npy", values=rgb[crop]) for crop in (0, 1))
        for length in (5, 6):  # flow has a frame less, so perhaps a snippet
            beside = tuple(save(f"flow{length}__{crop}.npy", values=flow[crop, :length]) for crop in (0, 1))
            video = Video("v", 0, files, beside=beside)
            wanted = np.concatenate([rgb[:, :length], flow[:, :length]], 2)
            assert np.array_equal(read_video(video).numpy(), wanted)
            assert snippets_of(video) == length
        for name, values in (("short", flow[:, :4]), ("crop", flow[:1])):
            beside = tuple(save(f"{name}__{crop}.npy", values=value) for crop, value in enumerate(values))
            with pytest.raises(
                DatasetError, match=r"rgb__0.npy' holds features of shape \(2, 6, 3\) and .* beside it of"
            ):
                read_video(Video("v", 0, files, beside=beside))


class TestLength:
    def test_both_rules_against_a_loop(self) -> None:
        rng = np.random.default_rng(0)
        for _ in range(50):
            snippets = int(rng.integers(1, 70))
            frames = max(1, 16 * snippets + int(rng.integers(-16, 17)))
            truth = rng.random(frames) < 0.5
            video = Video("v", 1, torch.zeros(1, snippets, 1), truth)
            scores = torch.rand(1, snippets)
            for rule in ("cut", "extend"):
                fitted = fit_length(video, snippets, rule)
                count = min(frames, 16 * snippets) if rule == "cut" else 16 * snippets
                assert fitted.tolist() == [truth[min(frame, frames - 1)] for frame in range(count)]
                spread = frame_scores(scores, torch.tensor([snippets]), torch.tensor([count]))
                assert len(spread) == len(fitted)

    def test_normal_videos_need_no_truth(self) -> None:
        assert fit_length(Video("v", 0, torch.zeros(1, 3, 1)), 3, "cut").tolist() == [False] * 48

    @pytest.mark.parametrize(("frames", "snippets"), [(160, 8), (160, 12), (16 * 200, 195), (0, 2)])
    def test_truth_of_another_video(self, frames: int, snippets: int) -> None:
        video = Video("v", 1, torch.zeros(1, snippets, 1), np.ones(frames, np.bool_))
        with pytest.raises(DatasetError, match=f"'v' has frame truth of {frames} frames.* but features of {snippets}"):
            fit_length(video, snippets, "cut")

    @pytest.mark.parametrize(("frames", "snippets"), [(160, 9), (160, 11), (16 * 200, 196), (16 * 200, 204)])
    def test_decoders_may_lose_some_frames(self, frames: int, snippets: int) -> None:
        video = Video("v", 1, torch.zeros(1, snippets, 1), np.ones(frames, np.bool_))
        assert fit_length(video, snippets, "extend").sum() == 16 * snippets


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
        with pytest.raises(DatasetError, match="'b' 2 of 5"):
            Scale.of(parts, "snippets_first")


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
        read = read_video

        def counted(video: Video, layout: Any) -> Tensor:
            reads.append(video.name)
            return read(video, layout)

        monkeypatch.setattr(features_module, "read_video", counted)

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


class TestStandardize:
    def test_normal_training_videos_decide(self, save: Save) -> None:
        normal = [np.random.default_rng(seed).normal(3, 2, (5 + seed, 2, 4)) for seed in range(2)]
        for values in normal:
            values[..., 3] = 7.0  # never varies
        odd = np.full((5, 2, 4), 7.0)
        odd[..., 0] = 1e4
        train = [Video(f"n{i}", 0, save(f"n{i}.npy", values=values)) for i, values in enumerate(normal)]
        train.append(Video("odd", 1, save("odd.npy", values=odd)))
        test = Video("odd test", 1, torch.tensor(odd).float().transpose(0, 1))
        train_set, _, test_set = splits(Listed(train, [test], validation="none", standardize=True))
        rows = np.concatenate([values.reshape(-1, 4) for values in normal])
        wanted = (normal[1] - rows.mean(0))[..., :3] / rows.std(0)[:3]
        got = train_set.batch([1])["snippet_features"][0].transpose(0, 1)  # type: ignore[attr-defined] # a BatchedDataset
        np.testing.assert_allclose(got[..., :3], wanted.clip(-5, 5), atol=1e-5)
        assert not got[..., 3].any()
        scaled = test_set.batch([0])["snippet_features"]  # type: ignore[attr-defined] # a BatchedDataset
        assert (scaled[..., 0] == 5).all()
        assert isinstance(test.source, Tensor)
        assert (test.source[..., 0] == 1e4).all()

    def test_held_out_videos_do_not(self) -> None:
        train = videos("train", 4, 4)
        whole = splits(Listed(train, videos("test", 1, 1), validation="holdout", val_size=1, standardize=True))
        kept = whole.train
        assert isinstance(kept, WholeVideos)
        rows = torch.cat([read_video(video).flatten(0, 1) for video in kept.videos if not video.label]).double()
        assert kept.scale is not None
        np.testing.assert_allclose(kept.scale.mean, rows.mean(0), rtol=1e-6)
        np.testing.assert_allclose(kept.scale.deviation, rows.std(0, correction=0), rtol=1e-5)


class TestModule:
    def test_holdout_keeps_both_kinds_and_has_no_frames(self) -> None:
        train, val, test = splits(listed(10, 20, validation="holdout", val_size=0.2))
        assert isinstance(train, WholeVideos)
        assert isinstance(val, WholeVideos)
        assert isinstance(test, WholeVideos)
        assert [sum(video.label == label for video in val.videos) for label in (0, 1)] == [2, 4]
        assert len({video.name for video in [*train.videos, *val.videos]}) == 30
        assert "frame_label" not in val.batch([0])
        assert "frame_label" in test.batch([0])

    def test_frames_only_where_all_truth_is_known(self) -> None:
        test = [*videos("test", 2, 2), Video("bare", 1, torch.rand(2, 8, 4))]
        part = splits(Listed(videos("train", 3, 3), test, validation="none")).test
        assert isinstance(part, WholeVideos)
        assert set(part.batch([0, 3])) == {"snippet_features", "length", "label", "image_path"}

    def test_evaluation_takes_one_video_at_a_time(self) -> None:
        data = listed(validation="test", length_rule="extend")
        for loader in (data.test_dataloader(), data.val_dataloader(), data.predict_dataloader()):
            batches = list(loader)
            assert [batch["image_path"] for batch in batches] == [
                ["test/0/000"], ["test/0/001"], ["test/1/000"], ["test/1/001"]
            ]  # fmt: skip
            assert [int(batch["frame_label"].sum()) for batch in batches] == [0, 0, 20, 20]
        assert [len(batch["label"]) for batch in listed(eval_batch_size=3).test_dataloader()] == [3, 1]

    def test_processes_share_the_test_videos(self) -> None:
        seen = []
        for rank in range(2):
            data = listed()
            data.trainer = SimpleNamespace(world_size=2, global_rank=rank)  # type: ignore[assignment] # all that is read
            seen += [batch["image_path"][0] for batch in data.test_dataloader()]
        assert sorted(seen) == ["test/0/000", "test/0/001", "test/1/000", "test/1/001"]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"segments": 0}, "segments must be at least 1; got 0"),
            ({"batches_per_epoch": 0}, "batches_per_epoch must be at least 1; got 0"),
            ({"validation": "augmented"}, "videos have none. Use holdout, test or none"),
            ({"eval_batch_size": 0}, "eval_batch_size must be at least 1"),
        ],
    )
    def test_options_that_cannot_work(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            VideoFeatures(**options)

    def test_lists_that_cannot_work(self) -> None:
        train, test = videos("train", 2, 2), videos("test", 1, 1)
        with pytest.raises(DatasetError, match="'train/0/001' is in the training part and again in the test part"):
            check_videos(train, [*test, train[1]])
        with pytest.raises(DatasetError, match="'test/0/000' is in the test part and again in the test part"):
            check_videos(train, [*test, test[0]])
        with pytest.raises(DatasetError, match="has no test video"):
            check_videos(train, [])
        check_videos(train, test)
        for label, kind in enumerate(("normal", "anomalous")):
            with pytest.raises(DatasetError, match=f"Listed has no {kind} training video"):
                splits(Listed([video for video in train if video.label != label], test))

    def test_a_data_set_must_read(self) -> None:
        with pytest.raises(NotImplementedError, match=r"VideoFeatures must define read\(\)"):
            VideoFeatures().setup()
