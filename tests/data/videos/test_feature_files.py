"""Files of snippet features: reading them, and finding them by the name of their video."""

from __future__ import annotations

import os
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anomaly_suite.contract import pool_segments
from anomaly_suite.data.videos import feature_files
from anomaly_suite.data.videos.feature_files import (
    Video,
    find_features,
    open_features,
    read_pooled,
    read_video,
    require_features,
    require_same_shape,
    snippets_of,
)
from anomaly_suite.errors import DatasetError, DatasetNotFoundError

Save = Callable[..., Path]


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


class TestPooling:
    @pytest.mark.parametrize("snippets", [1, 5, 32, 67])
    @pytest.mark.parametrize("layout", ["snippets_first", "crops_first"])
    @pytest.mark.parametrize("kind", ["float16", "float32", "float64", "int32", "uint8"])
    def test_means_are_those_of_the_whole_video(self, save: Save, snippets: int, layout: Any, kind: str) -> None:
        values = (100 * np.random.default_rng(0).random((snippets, 2, 3))).astype(kind)
        video = Video("v", 0, save("v.npy", values=values if layout == "snippets_first" else np.swapaxes(values, 0, 1)))
        pooled = read_pooled(video, 32, layout)
        assert pooled.shape == (2, 32, 3)
        # Sums of at most three numbers, in another order.
        torch.testing.assert_close(
            pooled, pool_segments(read_video(video, layout)[None])[0], rtol=3e-7, atol=0, check_stride=False
        )

    def test_crops_and_features_beside_each_other(self, save: Save) -> None:
        rgb, flow = (np.random.default_rng(seed).random((2, 40, 3 + seed)).astype("float32") for seed in (0, 1))
        files = tuple(save(f"rgb__{crop}.npy", values=rgb[crop]) for crop in (0, 1))
        beside = tuple(save(f"flow__{crop}.npy", values=flow[crop, :39]) for crop in (0, 1))
        video = Video("v", 0, files, beside=beside)
        torch.testing.assert_close(
            read_pooled(video, 8), pool_segments(read_video(video)[None], 8)[0], rtol=1e-6, atol=0
        )
        in_memory = Video("v", 0, read_video(video))
        assert torch.equal(read_pooled(in_memory, 8), pool_segments(read_video(video)[None], 8)[0])

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_values_that_are_no_numbers_name_their_file(self, save: Save, bad: float) -> None:
        values = np.ones((70, 4))
        good = save("v__0.npy", values=values)
        values[69, 1] = bad
        with pytest.raises(DatasetError, match=r"v__1.npy' holds NaN or infinity.*video 'v'"):
            read_pooled(Video("v", 0, (good, save("v__1.npy", values=values))), 32)

    def test_large_numbers_whose_sum_is_none(self, save: Save) -> None:
        video = Video("v", 0, save("v.npy", values=np.full((6, 1, 2), 2e38, np.float32)))
        assert torch.allclose(read_pooled(video, 1), torch.full((1, 1, 2), 2e38))


def peak(call: Callable[[], object]) -> int:
    """Bytes that NumPy had at most during a call, what it returns included; mapped files do not count."""
    tracemalloc.start()
    call()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


@pytest.mark.parametrize("layout", ["snippets_first", "crops_first"])
def test_a_file_is_copied_once(save: Save, monkeypatch: pytest.MonkeyPatch, layout: Any) -> None:
    file = save("v.npy", values=np.ones((400, 10, 256) if layout == "snippets_first" else (10, 400, 256), np.float32))
    monkeypatch.setattr(feature_files, "PIECE", 2**18)
    size = file.stat().st_size
    assert size < peak(lambda: read_video(Video("v", 0, file), layout)) < 1.1 * size
    assert peak(lambda: read_pooled(Video("v", 0, file), 32, layout)) < 0.2 * size


