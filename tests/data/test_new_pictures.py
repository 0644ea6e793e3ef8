"""Pictures without labels, prepared as a run's test images are."""

from __future__ import annotations

import copy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from video_files import frames as frames_of
from video_files import write_video

from anomaly_suite import data
from anomaly_suite.data.new_pictures import NewPictures
from anomaly_suite.data.preparation import PicturePreparation
from anomaly_suite.data.transforms import Pipeline
from anomaly_suite.errors import ConfigError, DatasetError, ImageReadError, ShapeError
from anomaly_suite.io.pictures import Picture
from anomaly_suite.io.videos import open_video

RNG = np.random.default_rng(0)


def preparation(size: int | None = 8, channels: int = 3) -> PicturePreparation:
    return PicturePreparation(Pipeline(image_size=size, center_crop=None, steps=()), channels=channels)


def picture(path: Path, height: int = 12, width: int = 10) -> Picture:
    cv2.imwrite(str(path), RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))
    return Picture(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder data set of six pictures, the last two anomalous."""
    for part, count in (("normal", 4), ("abnormal", 2)):
        (tmp_path / part).mkdir()
        for number in range(count):
            picture(tmp_path / part / f"{number}.png", 12 + number)
    return tmp_path


@pytest.mark.parametrize(
    "changes", [{}, {"channels": 1}, {"center_crop": 6}, {"transform": [{"class": "Equalize", "p": 1}]}]
)
def test_new_pictures_are_what_test_images_are(folder: Path, changes: dict) -> None:
    options = {"root": folder, "normal_dir": "normal", "abnormal_dir": "abnormal", "image_size": 8, **changes}
    tested = next(iter(data.Folder(**options).test_dataloader()))
    module = data.Folder(**{**options, "root": folder / "moved away"})  # the data set itself is not read
    pictures = [Picture(Path(path)) for path in tested["image_path"]]
    module.predict_on(NewPictures(pictures, module.preparation()), folder)
    (batch,) = module.predict_dataloader()
    assert torch.equal(batch["image"], tested["image"])
    assert batch["image_path"] == tested["image_path"]
    assert "label" not in batch


def test_new_digits_are_what_test_digits_are(tmp_path: Path) -> None:
    module = data.Digits(image_size=16, normal_class=3)
    tested = module.load().image[:5]
    for number, image in enumerate(tested):
        cv2.imwrite(str(tmp_path / f"{number}.png"), image[0].numpy())
    new = NewPictures([Picture(tmp_path / f"{number}.png") for number in range(5)], module.preparation())
    assert torch.equal(new.batch(list(range(5)))["image"], module._resized(tested).float() / 255)


def test_every_image_module_prepares_pictures(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", 20, 30).path
    for name, options, shape in (
        ("CIFAR10", {}, (3, 32, 32)),
        ("MNIST", {"image_size": 32, "pad": True}, (1, 32, 32)),
        ("FashionMNIST", {}, (1, 28, 28)),
        ("SyntheticTextures", {"image_size": 24}, (3, 24, 24)),
        ("MVTecAD", {"image_size": 16}, (3, 16, 16)),
        ("Cityscapes", {}, (3, 20, 30)),
        ("LostAndFound", {}, (3, 20, 30)),
    ):
        made = getattr(data, name)(**options).preparation()
        assert NewPictures([Picture(path)], made).batch([0])["image"].shape == (1, *shape), name


def test_videos_have_no_pictures() -> None:
    with pytest.raises(ConfigError, match=r"SyntheticVideos gives snippet features of videos.*take no pictures"):
        data.SyntheticVideos().preparation()


def test_unreadable_pictures_are_left_out_or_stop(tmp_path: Path) -> None:
    good, bad, gone = picture(tmp_path / "a.png"), Picture(tmp_path / "b.png"), Picture(tmp_path / "c.png")
    bad.path.write_bytes(b"\x89PNG\r\n\x1a\nnot")
    with pytest.raises(ImageReadError, match=r"b\.png"):
        NewPictures([good, bad], preparation()).batch([0, 1])
    new = NewPictures([good, bad, gone], preparation(), on_error="skip")
    batch = new.batch([0, 1, 2])
    assert (batch["image_path"], batch["image"].shape) == ([good.name], (1, 3, 8, 8))
    assert [path.name in said for path, said in zip((bad.path, gone.path), batch["unreadable"], strict=True)] == [
        True
    ] * 2
    assert set(new.batch([1, 2])) == {"unreadable"}
    module = data.SyntheticTextures(image_size=16, eval_batch_size=2)
    module.predict_on(NewPictures([bad, gone, good, bad], module.preparation(), on_error="skip"), tmp_path)
    first, second = (module.on_after_batch_transfer(batch, 0) for batch in module.predict_dataloader())
    assert first is None
    assert second["image_path"] == [good.name]
    assert len(module.unreadable) == 3
    with pytest.raises(ConfigError, match=r"on_error must be raise or skip; got 'ignore'"):
        NewPictures([], preparation(), on_error="ignore")  # type: ignore[arg-type]


def test_pictures_that_keep_their_sizes_do_not_share_a_batch(tmp_path: Path) -> None:
    new = NewPictures([picture(tmp_path / "a.png", 12), picture(tmp_path / "b.png", 13)], preparation(None))
    with pytest.raises(
        ShapeError, match=r"a\.png' is \(12, 10\) and '.*b\.png' is \(13, 10\).*--data\.eval_batch_size 1"
    ):
        new.batch([0, 1])
    assert new.batch([1])["image"].shape == (1, 3, 13, 10)


def test_frames_in_any_order_and_in_workers(tmp_path: Path) -> None:
    frames = frames_of(5, size=(16, 16))
    clip, other = (write_video(tmp_path / name, frames) for name in ("a.avi", "b.avi"))
    decoded = list(open_video(clip)[1])
    new = NewPictures([Picture(path, number) for path in (clip, other) for number in range(5)], preparation(None))
    for number in (0, 1, 4, 2, 7, 6, 9, 0):
        image = new.batch([number])["image"][0]
        assert (image.permute(1, 2, 0).mul(255).numpy().round() == decoded[number % 5]).all()
    assert torch.equal(copy.copy(new).batch([3])["image"], new.batch([3])["image"])
    with pytest.raises(DatasetError, match=r"a\.avi' ends after 5 frames, and frame 7 was announced"):
        NewPictures([Picture(clip, 7)], preparation(None)).batch([0])
    grey = NewPictures([Picture(clip, 1)], preparation(None, 1)).batch([0])["image"]
    assert grey.shape == (1, 1, 16, 16)
