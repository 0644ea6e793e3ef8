"""From frames to clips of 16."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from video_files import Pixels, frames

from anomaly_suite.contract import snippet_count
from anomaly_suite.errors import DatasetError
from anomaly_suite.features.decode import ahead, read_clips, require_whole


def all_clips(images: Pixels, size: tuple[int, int] = (24, 32), block: int = 1) -> tuple[Pixels, int]:
    parts = list(read_clips(iter(images), size=size, block=block))
    return np.concatenate([clips for clips, _ in parts]), sum(used for _, used in parts)


class TestClips:
    @pytest.mark.parametrize(("count", "snippets"), [(1, 1), (15, 1), (16, 1), (17, 2), (32, 2), (33, 3)])
    @pytest.mark.parametrize("block", [1, 2, 5])
    def test_number_of_snippets(self, count: int, snippets: int, block: int) -> None:
        clips, used = all_clips(frames(count), block=block)
        assert (len(clips), used) == (snippets, count)
        assert snippet_count(count) == snippets
        assert 0 <= 16 * snippets - count < 16

    def test_the_last_frame_fills_up(self) -> None:
        images = frames(19)
        clips, _ = all_clips(images)
        assert clips.shape == (2, 3, 16, 24, 32)
        padded = np.concatenate([images, np.repeat(images[-1:], 13, 0)]).reshape(2, 16, 24, 32, 3)
        assert np.array_equal(clips.transpose(0, 2, 3, 4, 1), padded)

    def test_frames_are_scaled_by_area_when_they_shrink(self) -> None:
        images = frames(16, size=(48, 64))
        means = images.reshape(16, 24, 2, 32, 2, 3).mean((2, 4))
        clips, _ = all_clips(images)
        assert np.abs(clips[0].transpose(1, 2, 3, 0) - means).max() <= 0.5

    def test_no_frame_is_read_before_its_clip(self) -> None:
        read = 0

        def counted() -> Iterator[Pixels]:
            nonlocal read
            for image in frames(100):
                read += 1
                yield image

        clips = read_clips(counted(), size=(24, 32), block=2)
        next(clips)
        assert read == 32


def test_items_are_made_ahead_in_order() -> None:
    made: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(5):
            made.append(number)
            yield number

    assert list(ahead(numbers())) == [0, 1, 2, 3, 4]
    assert made == [0, 1, 2, 3, 4]
    assert list(ahead(iter(()))) == []


def test_an_error_in_the_other_thread_arrives() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise DatasetError("damaged")

    items = ahead(broken())
    assert next(items) == 1
    with pytest.raises(DatasetError, match="damaged"):
        next(items)


def test_whole_videos() -> None:
    path = Path("v.mp4")
    for announced in (0, -5, 20, 22):
        require_whole(path, 20, announced)
    with pytest.raises(DatasetError, match="announces 23 frames, and decoding ended after 20"):
        require_whole(path, 20, 23)
    with pytest.raises(DatasetError, match=r"'v\.mp4' has no frame that can be decoded"):
        require_whole(path, 0, 0)
