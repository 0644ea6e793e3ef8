from __future__ import annotations

import logging
import math

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch.utils.data import DataLoader

from anomaly_suite.callbacks.calibrate import Calibrate
from anomaly_suite.contract import AnomalyModule
from anomaly_suite.data import Digits
from anomaly_suite.errors import ConfigError
from anomaly_suite.methods import ADACL
from anomaly_suite.metrics import f1_max


class MeanScore(AnomalyModule):
    """The score is the mean of the image, the map its first channel."""

    def __init__(self, *, offset=0.0):
        super().__init__()
        self.offset = offset

    def forward(self, image):
        return image.flatten(1).mean(1) + self.offset, image[:, :1] + self.offset

    def training_step(self, batch, batch_idx):
        return None

    def configure_optimizers(self):
        return None


class NoMap(MeanScore):
    def forward(self, image):
        return super().forward(image)[0], None


def images(score, label, masks=None, batch_size=2):
    """A loader of constant 2 x 2 images with these scores."""
    items = [{"image": torch.full((1, 2, 2), float(s)), "label": int(y)} for s, y in zip(score, label, strict=True)]
    for item, mask in zip(items, masks if masks is not None else [], strict=False):
        item["mask"] = mask
    return DataLoader(items, batch_size=batch_size)


def calibrated(loader, trainer_in, module=None, **options):
    module = module or NoMap()
    trainer_in(callbacks=[Calibrate(**options)]).validate(module, loader, verbose=False)
    return module.calibration.record


# The callback --------------------------------------------------------------------------------------------------------


def test_auto_with_both_labels_is_max_f1(trainer_in):
    record = calibrated(images([20, 21, 22, 23, 24], [0, 0, 1, 0, 1]), trainer_in)
    assert record == {
        "image": {
            "threshold": 22.0,
            "low": 20.0,
            "high": 24.0,
            "rule": "max_f1",
            "split": "unknown",
            "normal": 3,
            "anomalous": 2,
            "expected_fpr": 0.25,
        }
    }


def test_auto_with_normals_only_is_a_fit_to_them_and_says_what_to_expect(trainer_in, caplog):
    with caplog.at_level(logging.INFO):
        record = calibrated(images(range(20), [0] * 20), trainer_in)["image"]
    scale = math.sqrt(6 * 35) / math.pi  # (20^2 - 1) / 12 * 20 / 19 is the variance of 0 to 19
    assert record["threshold"] == pytest.approx(9.5 - scale * (0.5772157 + math.log(-math.log(0.9))))
    assert (record["rule"], record["quantile"], record["normal"], record["anomalous"]) == ("gumbel", 0.9, 20, 0)
    assert record["expected_fpr"] == 0.1
    said = "image threshold 17.2178 by gumbel from 20 normal and 0 anomalous images (validation: unknown); expect 10 % of normal images"
    assert [line for line in caplog.messages if said in line] == [f"Calibrate: {said} to be called anomalous."]


def test_a_quantile_asked_for(trainer_in):
    record = calibrated(images(range(20), [0] * 20), trainer_in, rule="quantile", quantile=0.9)["image"]
    assert (record["threshold"], record["expected_fpr"]) == (18, pytest.approx(2 / 21, abs=1e-6))


def test_auto_without_normals_sets_nothing_and_says_why(trainer_in, caplog):
    with caplog.at_level(logging.WARNING):
        assert calibrated(images([1, 2], [1, 1]), trainer_in) == {}
    assert "Validation has no normal images, so no image threshold is set" in caplog.text


@pytest.mark.parametrize(("rule", "threshold"), [("max_f1", 0.5), ("youden", 4.5), ("quantile", 10)])
def test_rule_asked_for(trainer_in, rule, threshold):
    # F1 is 30/41 at 4.5 and 40/50 at 0.5; TPR - FPR is 0.75 - 0.6 and 0; one normal in ten is at 10
    score, label = [*range(1, 11), *[4.5] * 15, *[0.5] * 5], [0] * 10 + [1] * 20
    record = calibrated(images(score, label), trainer_in, rule=rule, quantile=0.9)["image"]
    assert (record["threshold"], record["rule"]) == (threshold, rule)


