from __future__ import annotations

import itertools
import json
import logging
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image
from torch.utils.data import DataLoader

from anomaly_suite.callbacks.color_scale import ColorScale
from anomaly_suite.callbacks.drawing import GAP
from anomaly_suite.callbacks.heatmaps import HeatmapExport
from anomaly_suite.contract import AnomalyModule
from anomaly_suite.contract.data_module import Listed
from anomaly_suite.errors import ConfigError, NotFiniteError, ShapeError
from anomaly_suite.io.atomic import replacing
from anomaly_suite.io.naming import MirroredNames

SIDE = 128  # the smallest width that is not enlarged
TITLE = round(48 * 0.45)  # height of the strip with the titles


class RedIsOdd(AnomalyModule):
    """The map is the first channel, the score its maximum."""

    def forward(self, image):
        return image[:, 0].flatten(1).amax(1), image[:, :1]

    def training_step(self, batch, batch_idx):
        return None

    def configure_optimizers(self):
        return None


class NoMap(RedIsOdd):
    def forward(self, image):
        return super().forward(image)[0], None


class HalfMap(RedIsOdd):
    def forward(self, image):
        return super().forward(image)[0], image[:, :1, ::2, ::2]


def run(callback, data, trainer_in, *, module=None, stage="test", batch_size=2, **options):
    trainer = trainer_in(callbacks=[callback], **options)
    loader = DataLoader(data, batch_size=batch_size)
    module = module or RedIsOdd()
    if stage == "test":
        trainer.test(module, loader, verbose=False)
    elif stage == "validate":
        trainer.validate(module, loader, verbose=False)
    else:
        trainer.predict(module, loader)


def calibrated(*, threshold=0.5, low=0.0, high=1.0):
    module = RedIsOdd()
    for level in ("image", "pixel"):
        module.calibration.set(level, threshold=threshold, low=low, high=high, rule="fixed")
    return module


def square(side=SIDE):
    """Green 0.4 everywhere; a red square of 0.8 in rows and columns 32 to 63."""
    image = torch.zeros(3, side, side)
    image[1] = 0.4
    image[0, 32:64, 32:64] = 0.8
    return image


