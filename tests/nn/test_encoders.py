from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from anomaly_suite.errors import ConfigError, ShapeError, WeightsError
from anomaly_suite.methods import IGD, DeepSVDD, FAnoGAN, MSSSIMAutoencoder, PaDiM, StudentTeacher
from anomaly_suite.nn.backbones import FeatureExtractor
from anomaly_suite.nn.encoders import STANDARDIZED_RANGE, ImageEncoder, destandardize, load_backbone, standardize

RESIDUAL, TIMM = "residual", "resnet10t"


def build(name: str = RESIDUAL, *, size: int = 16, width: int = 4, seed: int = 0) -> ImageEncoder:
    torch.manual_seed(seed)
    return ImageEncoder(name, image_size=size, width=width).eval()


def tensors(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def save_checkpoint(path: Path, encoder: ImageEncoder) -> str:
    """What a pre-training with other parts leaves behind."""
    state = {f"encoder.{key}": value for key, value in encoder.state_dict().items()}
    others = {"head.weight": torch.zeros(2, 2), "teacher.net.conv1.weight": torch.zeros(1)}
    torch.save({"state_dict": others | state, "epoch": 3}, path)
    return str(path)


class TestOutput:
    @pytest.mark.parametrize(("width", "size"), [(4, 16), (8, 32)])
    def test_residual(self, width: int, size: int) -> None:
        encoder, image = build(width=width, size=size), torch.rand(2, 3, size, size)
        code = encoder(image)
        assert code.shape == (2, encoder.out_features) == (2, 8 * width)
        torch.testing.assert_close(code, encoder.net(standardize(image)))

    def test_two_sides(self) -> None:
        encoder = ImageEncoder(RESIDUAL, image_size=(16, 32), width=2).eval()
        assert encoder(torch.rand(1, 3, 16, 32)).shape == (1, 16)

    def test_a_timm_network_averages_its_last_map(self) -> None:
        encoder, image = build(TIMM), torch.rand(2, 3, 64, 96)
        whole = timm.create_model(TIMM, num_classes=0).eval()
        whole.load_state_dict(encoder.net.net.state_dict())
        assert encoder.out_features == 512
        with torch.no_grad():
            torch.testing.assert_close(encoder(image), whole(standardize(image)), rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize("name", [RESIDUAL, TIMM])
    def test_grey_equals_repeated_grey(self, name: str) -> None:
        encoder, grey = build(name, size=32), torch.rand(2, 1, 32, 32)
        with torch.no_grad():
            assert torch.equal(encoder(grey), encoder(grey.repeat(1, 3, 1, 1)))

    @pytest.mark.parametrize("name", [RESIDUAL, TIMM])
    @pytest.mark.parametrize("channels", [2, 4])
    def test_other_channels_are_refused(self, name: str, channels: int) -> None:
        with pytest.raises(ShapeError, match=rf"1 or 3 channels; got \(1, {channels}, 16, 16\)"):
            build(name)(torch.rand(1, channels, 16, 16))

    def test_an_unknown_network(self) -> None:
        with pytest.raises(ConfigError, match="Did you mean 'resnet18'"):
            ImageEncoder("resnett18", image_size=32)


class TestFreezing:
    @pytest.mark.parametrize("name", [RESIDUAL, TIMM])
    def test_weights_and_statistics_stay_in_every_mode(self, name: str) -> None:
        encoder, image = build(name, size=32), torch.rand(4, 3, 32, 32)
        encoder.freeze()
        before, code = tensors(encoder), encoder(image)
        parent = nn.Sequential(encoder, nn.Linear(encoder.out_features, 1)).train()
        optimizer = torch.optim.SGD([p for p in parent.parameters() if p.requires_grad], lr=0.1)
        for _ in range(2):
            parent(image).square().mean().backward()
            optimizer.step()
        assert len(optimizer.param_groups[0]["params"]) == 2
        assert parent.training
        assert not any(module.training for module in encoder.modules())
        assert all(weight.grad is None for weight in encoder.parameters())
        assert_same(tensors(encoder), before)
        assert torch.equal(encoder(image), code)

    @pytest.mark.parametrize("name", [RESIDUAL, TIMM])
    def test_unfrozen_they_change(self, name: str) -> None:
        encoder = build(name, size=32)
        before = tensors(encoder)
        encoder.train()(torch.rand(4, 3, 32, 32)).square().mean().backward()
        assert all(weight.grad is not None for weight in encoder.parameters())
        changed = [key for key, value in tensors(encoder).items() if not torch.equal(value, before[key])]
        assert any(key.endswith("running_mean") for key in changed)

    def test_frozen_encoders_still_load(self, tmp_path: Path) -> None:
        path = save_checkpoint(tmp_path / "a.ckpt", build(seed=1))
        encoder = build()
        encoder.freeze()
        encoder.load_weights(path)
        assert_same(tensors(encoder), tensors(build(seed=1)))


class TestWeights:
    @pytest.mark.parametrize("name", [RESIDUAL, TIMM])
    def test_none_keeps_the_random_ones(self, name: str) -> None:
        encoder = build(name)
        encoder.load_weights(None)
        assert_same(tensors(encoder), tensors(build(name)))

    @pytest.mark.parametrize("name", [RESIDUAL, TIMM])
    def test_a_checkpoint_of_a_pretraining(self, name: str, tmp_path: Path) -> None:
        donor = build(name, size=32, seed=1)
        donor.train()(torch.rand(4, 3, 32, 32))  # statistics are carried over too
        encoder = build(name, size=32)
        encoder.load_weights(save_checkpoint(tmp_path / "a.ckpt", donor))
        assert_same(tensors(encoder), tensors(donor))
        image = torch.rand(1, 3, 32, 32)
        assert torch.equal(encoder(image), donor.eval()(image))

    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    def test_a_file_of_a_timm_network(self, suffix: str, tmp_path: Path) -> None:
        torch.manual_seed(3)
        whole = timm.create_model(TIMM)
        path = str(tmp_path / f"a{suffix}")
        save_file(whole.state_dict(), path) if suffix == ".safetensors" else torch.save(whole.state_dict(), path)
        encoder = build(TIMM)
        encoder.load_weights(path)
        state = whole.state_dict()
        assert_same(tensors(encoder), {f"net.net.{key}": v for key, v in state.items() if not key.startswith("fc.")})

    def test_imagenet_weights_come_through_timm(self, monkeypatch: pytest.MonkeyPatch) -> None:
        encoder, donor = build(TIMM), build(TIMM, seed=2)
        asked: list[Any] = []

        def create_model(name: str, **options: Any) -> Any:
            asked.append((name, options["pretrained"]))
            return donor.net.net

        monkeypatch.setattr(timm, "create_model", create_model)
        encoder.load_weights("imagenet")
        assert asked == [(TIMM, True)]
        assert_same(tensors(encoder), tensors(donor))

    def test_the_residual_encoder_has_no_imagenet_weights(self) -> None:
        with pytest.raises(
            WeightsError, match=r"from a checkpoint with an encoder; got 'imagenet'.*or set encoder_weights to null"
        ):
            build().load_weights("imagenet")

    def test_a_file_without_an_encoder(self, tmp_path: Path) -> None:
        torch.save(timm.create_model(TIMM).state_dict(), tmp_path / "a.pth")
        with pytest.raises(WeightsError, match=r"a\.pth', which has none\. Pre-train one"):
            build().load_weights(str(tmp_path / "a.pth"))

    @pytest.mark.parametrize("name", [RESIDUAL, TIMM])
    def test_a_missing_file(self, name: str) -> None:
        with pytest.raises(WeightsError, match=r"existing file or the folder of a run; got 'no/such\.ckpt'"):
            build(name).load_weights("no/such.ckpt")

    def test_the_folder_of_a_run_gives_its_newest_checkpoint(self, tmp_path: Path) -> None:
        donor, encoder = build(), build()
        with pytest.raises(WeightsError, match=r"no run \(a folder with config\.yaml\)"):
            encoder.load_weights(str(tmp_path))
        version = tmp_path / "lightning_logs" / "version_3"
        (version / "checkpoints").mkdir(parents=True)
        (version / "config.yaml").touch()
        with pytest.raises(WeightsError, match=r"no checkpoint in .*version_3"):
            encoder.load_weights(str(tmp_path))
        save_checkpoint(version / "checkpoints" / "model.ckpt", donor)
        encoder.load_weights(str(tmp_path))
        assert_same(tensors(encoder), tensors(donor))

    @pytest.mark.parametrize("name", [RESIDUAL, TIMM])
    def test_a_pickled_module_is_not_executed(self, name: str, tmp_path: Path) -> None:
        torch.save(build(), tmp_path / "a.pth")
        with pytest.raises(WeightsError, match=r"a\.pth must hold plain tensors"):
            build(name).load_weights(str(tmp_path / "a.pth"))

    def test_an_encoder_of_another_width(self, tmp_path: Path) -> None:
        path = save_checkpoint(tmp_path / "a.ckpt", build(width=8))
        encoder = build()
        with pytest.raises(
            WeightsError,
            match=r"net\.trunk\.0\.weight is \(8, 3, 3, 3\) there and \(4, 3, 3, 3\) here.*image_size and width",
        ):
            encoder.load_weights(path)
        assert_same(tensors(encoder), tensors(build()))

    def test_an_encoder_of_another_size(self, tmp_path: Path) -> None:
        path = save_checkpoint(tmp_path / "a.ckpt", build(size=32))
        with pytest.raises(WeightsError, match="must be built like the one it is loaded into"):
            build(size=16).load_weights(path)

    @pytest.mark.parametrize(("name", "other"), [(RESIDUAL, TIMM), (TIMM, RESIDUAL), ("resnet18", TIMM)])
    def test_an_encoder_of_another_kind(self, name: str, other: str, tmp_path: Path) -> None:
        path = save_checkpoint(tmp_path / "a.ckpt", build(other))
        with pytest.raises(WeightsError, match=r"is missing there.*Use the same encoder"):
            build(name).load_weights(path)

    def test_a_checkpoint_that_lost_a_tensor(self, tmp_path: Path) -> None:
        state = {f"encoder.{key}": value for key, value in build().state_dict().items()}
        del state["encoder.net.head.bias"]
        torch.save({"state_dict": state}, tmp_path / "a.ckpt")
        with pytest.raises(WeightsError, match=r"net\.head\.bias is missing there and \(32,\) here"):
            build().load_weights(str(tmp_path / "a.ckpt"))


class TestStandardizing:
    def test_by_hand(self) -> None:
        image = torch.stack([torch.zeros(3, 2, 2), torch.ones(3, 2, 2), torch.full((3, 2, 2), 0.485)])
        out = standardize(image)
        torch.testing.assert_close(out[0, 0, 0, 0].item(), -0.485 / 0.229)
        torch.testing.assert_close(out[1, 2, 0, 0].item(), (1 - 0.406) / 0.225)
        torch.testing.assert_close(out[2, 0], torch.zeros(2, 2), rtol=0, atol=1e-6)
        assert out.min().item() == pytest.approx(-2.118, abs=5e-4)
        assert out.max().item() == pytest.approx(2.640, abs=5e-4)
        assert (out.max() - out.min()).item() == pytest.approx(STANDARDIZED_RANGE, abs=1e-4)

    def test_destandardize_is_the_inverse(self) -> None:
        image = torch.rand(2, 3, 5, 4)
        torch.testing.assert_close(destandardize(standardize(image)), image)
        torch.testing.assert_close(standardize(destandardize(image)), image)

    def test_grey_is_repeated(self) -> None:
        grey = torch.rand(2, 1, 5, 4)
        assert torch.equal(standardize(grey), standardize(grey.repeat(1, 3, 1, 1)))
        torch.testing.assert_close(destandardize(standardize(grey)), grey.repeat(1, 3, 1, 1))


@pytest.mark.parametrize("name", ["residual", "resnet18"])
def test_a_single_training_image_leaves_the_statistics(name: str) -> None:
    encoder = ImageEncoder(name, image_size=32, width=4).train()
    before = {key: value.clone() for key, value in encoder.named_buffers()}
    encoder(
        torch.rand(1, 1, 32, 32)
    ).sum().backward()  # at 32 pixels resnet18 ends with one cell, where torch refuses it
    assert all(torch.equal(value, before[key]) for key, value in encoder.named_buffers())
    encoder(torch.rand(2, 1, 32, 32))
    assert any(not torch.equal(value, before[key]) for key, value in encoder.named_buffers())


class TestHandOver:
    """What detectors take of a pre-training by ``encoder_weights``."""

    @staticmethod
    def detectors(weights: str, net: str = "test_resnet") -> dict[str, tuple[Any, str]]:
        """Each detector, and where it keeps the network; the option is the same in all."""
        size: dict[str, Any] = {"image_size": 32, "width": 2, "latent_dim": 4}
        return {
            "PaDiM": (partial(PaDiM, backbone=net, layers=[0, 1], weights=None, num_channels=4), "backbone.net."),
            "DeepSVDD": (partial(DeepSVDD, backbone=net, in_channels=3, **size), "encoder.net.net."),
            "StudentTeacher": (
                partial(StudentTeacher, teacher=net, patch_sizes=(17,), num_students=1, width=2, teacher_size=32),
                "pretrained.encoder.net.net.",
            ),
            "IGD": (partial(IGD, encoder=net, **size), "encoder.net.net."),
            "MSSSIMAutoencoder": (partial(MSSSIMAutoencoder, encoder=net, **size), "encoder.net.net."),
            "FAnoGAN": (partial(FAnoGAN, encoder=net, image_size=32, width=2), "encoder.net.net."),
        }

    @pytest.mark.parametrize("name", ["PaDiM", "DeepSVDD", "StudentTeacher", "IGD", "MSSSIMAutoencoder", "FAnoGAN"])
    def test_each_detector_starts_from_the_encoder(self, name: str, tmp_path: Path) -> None:
        donor = build("test_resnet", seed=1)
        path = save_checkpoint(tmp_path / "a.ckpt", donor)
        make, inside = self.detectors(path)[name]
        model = make(encoder_weights=path)
        assert model.hparams["encoder_weights"] == path
        model.load_pretrained()
        given = donor.net.net.state_dict()
        taken = {key.rpartition(inside)[2]: value for key, value in model.state_dict().items() if inside in key}
        assert len(taken) > 10
        assert all(torch.equal(value, given[key]) for key, value in taken.items())

        other = make(encoder_weights=save_checkpoint(tmp_path / "b.ckpt", build(width=2)))
        with pytest.raises(WeightsError, match=r"encoder_weights.*b\.ckpt"):
            other.load_pretrained()

    def test_options_that_cannot_take_an_encoder(self) -> None:
        with pytest.raises(ConfigError, match="encoder_weights need the backbone of a pre-training"):
            DeepSVDD(encoder_weights="runs/a")
        with pytest.raises(ConfigError, match="encoder_weights are distilled in the first phase"):
            StudentTeacher(teacher_epochs=0, encoder_weights="runs/a")


class TestWhatDoesNotFit:
    """Networks that have all the tensors of another, and more; weights that are no numbers."""

    def run_of(self, folder: Path, encoder: ImageEncoder, name: str) -> str:
        state = {f"encoder.{key}": value for key, value in encoder.state_dict().items()}
        torch.save({"state_dict": state, "hyper_parameters": {"encoder": name}}, folder / "a.ckpt")
        return str(folder / "a.ckpt")

    def test_a_deeper_network_is_another_one(self, tmp_path: Path) -> None:
        deeper = self.run_of(tmp_path, build("resnet34"), "resnet34")
        with pytest.raises(
            WeightsError, match=r"net\.net\.layer1\.2\.conv1\.weight is \(64, 64, 3, 3\) there and missing here"
        ):
            build("resnet18").load_weights(deeper)
        backbone = FeatureExtractor("resnet18", layers=[1, 2])
        with pytest.raises(
            WeightsError, match=r"whose encoder is resnet18, or its run; got '.*a\.ckpt', where it is resnet34\. Use"
        ):
            load_backbone(backbone, None, deeper)
        same = build("resnet18", seed=1)
        load_backbone(
            backbone, None, self.run_of(tmp_path, same, "resnet18.tv_in1k")
        )  # the tag of weights is no network
        assert torch.equal(
            backbone.net.state_dict()["layer2.0.conv1.weight"], same.net.net.state_dict()["layer2.0.conv1.weight"]
        )

    def test_a_residual_encoder_of_larger_images_is_another_one(self, tmp_path: Path) -> None:
        larger = save_checkpoint(tmp_path / "a.ckpt", build(size=64))
        with pytest.raises(
            WeightsError, match=r"net\.trunk\.\d\..* there and missing here\. Use the same encoder, image_size"
        ):
            build(size=32).load_weights(larger)

    @pytest.mark.parametrize("name", [RESIDUAL, TIMM])
    def test_weights_that_are_no_numbers(self, name: str, tmp_path: Path) -> None:
        donor = build(name)
        next(iter(donor.parameters())).data[0] = torch.nan
        path = save_checkpoint(tmp_path / "a.ckpt", donor)
        with pytest.raises(
            WeightsError, match=r"must hold finite numbers; .*weight does not\. Its training has diverged"
        ):
            build(name).load_weights(path)
        if name == TIMM:
            with pytest.raises(WeightsError, match=r"encoder_weights: .* must hold finite numbers"):
                load_backbone(FeatureExtractor(TIMM, layers=[1]), None, path)