@pytest.mark.parametrize("rule", ["max_f1", "youden"])
def test_a_rule_that_needs_both_labels_says_so(trainer_in, rule):
    with pytest.raises(ConfigError, match=f"rule {rule} cannot work on 4 normal and 0 anomalous validation images"):
        calibrated(images([1, 2, 3, 4], [0] * 4), trainer_in, rule=rule)
    with pytest.raises(ConfigError, match="0 normal and 4 anomalous"):
        calibrated(images([1, 2, 3, 4], [1] * 4), trainer_in, rule=rule)


def test_fixed_thresholds(trainer_in):
    module = MeanScore()
    record = calibrated(images([1, 2, 3], [0, 1, 0]), trainer_in, module, rule="fixed", image_threshold=1.5)
    assert (record["image"]["threshold"], record["image"]["low"], record["image"]["high"]) == (1.5, 1, 3)
    assert "pixel" not in record
    record = calibrated(images([1, 2, 3], [0, 1, 0]), trainer_in, rule="fixed", pixel_threshold=0.5, module=MeanScore())
    assert record["pixel"]["threshold"] == 0.5
    assert "image" not in record


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantile": 1.0}, r"must lie in \(0, 1\); got 1.0"),
        ({"quantile": 0.0}, r"must lie in \(0, 1\); got 0.0"),
        ({"pixel_quantile": 1.5}, r"got 0.9 and 1.5"),
        ({"rule": "fixed"}, "belong together"),
        ({"rule": "fixed", "pixel_threshold": math.nan}, "pixel_threshold must be a finite number; got nan"),
        ({"image_threshold": 1.0}, "belong together; got rule: auto, image_threshold: 1.0"),
        ({"rule": "max_f1", "pixel_threshold": 0.0}, "belong together"),
    ],
)
def test_options_that_cannot_work(options, message):
    with pytest.raises(ConfigError, match=message):
        Calibrate(**options)


def test_batches_without_labels_calibrate_nothing(trainer_in):
    assert calibrated(DataLoader([torch.rand(1, 2, 2) for _ in range(4)]), trainer_in) == {}


def test_the_sanity_check_is_not_collected(trainer_in):
    class AfterSanity(Callback):
        records = None

        def on_sanity_check_end(self, trainer, pl_module):
            self.records = dict(pl_module.calibration.record)

    after = AfterSanity()
    module = NoMap()
    module.configure_optimizers = lambda: torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
    trainer = trainer_in(callbacks=[Calibrate(), after], num_sanity_val_steps=2)
    loader = images([1, 2, 3, 4, 5, 6], [0, 0, 0, 1, 1, 1])
    trainer.fit(module, loader, loader)
    assert after.records == {}
    assert module.calibration.record["image"]["normal"] == 3
    assert module.calibration.record["image"]["anomalous"] == 3


def test_each_epoch_starts_anew(trainer_in):
    callback, module = Calibrate(), NoMap()
    trainer = trainer_in(callbacks=[callback])
    trainer.validate(module, images([1, 2, 3], [0, 1, 0]), verbose=False)
    trainer.validate(module, images([10, 20], [0, 1]), verbose=False)
    record = module.calibration.record["image"]
    assert (record["normal"], record["anomalous"], record["low"], record["threshold"]) == (1, 1, 10, 20)


# Pixels --------------------------------------------------------------------------------------------------------------