def test_pages_of_a_file_are_given_back_while_it_is_read(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    status = Path("/proc/self/status")
    if not status.is_file():
        pytest.skip("resident pages are counted in /proc")

    def mapped() -> int:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("RssFile"))

    file = save("v.npy", values=np.ones((2000, 4, 512), np.float32))  # 16 MB
    monkeypatch.setattr(feature_files, "PIECE", 2**20)
    seen: list[int] = []
    finite = np.isfinite
    monkeypatch.setattr(np, "isfinite", lambda values: seen.append(mapped()) or finite(values))
    before = mapped()
    read_video(Video("v", 0, file))
    assert len(seen) > 10
    assert max(seen) - before < 4096  # KiB


class TestFindFeatures:
    def find(self, folder: Path) -> dict[str, tuple[Path, ...]]:
        return find_features(folder, dataset="Some", obtain="Extract them.")

    def test_one_file_a_video_in_any_subfolder(self, save: Save, tmp_path: Path) -> None:
        files = [save("f/b_i3d.npy"), save("f/more/a.npy")]
        for junk in ("f/._b_i3d.npy", "f/__MACOSX/x.npy", "f/.cache/y.npy", "f/readme.txt"):
            (tmp_path / junk).parent.mkdir(exist_ok=True)
            (tmp_path / junk).write_bytes(b"junk")
        assert self.find(tmp_path / "f") == {"b": (files[0],), "a": (files[1],)}

    @pytest.mark.parametrize("mark", ["_", "__"])
    def test_crops_are_ordered(self, save: Save, tmp_path: Path, mark: str) -> None:
        files = {crop: save(f"f/v{mark}{crop}.npy") for crop in (3, 9, 0, 1, 5, 2, 8, 7, 4, 6)}
        assert self.find(tmp_path / "f") == {"v": tuple(files[crop] for crop in range(10))}

    def test_a_missing_crop(self, save: Save, tmp_path: Path) -> None:
        for name in ("a__0", "a__1", "b__0", "b__1", "c__0"):
            save(f"f/{name}.npy")
        with pytest.raises(
            DatasetError, match=r"has crops 0 of video 'c' and 0, 1 of 'a'. Give every video the same files"
        ):
            self.find(tmp_path / "f")
        save("g/a__1.npy")
        with pytest.raises(DatasetError, match="has crops 1 of video 'a' and 1 of 'a'"):
            self.find(tmp_path / "g")

    def test_two_files_of_one_video(self, save: Save, tmp_path: Path) -> None:
        save("f/a.npy")
        save("f/a_i3d.npy")
        with pytest.raises(DatasetError, match=r"a.npy' and '.*a_i3d.npy' are features of one video"):
            self.find(tmp_path / "f")

    def test_missing_and_empty_folders(self, tmp_path: Path) -> None:
        with pytest.raises(
            DatasetNotFoundError, match=r"Some expects snippet features in '.*f', which does not exist. Extract"
        ):
            self.find(tmp_path / "f")
        (tmp_path / "f").mkdir()
        with pytest.raises(DatasetNotFoundError, match=r"f', which holds no .npy file. Extract them."):
            self.find(tmp_path / "f")

    def test_videos_without_features(self, tmp_path: Path) -> None:
        with pytest.raises(
            DatasetNotFoundError, match=r"4 of 5 videos in the list have no features in '.*': b, c, d, \.\.\. Complete"
        ):
            require_features(list("abcde"), ["a"], folder=tmp_path, source="the list")
        require_features(list("ab"), list("abc"), folder=tmp_path, source="the list")


def test_videos_of_any_length_but_one_shape() -> None:
    parts = [("a", torch.zeros(2, 3, 4)), ("b", torch.zeros(2, 9, 4)), ("c", torch.zeros(1, 3, 4))]
    require_same_shape(parts[:2])
    with pytest.raises(DatasetError, match="video 'a' has 2 crops of width 4, 'c' 1 of 4"):
        require_same_shape(parts)
