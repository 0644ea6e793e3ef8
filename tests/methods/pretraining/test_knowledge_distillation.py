from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from anomaly_suite.errors import ConfigError, ShapeError, WeightsError
from anomaly_suite.methods.pretraining.knowledge_distillation import KnowledgeDistillation
from anomaly_suite.nn.distillation import PooledTeacher
from anomaly_suite.nn.encoders import ImageEncoder

Make = Callable[..., Trainer]
TINY: dict[str, Any] = {
    "teacher": "test_resnet", "teacher_weights": None, "teacher_size": 32, "image_size": 16, "width": 4, "lr": 3e-3,
}  # fmt: skip


def images(count: int, *, size: int = 16, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def loader(image: Tensor, *, batch_size: int = 4) -> DataLoader[Any]:
    return DataLoader(TensorDataset(image, torch.zeros(len(image), dtype=torch.long)), batch_size=batch_size)


def make(**options: Any) -> KnowledgeDistillation:
    seed_everything(0, verbose=False)
    return KnowledgeDistillation(**{**TINY, **options})


def fit(trainer: Trainer, image: Tensor, **options: Any) -> KnowledgeDistillation:
    model = make(**options)
    trainer.fit(model, loader(image))
    return model.eval()


def tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def full_state(name: str, *, seed: int) -> dict[str, Tensor]:
    """Tensors of the full timm model, batch-norm statistics included, all of them random."""
    generator = torch.Generator().manual_seed(seed)
    state = timm.create_model(name).state_dict()
    return {
        key: torch.rand(value.shape, generator=generator) if value.is_floating_point() else value
        for key, value in state.items()
    }


class TestTeacher:
    def test_nothing_in_it_changes(self, trainer_in: Make) -> None:
        model = make()
        before, student = tensors(model.teacher), tensors(model.encoder)
        trainer_in(max_epochs=2).fit(model, loader(images(8)))
        assert any("running_mean" in name for name in before)
        for name, value in tensors(model.teacher).items():
            assert torch.equal(value, before[name]), name
        assert all(not torch.equal(value, student[name]) for name, value in tensors(model.encoder).items())
        assert not any(module.training for module in model.train().teacher.encoder.modules())
        assert not model(images(2))[0].isnan().any()


class TestFormulas:
    def test_training_loss_is_the_mean_over_images(self) -> None:
        model, image = make().eval(), images(3)
        model.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
        loss = model.training_step({"image": image}, 0)
        with torch.no_grad():
            student, teacher = model.head(model.encoder(image)), model.teacher(image)
        expected = sum((student[b, d] - teacher[b, d]) ** 2 for b in range(3) for d in range(teacher.shape[1])) / 3
        torch.testing.assert_close(loss, expected)
        loss.backward()
        assert all(p.grad is None for p in model.teacher.parameters())
        assert all(p.grad is not None for part in (model.encoder, model.head) for p in part.parameters())

    def test_a_linear_layer_only_where_widths_differ(self) -> None:
        features = PooledTeacher("test_resnet", size=32).out_features
        assert features % 8 == 0
        assert isinstance(make(width=features // 8).head, nn.Identity)
        head = make(width=4).head
        assert isinstance(head, nn.Linear)
        assert (head.in_features, head.out_features) == (32, features)


class TestPatches:
    def test_the_score_is_the_largest_of_overlapping_patches(self) -> None:
        model, image = make(patch_size=16).eval(), images(2, size=40)
        score, anomaly_map = model(image)
        assert anomaly_map is None
        places = [(row, column) for row in range(0, 25, 8) for column in range(0, 25, 8)]
        alone = torch.stack([model.error(image[:, :, r : r + 16, c : c + 16]) for r, c in places])
        torch.testing.assert_close(score, alone.amax(0), rtol=1e-4, atol=1e-5)
        assert alone.amax(0).gt(alone.amin(0)).all()

    def test_training_draws_patches_and_resumes_with_the_same_ones(self, tmp_path: Path, trainer_in: Make) -> None:
        image, options = images(8, size=24), {"patch_size": 16, "patches_per_image": 2}
        whole = fit(trainer_in(max_epochs=4), image, **options)
        saver = ModelCheckpoint(dirpath=tmp_path, filename="half")
        fit(trainer_in(max_epochs=2, enable_checkpointing=True, callbacks=[saver]), image, **options)
        resumed = make(**options)
        seed_everything(1, verbose=False)
        trainer_in(max_epochs=4).fit(resumed, loader(image), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
        for name, value in tensors(whole.encoder).items():
            assert torch.equal(value, tensors(resumed.encoder)[name]), name

    def test_no_patches(self) -> None:
        with pytest.raises(ConfigError, match="patches_per_image must be at least 1; got 0"):
            make(patch_size=16, patches_per_image=0)


class TestFit:
    def test_the_student_approaches_the_teacher(self, trainer_in: Make) -> None:
        image = images(16)
        before = make().train()
        with torch.no_grad():
            start = before.error(image).mean()
            model = fit(trainer_in(max_epochs=15), image).train()
            assert model.error(image).mean() < 0.2 * start

    def test_one_image_a_batch(self, trainer_in: Make) -> None:
        model = make()
        trainer_in().fit(model, loader(images(2), batch_size=1))
        assert model.eval()(images(1))[0].isfinite().all()

    def test_images_of_another_size_are_refused(self, trainer_in: Make) -> None:
        with pytest.raises(ShapeError, match=r"\(3, 16, 16\); got \(3, 20, 20\)"):
            fit(trainer_in(), images(4, size=20))


class TestHandingOn:
    @pytest.mark.parametrize(
        ("encoder", "options"),
        [("residual", {"width": 4}), ("residual", {"patch_size": 16}), ("test_efficientnet", {})],
    )
    def test_an_image_encoder_takes_the_checkpoint(
        self, encoder: str, options: dict[str, Any], tmp_path: Path, trainer_in: Make
    ) -> None:
        trainer = trainer_in(limit_train_batches=2)
        size = 24 if "patch_size" in options else 16
        model = fit(trainer, images(8, size=size), encoder=encoder, **options)
        trainer.save_checkpoint(tmp_path / "kd.ckpt")
        seed_everything(5, verbose=False)
        taken = ImageEncoder(encoder, image_size=16, width=4).eval()
        image = images(3, seed=1)
        with torch.no_grad():
            assert not torch.allclose(taken(image), model.encoder(image))
            taken.load_weights(str(tmp_path / "kd.ckpt"))
            assert torch.equal(taken(image), model.encoder(image))

    def test_an_encoder_of_another_width_says_so(self, tmp_path: Path, trainer_in: Make) -> None:
        trainer = trainer_in()
        fit(trainer, images(4))
        trainer.save_checkpoint(tmp_path / "kd.ckpt")
        with pytest.raises(WeightsError, match="same encoder, image_size and width"):
            ImageEncoder("residual", image_size=16, width=8).load_weights(str(tmp_path / "kd.ckpt"))

    def test_teacher_weights_arrive_with_the_fit_and_stay_in_the_checkpoint(
        self, tmp_path: Path, trainer_in: Make
    ) -> None:
        file, state = tmp_path / "teacher.pth", full_state("test_resnet", seed=1)
        for name, value in state.items():
            if name.endswith("running_var"):
                state[name] = value.abs() + 1
        torch.save(state, file)
        model = make(teacher_weights=str(file))
        weight = model.teacher.encoder.net.net.get_parameter("conv1.0.weight")
        assert not torch.equal(weight, state["conv1.0.weight"])
        trainer = trainer_in()
        trainer.fit(model, loader(images(4)))
        assert torch.equal(weight, state["conv1.0.weight"])
        trainer.save_checkpoint(tmp_path / "kd.ckpt")
        file.unlink()
        restored = KnowledgeDistillation.load_from_checkpoint(tmp_path / "kd.ckpt", weights_only=True).eval()
        assert torch.equal(restored(images(3))[0], model.eval()(images(3))[0])
        with pytest.raises(WeightsError, match=r"got .*teacher\.pth"):
            trainer_in().fit(make(teacher_weights=str(file)), loader(images(4)))