def random_maps(count=12, size=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(count, 1, size, size, generator=generator) + 20
    mask = torch.zeros(count, 1, size, size, dtype=torch.bool)
    mask[count // 2 :, :, 4:9, 5:12] = True
    return image + 2 * mask, mask


def pixel_loader(image, label, mask=None):
    items = [{"image": image[i], "label": int(label[i])} for i in range(len(image))]
    for i, item in enumerate(items if mask is not None else []):
        item["mask"] = mask[i]
    return DataLoader(items, batch_size=5)


def test_pixels_with_masks_agree_with_the_exact_best_f1(trainer_in):
    image, mask = random_maps()
    label = mask.flatten(1).any(1)
    record = calibrated(pixel_loader(image, label, mask), trainer_in, MeanScore())["pixel"]
    best, threshold = f1_max(image, mask)
    decided = image >= record["threshold"]
    reached = 2 * (decided & mask).sum() / (decided.sum() + mask.sum())
    assert record["rule"] == "max_f1"
    assert (record["normal"], record["anomalous"]) == (int((~mask).sum()), int(mask.sum()))
    assert float(reached) == pytest.approx(float(best), abs=1e-4)
    assert record["threshold"] == pytest.approx(float(threshold), rel=1e-3)
    assert record["low"] == pytest.approx(float(image.min()), rel=1e-6)


def test_pixels_without_masks_come_from_normal_images(trainer_in):
    image, mask = random_maps()
    label = mask.flatten(1).any(1)
    record = calibrated(pixel_loader(image, label), trainer_in, MeanScore(), pixel_quantile=0.9)["pixel"]
    normal = image[~label].flatten()
    assert (record["rule"], record["quantile"]) == ("quantile", 0.9)
    assert (record["normal"], record["anomalous"]) == (len(normal), 0)
    flagged = float((normal >= record["threshold"]).float().mean())
    assert 0.1 - 2e-3 < flagged <= 0.1
    assert record["threshold"] == pytest.approx(float(normal.quantile(0.9)), rel=1e-3)


def test_a_rule_for_images_leaves_pixels_without_masks_alone(trainer_in):
    image, mask = random_maps()
    record = calibrated(pixel_loader(image, mask.flatten(1).any(1)), trainer_in, MeanScore(), rule="max_f1")
    assert set(record) == {"image"}


# Videos --------------------------------------------------------------------------------------------------------------


class BestSnippet(MeanScore):
    def predict(self, batch):
        return {"anomaly_score": batch["snippet_features"].flatten(1).amax(1)}


def video_loader(score, label):
    items = [{"snippet_features": torch.tensor([[s], [s - 1]]), "label": y} for s, y in zip(score, label, strict=True)]
    return DataLoader(items, batch_size=2)


def test_videos_are_calibrated_on_their_own_scores_and_the_record_says_so(trainer_in):
    score, label = [0.1, 0.5, 0.4, 0.9, 0.3], [0, 0, 1, 1, 0]
    module = BestSnippet()
    record = calibrated(video_loader(score, label), trainer_in, module)
    assert set(record) == {"image"}
    assert record["image"]["threshold"] == pytest.approx(float(f1_max(torch.tensor(score), torch.tensor(label))[1]))
    assert record["image"]["threshold"] == pytest.approx(0.4)
    assert (record["image"]["normal"], record["image"]["anomalous"]) == (3, 2)
    assert record["image"]["unit"] == "videos"
    assert module.validation_step(next(iter(video_loader(score, label))), 0)["pred_label"].tolist() == [False, True]


def test_complaints_about_videos_call_them_videos(trainer_in, caplog):
    with pytest.raises(ConfigError, match="rule max_f1 cannot work on 2 normal and 0 anomalous validation videos"):
        calibrated(video_loader([1.0, 2.0], [0, 0]), trainer_in, BestSnippet(), rule="max_f1")
    with caplog.at_level(logging.WARNING):
        assert calibrated(video_loader([1.0, 2.0], [1, 1]), trainer_in, BestSnippet()) == {}
    assert "Validation has no normal videos, so no video threshold is set" in caplog.text


# The end of a fit -----------------------------------------------------------------------------------------------------


class Trained(NoMap):
    """Takes steps, which count."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        return self.weight * 0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def warnings_of_a_fit(trainer_in, recwarn, *, validated=True, **options):
    train, val = images([1.0, 2.0, 3.0, 4.0], [0, 0, 0, 0]), images([1.0, 2.0], [0, 1])
    trainer_in(callbacks=[Calibrate()], **options).fit(Trained(), train, val if validated else None)
    return [str(each.message) for each in recwarn if "the fit ends" in str(each.message)]


@pytest.mark.parametrize(
    "options",
    [
        {"validated": False},
        {"limit_val_batches": 0},
        {"max_epochs": 2, "check_val_every_n_epoch": 3},
        {"max_epochs": 2, "val_check_interval": 5, "check_val_every_n_epoch": None},
        {"max_epochs": -1, "max_steps": 1},
    ],
    ids=str,
)
def test_a_fit_without_validation_says_once_that_there_is_no_threshold(options, trainer_in, recwarn):
    steps = options.get("max_steps", 2 * options.get("max_epochs", 1))
    (said,) = warnings_of_a_fit(trainer_in, recwarn, **options)
    assert said == (
        f"the fit ends at step {steps} without a threshold: no validation gave one. Validate after the last step "
        "(check_val_every_n_epoch, val_check_interval), or run calibrate on the checkpoint."
    )


@pytest.mark.parametrize(
    "options", [{"max_epochs": 3, "check_val_every_n_epoch": 2}, {"max_epochs": -1, "max_steps": 5}], ids=str
)
def test_thresholds_of_earlier_weights_are_named(options, trainer_in, recwarn):
    (said,) = warnings_of_a_fit(trainer_in, recwarn, **options)
    last = options.get("max_steps", 6)
    assert said.startswith(f"the thresholds were calibrated at step 4, but the fit ends at step {last}. Validate after")


@pytest.mark.parametrize(
    "options", [{"max_epochs": 2}, {"val_check_interval": 0.5}, {"max_epochs": -1, "max_steps": 4}], ids=str
)
def test_thresholds_of_the_last_weights_need_no_word(options, trainer_in, recwarn):
    assert warnings_of_a_fit(trainer_in, recwarn, **options) == []


def test_a_resumed_fit_knows_the_step_of_its_thresholds(tmp_path, trainer_in, recwarn):
    train, val = images([1.0, 2.0], [0, 0]), images([1.0, 2.0], [0, 1])
    first = trainer_in(callbacks=[Calibrate()])
    first.fit(Trained(), train, val)
    first.save_checkpoint(tmp_path / "one.ckpt")
    second = trainer_in(callbacks=[Calibrate()], max_epochs=2, check_val_every_n_epoch=3)
    second.fit(Trained(), train, val, ckpt_path=tmp_path / "one.ckpt", weights_only=True)
    (said,) = [str(each.message) for each in recwarn if "the fit ends" in str(each.message)]
    assert said.startswith("the thresholds were calibrated at step 1, but the fit ends at step 2.")


# Validations of which something is missing ----------------------------------------------------------------------------


def warned(recwarn, part):
    return [str(each.message) for each in recwarn if part in str(each.message)]


def test_thresholds_of_two_validations_do_not_stand_side_by_side(trainer_in, recwarn):
    image, mask = random_maps()
    label = mask.flatten(1).any(1)
    module, callback = MeanScore(), Calibrate()
    trainer = trainer_in(callbacks=[callback])
    trainer.validate(module, pixel_loader(image, label, mask), verbose=False)
    assert set(module.calibration.record) == {"image", "pixel"}
    trainer.validate(module, pixel_loader(image[label], label[label], mask[label]), verbose=False)
    assert set(module.calibration.record) == set(callback.thresholds) == {"pixel"}
    assert module.calibration.record["pixel"]["anomalous"] == int(mask.sum())
    (said,) = warned(recwarn, "is dropped")
    assert said.startswith(
        "the image threshold of an earlier validation is dropped: this one has no data for it by rule: auto"
    )


def test_a_validation_that_gives_nothing_leaves_all_as_it_was(trainer_in):
    module = NoMap()
    trainer = trainer_in(callbacks=[Calibrate()])
    trainer.validate(module, images([1, 2, 3], [0, 1, 0]), verbose=False)
    before = dict(module.calibration.record)
    trainer.validate(module, images([1, 2], [1, 1]), verbose=False)
    assert module.calibration.record == before


def test_what_an_epoch_lacks_is_said_once(trainer_in, recwarn):
    loader = DataLoader([{"image": torch.rand(1, 2, 2), "defect": 0} for _ in range(4)])
    trainer = trainer_in(callbacks=[Calibrate()])
    for _ in range(2):
        trainer.validate(NoMap(), loader, verbose=False)
    (said,) = warned(recwarn, "Calibrate sets no")
    assert said.startswith(
        "Calibrate sets no image threshold by rule: auto: it needs anomaly_score of the step and label of the batch"
    )
    assert "label was in none. Found anomaly_score" in said
    assert "image, defect in the batch. Rename the key, or give key_map={'label': its name}." in said
    record = calibrated(loader, trainer_in, key_map={"label": "defect"})
    assert record["image"]["normal"] == 4


def test_missing_masks_are_said_where_the_rule_needs_them(trainer_in, recwarn):
    image, mask = random_maps()
    loader = pixel_loader(image, mask.flatten(1).any(1))
    assert set(calibrated(loader, trainer_in, MeanScore(), rule="max_f1")) == {"image"}
    (said,) = warned(recwarn, "Calibrate sets no")
    assert (
        "no pixel threshold by rule: max_f1: it needs anomaly_map of the step and mask of the batch; mask was in none"
        in said
    )


def test_several_loaders_are_one_pool(trainer_in):
    loaders = [images([1, 2, 3], [0, 0, 0]), images([4, 5], [0, 1])]
    record = calibrated(loaders, trainer_in)["image"]
    assert (record["normal"], record["anomalous"], record["loaders"]) == (4, 1, 2)
    assert (record["threshold"], record["low"]) == (5, 1)


class FirstChannel(MeanScore):
    """The map is the image, the score its highest pixel."""

    def forward(self, image):
        return image.flatten(1).amax(1), image[:, :1]


def test_void_pixels_of_scenes_set_no_threshold(trainer_in):
    ood_mask = torch.tensor([[0, 1], [0, 255]], dtype=torch.uint8)
    items = [{"image": torch.tensor([[[0.1 * i, 0.5 + 0.1 * i], [0.2, 9.0]]]), "ood_mask": ood_mask} for i in range(3)]
    items.append({"image": torch.full((1, 2, 2), 8.0), "ood_mask": torch.full((2, 2), 255, dtype=torch.uint8)})
    for item in items:
        item["label"] = int((item["ood_mask"] == 1).any())
    pixel = calibrated(DataLoader(items, batch_size=2), trainer_in, FirstChannel())["pixel"]
    assert (pixel["normal"], pixel["anomalous"], pixel["rule"]) == (6, 3, "max_f1")
    assert (pixel["threshold"], pixel["high"]) == (pytest.approx(0.5), pytest.approx(0.7))


# Fixed thresholds without a validation --------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["test", "predict"])
def test_fixed_thresholds_hold_in_a_stage_alone(trainer_in, stage):
    module = MeanScore()
    module.calibration.set("image", threshold=1.0, low=0.5, high=9.0, rule="max_f1", normal=3)
    module.calibration.set("pixel", threshold=7.0, low=0.0, high=9.0, rule="quantile")
    decided = []

    class Decisions(Callback):
        def on_test_batch_end(self, trainer, pl_module, outputs, *args):
            decided.extend(outputs["pred_label"].tolist())

        on_predict_batch_end = on_test_batch_end

    trainer = trainer_in(callbacks=[Calibrate(rule="fixed", image_threshold=2.5), Decisions()])
    getattr(trainer, stage)(module, images([1, 2, 3], [0, 1, 0]))
    assert decided == [False, False, True]
    assert module.calibration.record == {
        "image": {"threshold": 2.5, "low": 0.5, "high": 9.0, "rule": "fixed"},
        "pixel": {"threshold": 7.0, "low": 0.0, "high": 9.0, "rule": "quantile"},  # None leaves it as it is
    }


def test_fixed_thresholds_keep_what_a_validation_saw(trainer_in):
    module, loader = NoMap(), images([1, 2, 3], [0, 1, 0])
    trainer = trainer_in(callbacks=[Calibrate(rule="fixed", image_threshold=2.5)])
    trainer.validate(module, loader, verbose=False)
    record = dict(module.calibration.record)
    assert (record["image"]["low"], record["image"]["normal"], record["image"]["expected_fpr"]) == (
        1,
        2,
        round(1 / 3, 6),
    )
    trainer.test(module, loader, verbose=False)
    assert module.calibration.record == record


def test_fixed_thresholds_need_no_labels_and_no_validation(trainer_in, recwarn):
    bare = DataLoader([torch.rand(1, 2, 2) for _ in range(4)])
    fixed = {"rule": "fixed", "image_threshold": 0.5}
    assert calibrated(bare, trainer_in, **fixed)["image"]["threshold"] == 0.5
    module = Trained()
    trainer_in(callbacks=[Calibrate(**fixed)]).fit(module, images([1.0, 2.0], [0, 0]))
    assert module.calibration.threshold("image") == 0.5
    assert warned(recwarn, "the fit ends") == warned(recwarn, "Calibrate sets") == []


# Somebody else's module -----------------------------------------------------------------------------------------------


class Foreign(LightningModule):
    """No AnomalyModule; its step returns what it is told to."""

    def __init__(self, returns):
        super().__init__()
        self.returns = returns

    def validation_step(self, batch, batch_idx):
        return self.returns(batch)


def test_a_foreign_module_leaves_its_thresholds_in_the_callback(trainer_in, caplog):
    callback = Calibrate()
    module = Foreign(lambda batch: {"loss": torch.zeros(()), "pred_score": batch["image"].flatten(1).mean(1)})
    with caplog.at_level(logging.INFO):
        trainer_in(callbacks=[callback]).validate(module, images([20, 21, 22, 23, 24], [0, 0, 1, 0, 1]), verbose=False)
    assert callback.thresholds == {"image": 22.0}
    assert "Calibrate: image threshold 22 by max_f1 from 3 normal and 2 anomalous images" in caplog.text
    assert (
        "Foreign is no AnomalyModule, so its predictions carry no decisions: compare scores with Calibrate.thresholds"
        in caplog.text
    )
    again = Calibrate()
    again.load_state_dict(callback.state_dict())
    assert again.thresholds == callback.thresholds
    again.load_state_dict({"step": 3})  # of a former checkpoint
    assert again.thresholds == {}


@pytest.mark.parametrize(
    "batch", [["a text", "another"], {"tokens": torch.zeros(2, 3).long()}, torch.zeros(2, 3).byte()], ids=str
)
def test_a_classifier_of_anything_is_left_alone(trainer_in, recwarn, batch):
    callback = Calibrate()
    loader = DataLoader([batch, batch], batch_size=None)
    trainer_in(callbacks=[callback]).validate(Foreign(lambda _: {"loss": torch.zeros(())}), loader, verbose=False)
    assert callback.thresholds == {}
    (said,) = warned(recwarn, "Calibrate sets no")
    assert "Found loss in what the step returned" in said


# A trained method ----------------------------------------------------------------------------------------------------


def test_weight_averaging_keeps_a_calibration_that_fits_the_saved_weights(tmp_path, trainer_in):
    torch.manual_seed(0)
    data = Digits(normal_class=3, image_size=16, validation="augmented", train_batch_size=64, eval_batch_size=64)
    model = ADACL(widths=(4, 8, 8, 8), hidden=8, lr_max=0.02, half_period=1.0)
    saver = ModelCheckpoint(dirpath=tmp_path, filename="model")
    callbacks = [EMAWeightAveraging(decay=0.7), Calibrate(), saver]
    trainer_in(callbacks=callbacks, enable_checkpointing=True, max_epochs=3).fit(model, data)
    restored = ADACL.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    record = model.calibration.record["image"]
    assert record["split"] == "augmented"
    assert all(math.isfinite(record[name]) for name in ("threshold", "low", "high"))
    assert restored.calibration.record == model.calibration.record
    for each in (model.eval(), restored.eval()):
        batch = next(iter(data.val_dataloader()))
        with torch.no_grad():
            prediction = each.validation_step(batch, 0)
        score, label = prediction["anomaly_score"], batch["label"]
        assert torch.equal(prediction["pred_label"], score >= record["threshold"])
        decided = prediction["pred_label"]
        reached = 2 * (decided & (label == 1)).sum() / (decided.sum() + label.sum())
        assert float(reached) == pytest.approx(float(f1_max(score, label)[0]))  # these weights chose this threshold
        assert float(score.min()) == pytest.approx(record["low"])