def files(folder):
    """Relative names of all files but the lists of what was written."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".jsonl")
    return sorted(path.relative_to(folder).as_posix() for path in found)


def tile(panel, index, side=SIDE):
    left = GAP + index * (side + GAP)
    return panel[TITLE : TITLE + side, left : left + side]


def color(level):
    return cv2.applyColorMap(np.array([[level]], np.uint8), cv2.COLORMAP_VIRIDIS)[0, 0]


def test_panel_shows_image_truth_map_overlay_and_contour(tmp_path, trainer_in):
    mask = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    mask[:, 30:70, 30:70] = True
    data = [{"image": square(), "label": 1, "mask": mask}]
    module = calibrated(threshold=0.7, low=0.0, high=0.9)
    run(HeatmapExport(), data, trainer_in, module=module)
    assert files(tmp_path) == ["heatmaps/test/image_000000.png"]
    panel = cv2.imread(str(tmp_path / "heatmaps/test/image_000000.png"))
    assert panel.shape[0] == TITLE + SIDE + TITLE
    assert panel.shape[1] > GAP + 5 * (SIDE + GAP) + 50  # the bar stands at the right end
    image, truth, anomaly_map, overlay, marked = (tile(panel, index) for index in range(5))

    assert image[10, 10].tolist() == [0, 102, 0]
    assert image[40, 40].tolist() == [0, 102, 204]
    assert truth[30, 69].tolist() == [255, 255, 255]
    assert truth[29, 69].tolist() == [0, 0, 0]
    level = float(module.calibration.normalize(torch.tensor(0.8), "pixel"))
    assert level > 0.5  # the threshold
    inside, outside = color(round(255 * level)), color(0)
    assert anomaly_map[40, 40].tolist() == inside.tolist()
    assert anomaly_map[10, 10].tolist() == outside.tolist()
    np.testing.assert_allclose(overlay[40, 40], (inside / 2 + image[40, 40] / 2), atol=0.51)
    np.testing.assert_allclose(overlay[10, 10], (outside / 2 + image[10, 10] / 2), atol=0.51)
    assert marked[32, 40].tolist() == [0, 0, 255]  # the edge of the square
    assert marked[31, 40].tolist() == [0, 0, 0]  # its dark seam
    np.testing.assert_array_equal(marked[40:56, 40:56], image[40:56, 40:56])
    assert np.unique(panel[:, -GAP:]).tolist() == [255]
    for strip in (panel[:TITLE], panel[-TITLE:]):  # dark words on white, not touching the border
        assert strip.min() < 100
        assert strip[[0, -1]].min() == 255
        assert strip[:, [0, -1]].min() == 255


def test_a_panel_says_which_image_it_is_of_and_where_its_tiles_are(tmp_path, trainer_in):
    images = [square(), square() / 2, square()]
    items = [{"image": image, "label": 1, "image_path": f"/d/{number}<&>ü.png"} for number, image in enumerate(images)]
    run(HeatmapExport(), items, trainer_in, module=calibrated())
    names = sorted((tmp_path / "heatmaps" / "test").rglob("*.png"))
    assert len(names) == 3
    for number, name in enumerate(names):
        said = json.loads(Image.open(name).info["panel"])
        assert (said["index"], said["loader"], said["path"]) == (number, 0, f"/d/{number}<&>ü.png")
        assert list(said["tiles"]) == ["image", "anomaly map", "overlay", "predicted mask"]
        left, top, width, height = said["tiles"]["image"]
        tile = cv2.imread(str(name))[top : top + height, left : left + width, ::-1]
        expected = (images[number].permute(1, 2, 0).numpy() * 255).round()
        assert np.array_equal(tile, expected)
        left, top, width, height = said["tiles"]["predicted mask"]
        outline = cv2.imread(str(name))[top : top + height, left : left + width, ::-1]
        assert (outline == (255, 0, 0)).all(-1).any() == (number != 1)


def test_truth_of_driving_scenes_is_shown_with_what_is_not_scored(tmp_path, trainer_in):
    truth = torch.zeros(SIDE, SIDE, dtype=torch.uint8)
    truth[30:70, 30:70], truth[100:] = 1, 255
    data = [{"image": square(), "ood_mask": truth}, {"image": square(), "ood_mask": truth}]
    run(HeatmapExport(), data, trainer_in)
    panel = cv2.imread(str(tmp_path / "heatmaps/test/image_000001.png"))
    shown = tile(panel, 1)[..., 0]
    np.testing.assert_array_equal(shown, np.choose((truth.numpy() == 255) * 2 + (truth.numpy() == 1), [0, 255, 96]))


def test_without_truth_and_calibration_three_tiles_remain(tmp_path, trainer_in):
    run(HeatmapExport(opacity=0.0, colormap="bone"), [(square(),)], trainer_in)
    panel = cv2.imread(str(tmp_path / "heatmaps/test/image_000000.png"))
    bones = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_BONE)
    shown = tile(panel, 1)
    assert shown[0, 0].tolist() == bones[0, 0].tolist()
    assert shown[40, 40].tolist() in bones[190:, 0].tolist()  # three quarters of the scale or above
    right = panel[TITLE : TITLE + SIDE, GAP + 3 * (SIDE + GAP) :]
    np.testing.assert_array_equal(right[:, 3], bones[np.linspace(255, 0, SIDE).round().astype(int), 0])  # the bar
    np.testing.assert_array_equal(tile(panel, 2), tile(panel, 0))  # opacity 0


def shown_map(path):
    return tile(cv2.imread(str(path)), 1)[5, 5].tolist()


@pytest.mark.parametrize("is_calibrated", [True, False])
def test_one_colour_means_one_score_in_all_panels_of_a_stage(tmp_path, trainer_in, is_calibrated):
    values = (0.2, 0.6, 0.4, 3.0, 0.6, 9.0, 0.2)
    loaders = [DataLoader([(torch.full((3, 8, 8), value),) for value in values], batch_size=2)] * 2
    module = calibrated(threshold=0.5, low=0.1, high=0.5) if is_calibrated else RedIsOdd()
    for stage in ("test", "predict"):
        trainer = trainer_in(callbacks=[HeatmapExport(max_images=7)])
        trainer.test(module, loaders, verbose=False) if stage == "test" else trainer.predict(module, loaders)
        colors = {}
        for loader in range(2):
            for index, value in enumerate(values):
                path = tmp_path / f"heatmaps/{stage}/dataloader_idx_{loader}/image_{index:06d}.png"
                colors.setdefault(value, []).append(shown_map(path))
        ramp = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_VIRIDIS)[:, 0].tolist()
        places = {value: {ramp.index(one) for one in some} for value, some in colors.items()}
        assert all(len(some) == 1 for some in places.values())
        level = {value: max(some) for value, some in places.items()}
        assert level[0.2] < level[0.4] < level[0.6] < level[3.0] < level[9.0]
        assert len(files(tmp_path / "heatmaps" / stage)) == 14  # the count is that of a loader
        scale = ColorScale(module.calibration, calibrated=True) if is_calibrated else ColorScale.spanning(0.2, 0.6)
        expected = (scale(torch.tensor(list(level))) * 255).round().tolist()
        assert list(level.values()) == expected


def test_pixels_that_are_not_scored_do_not_stretch_the_scale(trainer_in):
    image, truth = square(), torch.zeros(SIDE, SIDE, dtype=torch.uint8)
    image[0, :4], truth[:4] = 1e6, 255  # the bonnet of the car
    callback = HeatmapExport()
    run(callback, [{"image": image, "ood_mask": truth}], trainer_in)
    assert [tick.text for tick in callback._scale.ticks()][:3] == ["0", "0.4", "0.8"]


def test_grey_and_standardised_images_are_displayable(tmp_path, trainer_in):
    grey = torch.linspace(-2.0, 3.0, SIDE).expand(1, SIDE, SIDE)
    run(HeatmapExport(), [grey], trainer_in, batch_size=1)
    image = tile(cv2.imread(str(tmp_path / "heatmaps/test/image_000000.png")), 0)
    np.testing.assert_array_equal(image[..., 0], image[..., 2])
    np.testing.assert_array_equal(image[7, :, 1], np.round(np.linspace(0, 255, SIDE)).astype(np.uint8))


def test_small_images_are_enlarged_by_a_whole_factor(tmp_path, trainer_in):
    image = torch.zeros(1, 28, 28)
    image[0, 3, 4] = 1.0
    run(HeatmapExport(), [(image, 0)], trainer_in, batch_size=1)
    shown = tile(cv2.imread(str(tmp_path / "heatmaps/test/image_000000.png")), 0, side=140)
    expected = np.kron((image[0].numpy() * 255).astype(np.uint8), np.ones((5, 5), np.uint8))
    np.testing.assert_array_equal(shown[..., 0], expected)


def test_nan_in_a_map_is_shown_as_the_highest_colour(tmp_path, trainer_in):
    image = square()
    image[0, 0, 0] = float("nan")
    run(HeatmapExport(), [image], trainer_in, batch_size=1)
    shown = tile(cv2.imread(str(tmp_path / "heatmaps/test/image_000000.png")), 1)
    assert shown[0, 0].tolist() == color(255).tolist()
    assert shown[40, 40].tolist() == color(191).tolist()  # the largest that is finite


def test_raw_16_bit_restores_the_map(tmp_path, trainer_in):
    image = torch.rand(3, 40, 50, generator=torch.Generator().manual_seed(0)) * 7 - 3
    run(HeatmapExport(panel=False, raw="png16"), [image], trainer_in, batch_size=1)
    folder = tmp_path / "heatmaps/test_raw"
    assert files(tmp_path / "heatmaps") == ["test_raw/image_000000.json", "test_raw/image_000000.png"]
    stored = cv2.imread(str(folder / "image_000000.png"), cv2.IMREAD_UNCHANGED)
    assert stored.dtype == np.uint16
    assert (stored.min(), stored.max()) == (0, 65535)
    scale = json.loads((folder / "image_000000.json").read_text())
    assert (scale["low"], scale["high"]) == (image[0].min().item(), image[0].max().item())
    restored = scale["low"] + stored / 65535 * (scale["high"] - scale["low"])
    assert np.abs(restored - image[0].numpy()).max() <= (scale["high"] - scale["low"]) / 65535


def test_raw_16_bit_of_a_constant_map(tmp_path, trainer_in):
    run(HeatmapExport(panel=False, raw="png16"), [torch.full((3, 8, 8), 0.3)], trainer_in, batch_size=1)
    folder = tmp_path / "heatmaps/test_raw"
    assert cv2.imread(str(folder / "image_000000.png"), cv2.IMREAD_UNCHANGED).max() == 0
    assert json.loads((folder / "image_000000.json").read_text())["low"] == pytest.approx(0.3)


def test_raw_npy_is_exact_and_keeps_nan(tmp_path, trainer_in):
    image = square()
    image[0, 3, 3] = float("nan")
    run(HeatmapExport(panel=False, raw="npy"), [image], trainer_in, batch_size=1)
    stored = np.load(tmp_path / "heatmaps/test_raw/image_000000.npy", allow_pickle=False)
    assert stored.dtype == np.float32
    np.testing.assert_array_equal(stored, image[0].numpy())


def test_raw_16_bit_refuses_nan(tmp_path, trainer_in):
    image = square()
    image[0, 3, 3] = float("nan")
    with pytest.raises(NotFiniteError, match="Use raw: npy"):
        run(HeatmapExport(panel=False, raw="png16"), [image], trainer_in, batch_size=1)
    assert files(tmp_path) == []


def test_names_mirror_the_input_tree_and_never_coincide(tmp_path, trainer_in):
    paths = [
        "/data/a/test/bad/000.png",
        "/data/a/test/bad/000.jpg",  # another suffix
        "/data/a/test/bad/000.PNG",
        "/data/a/test/BAD/000.png",  # the same on a case-insensitive file system
        "/data/b/test/bad/000.png",  # the same last three components
        "/data/a/test/bad/000-2.png",
        "/data/a/test/good/000.png",
        "loose.png",
        "../../up.png",
    ]
    data = [{"image": torch.full((3, 8, 8), index / 10), "image_path": path} for index, path in enumerate(paths)]
    run(HeatmapExport(), data, trainer_in)
    written = files(tmp_path / "heatmaps/test")
    assert written == sorted(
        [
            "test/bad/000.png",
            "test/bad/000-2.png",
            "test/bad/000-3.png",
            "test/BAD/000-4.png",
            "test/bad/000-5.png",
            "test/bad/000-2-2.png",
            "test/good/000.png",
            "loose.png",
            "up.png",
        ]
    )
    assert len({name.casefold() for name in written}) == len(paths)
    assert files(tmp_path) == [f"heatmaps/test/{name}" for name in written]  # nothing outside, nothing temporary
    for name, grey in (("test/bad/000.png", 0), ("test/bad/000-5.png", 102), ("test/bad/000-2-2.png", 128)):
        panel = cv2.imread(str(tmp_path / "heatmaps/test" / name))
        assert tile(panel, 0)[3, 3].tolist() == [grey] * 3


def test_names_lie_below_the_root_of_the_data_module(tmp_path, trainer_in):
    class Data(LightningDataModule):
        root = str(tmp_path / "data")

        def test_dataloader(self):
            path = f"{self.root}/bottle/test/deep/er/000.png"
            return DataLoader([{"image": square(), "image_path": path}])

    trainer = trainer_in(callbacks=[HeatmapExport(folder=str(tmp_path / "out"))])
    trainer.test(RedIsOdd(), datamodule=Data(), verbose=False)
    assert files(tmp_path) == ["out/test/bottle/test/deep/er/000.png"]


def test_processes_do_not_take_each_others_names():
    pieces = [["/d/x/1/2/3.png", "/d/x/1/2/a.png", ""], ["/d/y/1/2/3.png", "/d/x/1/2/a.jpg", None]]
    names = []
    for rank, paths in enumerate(pieces):
        namer = MirroredNames(rank=rank, world=2)
        names.append([namer.next(path).as_posix() for path in paths])
    assert [share[2] for share in names] == ["image_000004.png", "image_000005.png"]
    assert len(set(itertools.chain(*names))) == 6
    assert all(name.startswith("1/2/") for share in names for name in share[:2])
    again = MirroredNames(rank=1, world=2)
    assert again.next("/d/x/1/2/3.png").as_posix() == names[0][0]  # a function of the path, not of the process


def test_stages_keep_their_own_files_and_limits(tmp_path, trainer_in):
    callback = HeatmapExport(max_images=3)
    data = [{"image": square(), "image_path": f"/d/t/g/{index}.png"} for index in range(5)]
    run(callback, data, trainer_in)
    run(callback, data, trainer_in, stage="predict")
    assert files(tmp_path / "heatmaps") == [f"{stage}/t/g/{i}.png" for stage in ("predict", "test") for i in range(3)]
    run(HeatmapExport(max_images=None, folder=str(tmp_path / "all")), data, trainer_in)
    assert len(files(tmp_path / "all")) == 5


@pytest.mark.parametrize("batch_size", [1, 4, 30])
def test_few_panels_show_every_label_and_defect(batch_size, tmp_path, trainer_in):
    """Sorted data would otherwise show the first kind alone."""
    kinds = ["good"] * 12 + ["hole"] * 6 + ["crack"] * 1
    paths = [f"/d/{kind}/{number:02d}.png" for number, kind in enumerate(kinds)]
    items = [
        {"image": square(16), "image_path": path, "label": int(kind != "good")}
        for path, kind in zip(paths, kinds, strict=True)
    ]
    listed = [Listed(path, 1, defect_type=kind) for path, kind in zip(paths, kinds, strict=True) if kind != "good"]
    data = LightningDataModule()
    data.test_dataloader = lambda: DataLoader(items, batch_size=batch_size)
    data.splits = SimpleNamespace(test=SimpleNamespace(listed=lambda: iter(listed)))
    trainer = trainer_in(callbacks=[HeatmapExport(max_images=7, raw="png16")])
    trainer.test(RedIsOdd(), datamodule=data, verbose=False)
    names = ["crack/18.png", *(f"good/{n:02d}.png" for n in range(3)), *(f"hole/{n}.png" for n in range(12, 15))]
    assert files(tmp_path / "heatmaps" / "test") == [f"d/{name}" for name in names]
    assert len(files(tmp_path / "heatmaps" / "test_raw")) == 14  # with their scales
    assert not (tmp_path / "heatmaps" / "test" / "d" / "good" / "03.png").exists()


def test_pictures_without_labels_are_shown_by_decision_and_keep_their_numbers(tmp_path, trainer_in):
    dark, red = torch.zeros(3, 16, 16), torch.ones(3, 16, 16)
    run(HeatmapExport(max_images=4), [(dark,)] * 6 + [(red,)] * 3, trainer_in, module=calibrated(), stage="predict")
    assert files(tmp_path / "heatmaps" / "predict") == [f"image_{number:06d}.png" for number in (0, 1, 6, 7)]


def test_a_method_without_map_writes_nothing_and_says_so_once(tmp_path, trainer_in, caplog):
    with caplog.at_level(logging.INFO):
        run(HeatmapExport(raw="npy"), [square()] * 5, trainer_in, module=NoMap())
    assert files(tmp_path) == []
    assert [record.message for record in caplog.records].count(
        "HeatmapExport writes nothing: the method gives no anomaly_map for its images."
    ) == 1


def test_tensorboard_shows_the_first_panels(tmp_path, trainer_in):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logger = TensorBoardLogger(tmp_path, name="run", version=0)
    callback = HeatmapExport(log_images=3, max_images=1)
    run(callback, [square()] * 5, trainer_in, logger=logger, stage="validate")
    run(callback, [square()] * 5, trainer_in, logger=logger)
    logger.experiment.flush()
    events = accumulator.EventAccumulator(logger.log_dir)
    events.Reload()
    tags = [f"{stage}/heatmap_{index}" for stage in ("test", "val") for index in range(3)]
    assert sorted(events.Tags()["images"]) == tags
    shown = cv2.imdecode(np.frombuffer(events.Images("test/heatmap_0")[0].encoded_image_string, np.uint8), 1)
    (written,) = Path(logger.log_dir).rglob("heatmaps/test/*.png")  # in the logger's own folder
    np.testing.assert_array_equal(shown, cv2.imread(str(written)))


def test_other_loggers_are_left_alone(tmp_path, trainer_in, recwarn):
    run(HeatmapExport(), [square()] * 2, trainer_in, logger=CSVLogger(tmp_path, name="run", version=0))
    pictures = [name for name in files(tmp_path) if name.endswith(".png")]
    assert pictures == [f"run/version_0/heatmaps/test/image_{index:06d}.png" for index in range(2)]
    assert not [warning for warning in recwarn if "exists and is not empty" in str(warning.message)]


def test_errors_say_what_to_do(tmp_path, trainer_in):
    with pytest.raises(ConfigError, match=r"got 'turboo'. Did you mean 'turbo'\?"):
        HeatmapExport(colormap="turboo")
    with pytest.raises(ConfigError, match=r"opacity must lie in \[0, 1\]; got 1.01"):
        HeatmapExport(opacity=1.01)
    with pytest.raises(ConfigError, match="max_images must be at least 0; got -1"):
        HeatmapExport(max_images=-1)
    with pytest.raises(ShapeError, match=r"must have shape \(1, 1, 128, 128\)"):
        run(HeatmapExport(), [square()], trainer_in, module=HalfMap())
    assert files(tmp_path) == []


def test_matplotlib_colours(tmp_path, trainer_in):
    run(HeatmapExport(colormap="PuOr"), [(square(), 0)], trainer_in)
    shown = tile(cv2.imread(str(tmp_path / "heatmaps/test/image_000000.png")), 1)
    assert shown[40, 40].tolist() == [191, 143, 153]  # three quarters through PuOr
    assert shown[0, 0].tolist() == [8, 59, 127]  # the first, #7f3b08


def test_replacing_leaves_the_old_file_and_nothing_else_when_it_fails(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with replacing(path) as temporary:
        temporary.write_text("old")

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert files(tmp_path) == ["new/a.txt"]
    assert path.read_text() == "old"
