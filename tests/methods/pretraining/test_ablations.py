"""Every row of the papers' ablations has a sample configuration that takes a step, and rows differ as the papers say."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import anomaly_suite.methods
from anomaly_suite.cli.samples import read_stack, samples_folder

ROWS = {  # sample configurations below pretraining/, *_hyper_kvasir*, by table and row; losses that each has
    "table 4.1": {
        "sim_clr": "contrast",
        "ccd_ablation_con": "contrast",
        "ccd": "contrast augmentation",
        "ccd_ablation_cla": "contrast augmentation",
        "ccd_patches": "contrast augmentation position",
    },
    "table 5.8": {
        "pmsacl_ablation_con": "contrast",
        "pmsacl_ablation_ctr": "contrast center",
        "pmsacl_ablation_kappa": "contrast center",
        "pmsacl": "contrast center augmentation",
        "pmsacl_ablation_aug": "contrast center augmentation",
        "pmsacl_patches": "contrast center augmentation position",
    },
    "table 5.9": {
        "sim_clr": "contrast",
        "rot_net": "augmentation",
        "csi": "contrast augmentation",
        "droc": "contrast",
        "sup_con": "contrast",
        "ccd": "contrast augmentation",
        "pmsacl": "contrast center augmentation",
    },
    "MSACL, table 3": {
        "ccd": "contrast augmentation",
        "ccd_medmix": "contrast augmentation",
        "pmsacl_msacl": "contrast center augmentation",
        "pmsacl": "contrast center augmentation",
    },
    "figure 5.7": dict.fromkeys(
        ("pmsacl", *(f"pmsacl_{kind}" for kind in ("cutmix", "cutout", "noise", "permutation", "rotation"))),
        "contrast center augmentation",
    ),
    "figure 5.8": dict.fromkeys(
        ("pmsacl", *(f"pmsacl_classes{number}" for number in (2, 3, 5, 6))), "contrast center augmentation"
    ),
    "variants of the objectives": {
        "ccd_paper": "contrast augmentation",
        "ccd_released": "contrast augmentation",
        "ccd_rotation": "contrast augmentation",
        "pmsacl_literal": "contrast center augmentation",
        "pmsacl_warmup": "augmentation",
    },
}
LOSSES = {name: losses for rows in ROWS.values() for name, losses in rows.items()}
METHODS = ("ccd", "csi", "droc", "pmsacl", "rot_net", "sim_clr", "sup_con")


def content(name: str) -> dict[str, Any]:
    method = next(method for method in METHODS if name.startswith(method))
    return read_stack(samples_folder() / f"pretraining/{method}_hyper_kvasir{name.removeprefix(method)}.yaml")


def test_no_row_is_missing_and_no_file_is_no_row() -> None:
    files = {
        file.stem.replace("_hyper_kvasir", "") for file in samples_folder().glob("pretraining/*_hyper_kvasir*.yaml")
    }
    assert files == set(LOSSES)
    options = [str({**content(name)["model"], **content(name)["trainer"], "default_root_dir": ""}) for name in LOSSES]
    assert len(set(options)) == len(LOSSES)
    assert all(content(name)["data"]["class_path"] == "HyperKvasir" for name in LOSSES)


@pytest.mark.parametrize("name", LOSSES)
def test_a_row_takes_a_step_with_its_losses(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = content(name)["model"]
    options = dict(given.get("init_args", {}))
    small = {"encoder": "residual", "encoder_weights": None, "image_size": 32, "width": 4, "crop_scale": (0.8, 1.0)}
    if "patch_size" in options:
        small |= {"patch_size": 8, "patches_per_image": 2, "position_pairs": 8}
    model = getattr(anomaly_suite.methods, given["class_path"])(**{**options, **small})
    logged: dict[str, Any] = {}
    monkeypatch.setattr(type(model), "log", lambda self, key, value, **more: logged.__setitem__(key, value))
    monkeypatch.setattr(type(model), "log_dict", lambda self, values, **more: logged.update(values))
    monkeypatch.setattr(type(model), "step_generator", lambda self, batch_idx: torch.Generator().manual_seed(batch_idx))
    if hasattr(model, "centers"):
        model.centers.zero_()
    image = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    loss = model.training_step({"image": image}, 0)
    loss.backward()
    assert loss.isfinite()
    terms = {"contrast", "center", "augmentation", "position"} & {key.removeprefix("train/") for key in logged}
    assert (terms or {"augmentation"}) == set(LOSSES[name].split())
    grads = [parameter.grad for parameter in model.encoder.parameters() if parameter.requires_grad]
    assert any(grad is not None and grad.abs().sum() > 0 for grad in grads)
