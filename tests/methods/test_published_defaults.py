"""Published settings of every method: what its constructor takes, what its optimisers start with, and constants of its file.

The values were taken from the method cards (the papers and the releases they describe), not from the package; the section stands
beside them. A value of ours that fills a gap of the paper is marked "ours"; it is pinned all the same.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any, NamedTuple

import pytest
import yaml
from lightning.pytorch import Callback
from tiny_runs import METHODS, make_data, make_trainer
from torch.optim import Adagrad

import anomaly_suite.methods
from anomaly_suite.cli.samples import samples_folder
from anomaly_suite.contract import AnomalyModule

ADAM = (0.9, 0.999)  # betas of Adam where a paper gives none
WGAN = (0.0, 0.9)  # betas of WGAN-GP's family

# Constructor arguments ---------------------------------------------------------------------------------------------------

SEGMENTER = {"output_stride": 8, "num_classes": 19, "width": 256}  # deeplabv3plus.md, 2b, 2c
TUNED = {**SEGMENTER, "lr": 1e-5, "trunk_mode": "eval"}  # pebal.md, 2: Adam 1e-5, frozen part in evaluation mode

RECIPE = {  # ccd.md, 3; contrastive_baselines.md, 1: one recipe for all
    "temperature": 0.2,
    "encoder": "resnet18",
    "encoder_weights": "imagenet",
    "lr": 0.01,
    "momentum": 0.9,
    "weight_decay": 3e-4,
}

DEFAULTS: dict[str, dict[str, Any]] = {
    "ADACL": {  # adacl.md
        "widths": (32, 64, 128, 128), "strides": (1, 2, 2, 1), "kernel_size": 3, "hidden": 64,  # 2
        "low": 0.3, "high": 0.7, "labels": "continuous", "loss": "mse", "operations": None,  # 3
        "clip_in_loss": False,  # 2, 6: the literal clip never learns from outside
        "lr_min": 1e-4, "lr_max": 2e-3, "half_period": 2.0,  # 3, optimiser
    },
    "ADGAN": {  # adgan.md, 2 and 3
        "latent_dim": 128, "image_size": 64, "widths": None, "critic_steps": 5, "penalty_weight": 10.0, "latent_weight": 1.0,
        "cycle_weight": 1.0, "izi_weight": 0.0, "detach_visual": False, "lr": 1e-4,
    },
    "ALPS": {  # alps.md, 2 and 3; the score, 4
        "image_size": 28, "widths": (64, 96, 128), "latent_dim": 64, "pool": "mean", "output": "tanh", "perturbation": "tanh", "epsilon": 1.0,
        "perturbed_weight": 1.0, "clean_weight": 1.0, "distorter_every": 3, "score": "chosen", "lr": 5e-4,
    },
    "ARNet": {  # video_baselines.md, 1
        "hidden": None, "dropout": 0.7, "alpha": 4, "center_weight": 20.0, "variant": "paper", "lr": 1e-4, "weight_decay": 5e-4,
        "segments": 300,
    },
    "CCD": {  # ccd.md, 2 and 3
        **RECIPE, "strong": "permutation", "num_strong": 4, "negatives": "all", "anchors": "both", "crop_scale": (0.2, 1.0),
        "contrast_weight": 1.0, "augmentation_weight": 1.0, "position_weight": 1.0, "position_pairs": 32,
    },
    "CLAWS": {  # video_baselines.md, 4, most of it unverified there
        "feature_dim": 4096, "hidden": (512, 32), "dropout": 0.6, "rescale": False, "smoothness_weight": 8e-5, "sparsity_weight": 8e-5,
        "cluster_weight": 8e-5, "lr": 1e-4, "lr_drop_steps": 80_000, "segments": 64,
    },
    "CTMIL": {  # ctmil.md
        "preset": "default", "hidden": (512, 128), "dropout": 0.7, "encoder": "transformer",  # 2
        "video_loss": True, "contrastive": True, "pairs": "same", "regularizer": "released", "lr": 1e-3,  # 3
        "mine_eval": False, "windows": True, "use_video_prob": False, "segments": 32,  # 3, 4
    },
    "CSI": {**RECIPE, "temperature": 0.5, "contrast_weight": 1.0, "augmentation_weight": 1.0, "crop_scale": (0.2, 1.0)},  # contrastive_baselines.md, 2, 3
    "CutPaste": {  # cutpaste.md, 2 and 3; patch and stride, 4
        "encoder": "resnet18", "encoder_weights": None, "image_size": 256, "hidden": (512, 512, 128), "task": "3-way",
        "patch_stride": 4, "density": "ledoit_wolf", "eps": 1e-3, "normalize": True, "squared": True, "lr": 0.03, "momentum": 0.9,
        "weight_decay": 3e-5, "flip": False, "freeze_steps": 0,
    },
    "DAE": {"latent_dim": 128, "noise_std": 0.0, "loss": "mse", "lr": 1e-4},  # dae_vae.md, 2, 3
    "DeepGamblers": {  # pixel_ood_scores.md, 3; the outlier term is that of pebal.md, 3.1
        **TUNED, "payoff": 4.5, "outlier_weight": 0.1, "outlier_form": "released", "score": "abstention",
    },
    "DeepLabV3Plus": {  # deeplabv3plus.md, 3, the ResNet101; 2d, its auxiliary head
        **SEGMENTER, "optimizer": "sgd", "lr": 0.01, "lr_power": 0.9, "weight_decay": 5e-4, "auxiliary_weight": 0.4,
        "restart_power": None, "relaxation_epochs": 0, "class_weight_bound": 0.0,
        "strict_classes": (5, 6, 7, 11, 12, 17, 18),
    },
    "DeepMIL": {  # deep_mil.md, 2 and 3; the optimiser of the release, which has C3D features
        "hidden": (512, 32), "dropout": 0.6, "optimizer": "adagrad", "lr": 1e-2, "weight_penalty": 1e-3, "weight_decay": 0.0,
        "smoothness_weight": 8e-5, "sparsity_weight": 8e-5, "top_k": 1, "reduction": "sum", "normalize": False,
        "mode": "snippets", "segments": 32,  # 4
    },
    "DeepSVDD": {  # deep_svdd.md, 3
        "objective": "one-class", "nu": 0.1, "warmup_epochs": 10, "lr": 1e-4, "lr_decay": "milestones", "lr_milestones": (50,),
        "weight_decay": 5e-7, "betas": ADAM, "ae_lr": 1e-4, "ae_lr_milestones": (50,), "ae_weight_decay": 5e-4,
        "reconstruction_weight": 0.0, "rho": 0.15, "score": "distance",
    },
    "DROC": {**RECIPE, "crop_scale": (0.2, 1.0)},  # contrastive_baselines.md, 2: temperature 0.2; the recipe of 1
    "EntropyMaximisation": {**SEGMENTER, "outlier_weight": 0.9, "lr": 1e-5},  # pixel_ood_scores.md, 3, Meta-OoD
    "FeatureDensity": {  # ours; deep_svdd.md, 5 names the comparators, contrastive_baselines.md, 4 the heads
        "estimator": "kde", "encoder": None, "encoder_weights": None, "normalize": False, "variance": None, "bandwidth": None, "nu": 0.1,
        "gamma": None, "eps": None, "neighbours": 1, "bank_size": 10_000,
    },
    "FSADNet": {  # fsad_net.md, 2 and 3, the preset of the thesis
        "encoder": "infomax", "image_size": 64, "width": 64, "hidden": (1000, 200, 20), "representation": "infomax",
        "representation_epochs": 6000, "representation_lr": 1e-4, "estimator": "jsd", "negatives": "rolled", "prior": "normal",
        "global_weight": 0.5, "local_weight": 0.1, "prior_weight": 1.0, "freeze_encoder": True, "loss": "deviation", "margin": 6.0,
        "reference_draws": None, "lr": 1e-4, "betas": WGAN,
        "focal_alpha": 0.25, "focal_gamma": 2.0,  # few_shot_baselines.md, 2
    },
    "FAnoGAN": {  # fanogan.md, 2 and 3
        "variant": "izif", "kappa": 1.0, "feature": "critic", "latent_dim": 128, "width": 64, "image_size": 64,
        "patch_size": 32, "patch_stride": 16, "lr": 1e-4, "encoder_lr": 5e-5,
    },
    "GCNAnomaly": {  # video_baselines.md, 2; the classifier is DeepMIL's, its rate that for I3D features (deep_mil.md, 2)
        "hidden": (512, 32), "dropout": 0.6, "rounds": 2, "cleaner_epochs": 20, "cleaner_widths": (512, 128), "similarity": "max",
        "lr": 1e-4, "weight_decay": 5e-4, "cleaner_lr": 1e-4, "momentum": 0.9,
    },
    "IGD": {  # igd.md, 2 and 3
        "image_size": 256, "patch_size": 32, "patch_stride": 16, "patches_per_step": 450, "latent_dim": 128,
        "gaussian_weight": 1.0, "interpolation_weight": 0.1, "rho": 0.15, "pixel_space": "standardized",
        "critic_norm": "layer", "critic_activation": "none", "zeta": None, "e_step_every": 10, "clamp_center": True,
        "variance_floor": 1.0, "lr": 1e-4, "weight_decay": 1e-6,
        "xi_global": 0.1, "xi_local": 0.9, "beta": 0.5,  # 4
    },
    "KnowledgeDistillation": {"teacher": "resnet18", "teacher_size": 224, "lr": 1e-4, "weight_decay": 1e-5},  # igd.md, 3
    "LearningToReweight": {  # few_shot_baselines.md, 2; the rest as FSADNet
        "encoder": "infomax", "image_size": 64, "hidden": (1000, 200, 20), "clean_size": 20, "loss": "deviation", "margin": 6.0,
        "lr": 1e-4, "betas": WGAN,
    },
    "MIST": {  # video_baselines.md, 3; the second network's optimiser is that of the paper's second stage
        "hidden": (512, 32), "dropout": 0.6, "groups": 32, "group_size": 7, "ranking": "snippets", "sparsity_weight": 0.01,
        "smoothness_weight": 0.0, "normal_labels": "zero", "class_weights": (1.0, 1.0), "generator_lr": 1e-2, "generator_decay": 1e-3,
        "lr": 1e-4, "weight_decay": 5e-4,
    },
    "MSSSIMAutoencoder": {  # msssim_autoencoder.md, 3 and 4
        "latent_dim": 128, "loss": "ms_ssim", "rho": 0.0, "warmup_epochs": 1, "nu": 0.5, "lr": 1e-4, "weight_decay": 1e-6,
    },
    "MemAE": {  # memae.md, 2 and 3
        "frames": 1, "widths": None, "items": None, "code": None, "addressing": "dot", "temperature": 1.0, "shrinkage": None,
        "warmup_epochs": 0, "entropy_weight": 0.0002, "lr": 1e-4,
    },
    "MemMCMAE": {  # memmc_mae.md, 2, 3 and 4; skips and the score are our readings
        "size": "base", "image_size": 224, "patch_size": 16, "weights": None, "mask_ratio": 0.75, "mask_seeds": 10,
        "memory_slots": None, "decay_memory": False, "cross_attention": True, "gate": "channel", "scale_levels": True,
        "cross_residual": True, "skips": True, "attention": "dot", "comparison": "ms_ssim", "pixel_space": "unit", "score": "pasted",
        "optimizer": "adamw", "lr": 1.5e-3, "betas": (0.9, 0.95), "weight_decay": 0.05, "warmup_epochs": 5,
    },
    "OCGAN": {  # ocgan.md, 2 and 3
        "preset": "default", "widths": (64, 128, 256), "latent_dim": 128, "noise_std": 0.2, "latent_weight": 10.0, "reconstruction_weight": 10.0,
        "mining_from": 0.75, "mining_start": "drawn", "mining_steps": 1, "mining_rate": 2.0, "score": "residual", "lr": 2e-4,
    },
    "PANDA": {  # panda.md, 3 and 4: the early end; ResNet18 for parity with others, 2
        "encoder": "resnet18", "encoder_weights": "imagenet", "fisher": None, "ewc_weight": 1e4, "clip": 1e-3, "neighbours": 2,
        "centroids": None, "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-5,
    },
    "PEBAL": {  # pebal.md, 2, 3.1 to 3.5
        **TUNED, "abstention": "adaptive", "penalty_floor": 1.0, "penalty_detach": False, "penalty_blur": True,
        "fixed_penalty": 4.5, "outlier_weight": 0.1, "outlier_form": "released", "energy": True, "margin_in": -12.0,
        "margin_out": -6.0, "regularizer": "released", "energy_weight": 0.1, "smoothing": True,
    },
    "PMSACL": {  # pmsacl.md, 2 and 3
        **RECIPE, "strong": "medmix", "num_strong": 4, "versions": "all", "alpha": 5.0, "denominator": "proper", "warmup_epochs": 0,
        "contrast_weight": 1.0, "center_weight": 1.0, "augmentation_weight": 1.0, "position_weight": 1.0, "crop_scale": (0.8, 1.0),
    },
    "PaDiM": {"backbone": "resnet18", "num_channels": 100, "eps": 0.01, "sigma": 4.0, "score": "smoothed"},  # padim.md, 2, 4
    "PostHocScore": {  # pixel_ood_scores.md, 3
        **SEGMENTER, "temperature": 1.0, "sample": 0.01, "per_class": False, "boundary_width": 4, "boundary_steps": 4,
        "dilated_smoothing": True,
    },
    "RTFM": {  # rtfm.md, 2 and 3; null takes the variant's value, see test_settings_of_variants
        "variant": "released", "hidden": (512, 128), "dropout": 0.7, "margin": 100.0, "smoothness_weight": 8e-4,
        "sparsity_weight": 8e-3, "lr": 1e-3, "segments": 32,
    },
    "RotNet": {**{name: value for name, value in RECIPE.items() if name != "temperature"}, "crop_scale": (0.2, 1.0)},  # contrastive_baselines.md, 1
    "SimCLR": {**RECIPE, "crop_scale": (0.2, 1.0)},  # contrastive_baselines.md, 2: 0.2 as CCD
    "StudentTeacher": {  # student_teacher.md, 2 and 3
        "patch_sizes": (17, 33, 65), "num_students": 3, "width": 128, "teacher": "resnet18", "patches_per_image": 64,
        "distillation_weight": 1.0, "compactness_weight": 1.0, "triplet_weight": 0.0, "teacher_lr": 2e-4, "lr": 1e-4,
        "weight_decay": 1e-5, "pool": "max",
    },
    "SupCon": {  # contrastive_baselines.md, 2 and 3; images as PMSACL
        **RECIPE, "strong": "medmix", "num_strong": 4, "versions": "all", "crop_scale": (0.8, 1.0),
    },
    "SupervisedHead": {  # few_shot_baselines.md, 2, DenseNet-121; margin and draws are DevNet's
        "encoder": "densenet121", "encoder_weights": None, "hidden": (), "augment": "heavy", "loss": "cross_entropy", "lr": 1e-4,
        "betas": ADAM, "margin": 5.0, "reference_draws": 5000, "focal_alpha": 0.25, "focal_gamma": 2.0,
    },
    "URDMU": {  # the release, as its module says
        "feature_dim": 1024, "width": 512, "depth": 2, "heads": 4, "head_width": 128, "dropout": 0.5, "normal_items": 60,
        "anomalous_items": 60, "memory_weight": 0.1, "triplet_weight": 0.1, "divergence_weight": 1e-3, "distance_weight": 1e-4, "margin": 100.0,
        "lr": 1e-4, "weight_decay": 5e-5, "segments": 200,
    },
    "VAE": {  # dae_vae.md, 2 to 4
        "latent_dim": 128, "beta": 1.0, "likelihood": "gaussian", "score": "residual", "samples": 0, "lr": 1e-4,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_arguments_of_constructors(name: str) -> None:
    parameters = inspect.signature(getattr(anomaly_suite.methods, name)).parameters
    assert {option: parameters[option].default for option in DEFAULTS[name]} == DEFAULTS[name]


# What optimisers start with ----------------------------------------------------------------------------------------------


class Start(NamedTuple):
    """An optimiser and the settings of its groups in the first step of a phase; by default Adam's own betas, no decay."""

    optimizer: str
    lr: tuple[float, ...]
    betas: tuple[float, float] | None = ADAM
    weight_decay: float = 0.0
    momentum: float | None = None
    eps: float | None = None
    """Of Adagrad; that of the others is torch's."""


NETWORK = {
    "backbone": "mobilenetv3_small_050", "num_classes": 7, "width": 16, "output_stride": 16, "backbone_weights": None,
}  # fmt: skip
FRAMES = {"feature_dim": 16, "hidden": (8, 4)}
SMALL = {"image_size": 16, "encoder": "residual", "encoder_weights": None, "width": 8, "latent_dim": 16}
PRETRAINED = {"encoder": "residual", "encoder_weights": None, "image_size": 16, "width": 4}
SGD = Start("SGD", (0.01,), betas=None, weight_decay=3e-4, momentum=0.9)
LENET = {"in_channels": 1, "image_size": 16, "widths": [8, 4]}
STUDENTS = {
    "patch_sizes": [17],
    "num_students": 2,
    "width": 8,
    "teacher": "test_resnet",
    "teacher_size": 32,
    "patches_per_image": 4,
}
DCGAN = {"in_channels": 1, "image_size": 32, "widths": [8, 16, 16], "latent_dim": 16}

STARTS: dict[str, tuple[str, dict[str, Any], list[Start]]] = {  # method, sizes that make it small, optimisers
    "ADACL": ("ADACL", {"widths": (8, 8, 8, 8), "hidden": 8}, [Start("Adam", (1e-4,))]),  # adacl.md, 3
    "ADGAN": (  # adgan.md, 2: generator, critic, encoder, discriminator of codes
        "ADGAN", {"in_channels": 1, "image_size": 8, "widths": [4], "latent_dim": 4},
        [*[Start("Adam", (1e-4,), WGAN)] * 2, *[Start("Adam", (1e-4,), (0.5, 0.999))] * 2],
    ),
    "ALPS": (  # alps.md, 2: autoencoder, distorter
        "ALPS", {"image_size": 16, "widths": (4, 6, 8), "latent_dim": 4},
        [Start("Adam", (5e-4,), (0.5, 0.9)), Start("Adam", (5e-4,), (0.5, 0.9))],
    ),
    "ARNet": ("ARNet", {"feature_dim": 16, "hidden": 8}, [Start("Adam", (1e-4,), weight_decay=5e-4)]),  # video_baselines.md, 1
    "CLAWS": (  # video_baselines.md, 4
        "CLAWS", {**FRAMES, "segments": 32}, [Start("RMSprop", (1e-4,), betas=None, momentum=0)],
    ),
    "MIST": (  # video_baselines.md, 3: first and second network
        "MIST", FRAMES, [Start("Adagrad", (1e-2,), betas=None, weight_decay=1e-3, eps=1e-10), Start("Adam", (1e-4,), weight_decay=5e-4)],
    ),
    "URDMU": ("URDMU", {"feature_dim": 16, "width": 8, "heads": 2, "head_width": 4}, [Start("Adam", (1e-4,), weight_decay=5e-5)]),
    "CCD": ("CCD", PRETRAINED, [SGD]),  # ccd.md, 3
    **{name: (name, PRETRAINED, [SGD]) for name in ("CSI", "DROC", "PMSACL", "RotNet", "SimCLR", "SupCon")},  # the same recipe
    "CTMIL": ("CTMIL", {**FRAMES, "embed_dim": 16, "depth": 1, "heads": 2}, [Start("Adam", (1e-3,), weight_decay=5e-4)]),
    "CTMIL thesis": (  # ctmil.md, 3
        "CTMIL", {**FRAMES, "preset": "thesis", "depth": 1, "heads": 2}, [Start("Adam", (1e-3,), weight_decay=5e-4)],
    ),
    "CTMIL released": (  # ctmil.md, 3
        "CTMIL", {**FRAMES, "preset": "released", "depth": 1}, [Start("Adam", (1e-3,), weight_decay=5e-3)],
    ),
    "CutPaste": (  # cutpaste.md, 3: encoder, head
        "CutPaste", {"encoder": "residual", "image_size": 16, "width": 4, "hidden": [8]},
        [Start("SGD", (0.03, 0.03), betas=None, weight_decay=3e-5, momentum=0.9)],
    ),
    "DAE": ("DAE", DCGAN, [Start("Adam", (1e-4,))]),  # dae_vae.md, 3
    "VAE": ("VAE", DCGAN, [Start("Adam", (1e-4,))]),
    "DeepGamblers": ("DeepGamblers", NETWORK, [Start("Adam", (1e-5,))]),  # pixel_ood_scores.md, 3
    "DeepLabV3Plus": (  # deeplabv3plus.md, 3
        "DeepLabV3Plus", NETWORK, [Start("SGD", (0.01,), betas=None, weight_decay=5e-4, momentum=0.9)],
    ),
    "DeepMIL": ("DeepMIL", FRAMES, [Start("Adagrad", (1e-2,), betas=None, eps=1e-8)]),  # deep_mil.md, 2
    "DeepSVDD pre-training": ("DeepSVDD", LENET, [Start("Adam", (1e-4, 1e-4), weight_decay=5e-4)]),  # deep_svdd.md, 3
    "DeepSVDD": ("DeepSVDD", {**LENET, "ae_epochs": 0}, [Start("Adam", (1e-4,), weight_decay=5e-7)]),
    "EntropyMaximisation": ("EntropyMaximisation", NETWORK, [Start("Adam", (1e-5,))]),  # pixel_ood_scores.md, 3
    "FSADNet": (  # fsad_net.md, 3: encoder, prior discriminator, score network
        "FSADNet", {"image_size": 20, "width": 4}, [Start("Adam", (1e-4,)), Start("Adam", (1e-4,)), Start("Adam", (1e-4,), WGAN)],
    ),
    "LearningToReweight": (  # few_shot_baselines.md, 2
        "LearningToReweight", {"encoder": "pixels", "image_size": 8}, [Start("Adam", (1e-4,), WGAN)],
    ),
    "SupervisedHead": (  # few_shot_baselines.md, 2
        "SupervisedHead", {"encoder": "residual", "image_size": 16, "width": 4, "hidden": (8,)}, [Start("Adam", (1e-4,))],
    ),
    "FAnoGAN": (  # fanogan.md, 3: generator, critic, encoder
        "FAnoGAN", {"in_channels": 1, "image_size": 8, "width": 4},
        [Start("Adam", (1e-4,), WGAN), Start("Adam", (1e-4,), WGAN), Start("RMSprop", (5e-5,), betas=None, momentum=0)],
    ),
    "GCNAnomaly": (  # video_baselines.md, 2: classifier, cleaner
        "GCNAnomaly", {**FRAMES, "cleaner_widths": (8, 4)},
        [Start("Adam", (1e-4,), weight_decay=5e-4), Start("SGD", (1e-4,), betas=None, weight_decay=5e-4, momentum=0.9)],
    ),
    "IGD": (  # igd.md, 2: no weight decay for the critic
        "IGD", SMALL, [Start("Adam", (1e-4,), WGAN, weight_decay=1e-6), Start("Adam", (1e-4,), WGAN)],
    ),
    "KnowledgeDistillation": (  # igd.md, 3
        "KnowledgeDistillation", {"teacher": "test_resnet", "teacher_weights": None, "teacher_size": 32, "image_size": 16, "width": 8},
        [Start("Adam", (1e-4,), weight_decay=1e-5)],
    ),
    "MSSSIMAutoencoder": (  # msssim_autoencoder.md, 3
        "MSSSIMAutoencoder", SMALL, [Start("Adam", (1e-4,), WGAN, weight_decay=1e-6)],
    ),
    "MemAE": (  # memae.md, 3
        "MemAE", {"in_channels": 1, "image_size": 16, "widths": [4, 4], "items": 5}, [Start("Adam", (1e-4,))],
    ),
    "MemMCMAE": (  # memmc_mae.md, 3: what decays, what does not
        "MemMCMAE", {"size": "tiny", "image_size": 16, "patch_size": 4, "warmup_epochs": 0},
        [Start("AdamW", (1.5e-3, 1.5e-3), (0.9, 0.95), weight_decay=0.05)],
    ),
    "OCGAN": (  # ocgan.md, 3: classifier, discriminators, autoencoder
        "OCGAN", {"in_channels": 1, "image_size": 8, "widths": [4, 4], "latent_dim": 4}, [Start("Adam", (2e-4,), (0.5, 0.999))] * 3,
    ),
    "PANDA": (  # panda.md, 3
        "PANDA", {"encoder": "test_resnet", "encoder_weights": None}, [Start("SGD", (0.01,), betas=None, weight_decay=5e-5, momentum=0.9)],
    ),
    "PEBAL": ("PEBAL", NETWORK, [Start("Adam", (1e-5,))]),  # pebal.md, 2
    "RTFM": ("RTFM", FRAMES, [Start("Adam", (1e-3,), weight_decay=5e-3)]),  # rtfm.md, 3
    "RTFM thesis": ("RTFM", {**FRAMES, "variant": "thesis"}, [Start("Adam", (1e-3,), weight_decay=5e-4)]),  # rtfm.md, 2
    "StudentTeacher distillation": (  # student_teacher.md, 3; the students rest
        "StudentTeacher", {**STUDENTS, "teacher_weights": None}, [Start("Adam", (2e-4, 0.0), weight_decay=1e-5)],
    ),
    "StudentTeacher": (  # the teachers rest
        "StudentTeacher", {**STUDENTS, "teacher_weights": None, "teacher_epochs": 0}, [Start("Adam", (0.0, 1e-4), weight_decay=1e-5)],
    ),
}  # fmt: skip
WITHOUT_GRADIENTS = {"FeatureDensity", "PaDiM", "PostHocScore"}


class FirstStep(Callback):
    """Notes what the optimisers of a run hold in its first step."""

    def __init__(self) -> None:
        self.starts: list[Start] = []

    def on_before_optimizer_step(self, trainer: Any, *args: Any) -> None:
        for optimizer in () if self.starts else trainer.optimizers:
            groups = optimizer.param_groups
            decay = max(group["weight_decay"] for group in groups)  # some weights may be spared
            (betas,) = {group.get("betas") for group in groups}
            (momentum,) = {group.get("momentum") for group in groups}
            eps = groups[0]["eps"] if isinstance(optimizer, Adagrad) else None
            rates = tuple(float(group["lr"]) for group in groups)
            self.starts.append(Start(type(optimizer).__name__, rates, betas and tuple(betas), decay, momentum, eps))
        trainer.should_stop = True


@pytest.mark.parametrize("case", STARTS)
def test_optimizers_of_a_run(case: str) -> None:
    name, sizes, expected = STARTS[case]
    model: AnomalyModule = getattr(anomaly_suite.methods, name)(**sizes)
    few = {"SyntheticStreets": {"train_size": 8, "val_size": 1, "test_size": 2}, "SyntheticVideos": {"train_size": 16}}
    data = make_data(name)
    data = make_data(name, **few.get(type(data).__name__, {}))
    seen = FirstStep()
    # Schedules stand at their beginning in the first step of many.
    trainer = make_trainer(max_epochs=1000, limit_train_batches=1, limit_val_batches=0, callbacks=[seen])
    trainer.fit(model, datamodule=data)
    assert seen.starts == expected


def test_every_method_has_its_settings() -> None:
    assert DEFAULTS.keys() == set(METHODS)
    assert {name for name, *_ in STARTS.values()} | WITHOUT_GRADIENTS == set(METHODS)


# Settings of variants, and constants -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        (  # rtfm.md, 2 and 3, column "released"
            "released",
            {"fuse": True, "attention_width": "half", "attention_scaling": True, "mag_loss": "released", "bag_loss": "mean",
             "select_dropout": 0.7, "sparsity": "released", "weight_decay": 5e-3, "magnitude_weight": 1e-4, "top_k": 3},
        ),
        (  # column "thesis"; the hinge's weight is ours
            "thesis",
            {"fuse": False, "attention_width": "full", "attention_scaling": False, "mag_loss": "hinge", "bag_loss": "each",
             "select_dropout": 0.0, "sparsity": "l1", "weight_decay": 5e-4, "magnitude_weight": 1e-2, "top_k": 3},
        ),
    ],
)  # fmt: skip
def test_settings_of_variants(variant: str, expected: dict[str, Any]) -> None:
    model = anomaly_suite.methods.RTFM(feature_dim=16, hidden=(8, 4), variant=variant)  # type: ignore[arg-type]
    found = {**model.settings, "magnitude_weight": model.magnitude_weight, "top_k": model.top_k}
    assert found == expected


@pytest.mark.parametrize(
    ("preset", "expected"),
    [  # ctmil.md, 2 and 3; widths of the default are ours
        ("default", ("snippet", 512, 2, 8, 3, 1, "head", "width3", 5e-4)),
        ("thesis", ("snippet", None, 12, 8, 3, 1, "head", "width3", 5e-4)),
        ("released", ("channel", None, 6, 8, 3, 2, "width", "released", 5e-3)),
    ],
)
def test_presets(preset: str, expected: tuple[Any, ...]) -> None:
    names = "tokens embed_dim depth heads kernel kv_stride attention_scale edge weight_decay"
    settings = importlib.import_module("anomaly_suite.methods.weak_video.ctmil").PRESETS[preset]
    assert [getattr(settings, name) for name in names.split()] == list(expected)


@pytest.mark.parametrize(("regularizer", "weights"), [("released", (3e-6, 5e-4)), ("printed", (5e-4, 3e-6))])
def test_weights_of_pebals_regularizers(regularizer: str, weights: tuple[float, float]) -> None:
    # pebal.md, 2: the release has them the other way round than the paper.
    model = anomaly_suite.methods.PEBAL(**NETWORK, regularizer=regularizer)  # type: ignore[arg-type]
    assert (model.smoothness_weight, model.sparsity_weight) == weights


@pytest.mark.parametrize(
    ("options", "epochs"), [({}, 150), ({"backbone": "residual", "image_size": 32, "width": 8, "weights": None}, 0)]
)
def test_epochs_of_deep_svdds_pretraining(options: dict[str, Any], epochs: int) -> None:
    # deep_svdd.md, 3; other networks have no decoder to be pre-trained with.
    assert anomaly_suite.methods.DeepSVDD(**options).ae_epochs == epochs


CONSTANTS: dict[str, dict[str, Any]] = {
    "augment.medmix": {  # pmsacl.md, 3: the paper has no geometry; ours
        "AREA": (0.01, 0.06), "SMALL_AREA": (0.04, 0.12), "MAX_ASPECT": 2.0, "JITTER": (0.4, 0.4, 0.4, 0.1), "MAX_NOISE": 0.1,
        "WARP_SHARE": 0.5, "FISHEYE": (0.2, 0.6), "WAVE_AMPLITUDE": (0.02, 0.08), "WAVE_PERIOD": (0.3, 1.0), "FEATHER": 2, "TRIES": 20,
    },
    "augment.strong": {"HOLE_SIDE": 1 / 4, "NOISE_VARIANCE": 0.05, "SALT_SHARE": 0.05},  # ccd.md, 3; the side is ours
    "augment.structural": {"MIN_CHANGE": 0.01, "MAX_TRIES": 5, "MIN_SHIFT": 4},  # adacl.md, 3: our choice
    "augment.weak": {  # ccd.md, 3
        "RATIO": (3 / 4, 4 / 3), "JITTER": (0.4, 0.4, 0.4, 0.1), "JITTER_SHARE": 0.8, "GREY_SHARE": 0.2, "BLUR_SHARE": 0.5,
        "FLIP_SHARE": 0.5, "BLUR_SIDE": 0.1, "BLUR_SIGMA": (0.1, 2.0),
    },
    "augment.pasted": {  # cutpaste.md, 3 and 6.2
        "AREA": (0.02, 0.15), "ASPECT": (0.3, 1 / 0.3), "SCAR_WIDTH": (2.0, 16.0), "SCAR_LENGTH": (10.0, 25.0), "SCAR_TURN": 45.0,
        "JITTER": (0.1, 0.1, 0.1, 0.1), "DISPLACEMENT": 0.25,
    },
    "augment.heavy": {  # few_shot_baselines.md, 2; blur and noise are ours
        "CROP_SCALE": (0.6, 1.0), "JITTER": (0.3, 0.3, 0.3, 0.05), "BLUR_SIGMA": (0.1, 1.5), "NOISE_STD": (0.0, 0.05),
    },
    "contract.videos": {"SNIPPET_FRAMES": 16, "SEGMENTS": 32},  # deep_mil.md, 1
    "nn.infomax": {"KERNEL": 4, "LEVELS": 4, "PRIOR_WIDTHS": (1000, 200)},  # fsad_net.md, 2
    "losses": {  # igd.md, 3
        "SCALE_WEIGHTS": (0.0448, 0.2856, 0.3001, 0.2363, 0.1333), "SIGMA": 1.5, "K1": 0.01, "K2": 0.03, "SMALLEST_MEAN": 1e-6,
        "CENTER_MARGIN": 0.1,
    },
    "methods.one_class.adacl": {"NEGATIVE_SLOPE": 0.2, "INITIAL_BIAS": 0.5},  # adacl.md, 2
    "methods.one_class.deep_svdd": {"LR_DECAY": 0.1, "GREY_LATENT_DIM": 32, "LATENT_DIM": 128},  # deep_svdd.md, 2, 3
    "methods.one_class.student_teacher": {"GREY_SHARE": 0.1, "MARGIN": 1.0},  # student_teacher.md, 3; the margin is ours
    "methods.pixel_ood.abstention": {"LR_POWER": 0.9, "LR_FLOOR": 1e-8},  # pebal.md, 2
    "methods.pixel_ood.mahalanobis": {"RIDGE": 1e-4},  # pixel_ood_scores.md, 3
    "methods.pixel_ood.pebal": {"PUBLISHED_PIXELS": 8 * 900 * 900, "MARGIN": 3.0},  # pebal.md, 6.4 and 3.5
    "methods.pixel_ood.segmenter": {"BLUR_SIGMA": 1.0, "BLUR_RADIUS": 3},  # pebal.md, 4: 7 x 7, sigma 1
    "methods.pixel_ood.standardized_max_logits": {  # pixel_ood_scores.md, 3 and 6.5
        "SMALLEST_VARIANCE": 1e-6, "SMOOTHING_SIDE": 7, "SMOOTHING_SIGMA": 1.0, "SMOOTHING_DILATION": 6,
    },
    "methods.pretraining.contrastive_pretraining": {"PROJECTION": 128},  # ccd.md, 2
    "methods.pretraining.encoder_pretraining": {"LAST_LR": 1e-3, "RIDGE": 1e-6},  # ccd.md, 3; contrastive_baselines.md, 4
    "methods.pretraining.positions": {"HIDDEN": 128, "JITTER": (0.2, 0.2, 0.2, 0.05)},  # ccd.md, 2, 3; the jitter is ours
    "methods.reconstruction.dae": {"LOG_VARIANCE_RANGE": (-10.0, 10.0)},  # dae_vae.md, 3
    "methods.reconstruction.fanogan": {"CRITIC_STEPS": 5},  # fanogan.md, 3
    "nn.adversarial": {"PENALTY_WEIGHT": 10.0, "EPSILON": 1e-12},  # fanogan.md, 3 and 6.2; adgan.md, 3
    "methods.reconstruction.memmc_mae": {  # memmc_mae.md, 2; tiny is its test preset, small half of base but for its depth
        "SIZES": {
            "tiny": (64, 4, 4, 48, 2, 4, 16), "small": (384, 12, 6, 256, 8, 8, 40), "base": (768, 12, 12, 512, 8, 16, 40),
        },
    },
    "methods.reconstruction.ms_ssim_autoencoder": {"WARMUP_RHO": 0.85},  # msssim_autoencoder.md, 3
    "methods.weak_video.gcn_anomaly": {  # video_baselines.md, 2
        "CONFIDENT_SHARE": 0.3, "FEWEST": 4, "NEIGHBOURS": 4, "AVERAGE": 0.5, "LR_DECAY": 0.1, "LR_DECAY_EPOCHS": 5,
    },
    "nn.label_graph": {"GRAPH_WIDTH": 32},
    "methods.weak_video.claws": {"OWN_SHARE": 0.7, "REACH": 0.25},  # video_baselines.md, 4
    "methods.weak_video.mist": {  # video_baselines.md, 3
        "SMOOTHING_WIDTH": 5, "SMOOTHING_TIMES": 2, "GENERATOR_CLIP": 10.0, "DETECTOR_CLIP": 20.0,
    },
    "methods.weak_video.ur_dmu": {"TOP_SHARE": 16, "HEAD_WIDTH": 128, "TRIPLET_MARGIN": 1.0},  # the release
    "methods.weak_video.ctmil": {  # ctmil.md, 2 and 3
        "EMBEDDING_KERNEL": 3, "TOP_K": 3, "CONTRAST_WEIGHT": 0.25, "PENALTY": {"released": 8e-5, "thesis": 5e-4},
    },
    "methods.weak_video.rtfm": {"RANKING_PENALTY": 8e-5},  # deep_mil.md, 3
    "methods.weak_video.snippet_contrast": {  # ctmil.md, 3
        "MINING_DROPOUT": 0.6, "EASY_SHARE": 8, "HARD_SHARE": 16, "WINDOW": 10, "MAJORITY": 9, "TEMPERATURE": 0.07,
    },
    "nn.conv_transformer": {"INIT_STD": 0.02, "MLP_RATIO": 4},  # ctmil.md, 2
    "nn.critic": {"ALPHA_MAX": 0.5},  # igd.md, 3
    "nn.deeplab.network": {"RATES": {8: (12, 24, 36), 16: (6, 12, 18)}, "LOW_WIDTH": 48},  # deeplabv3plus.md, 2a, 2b
    "nn.encoders": {  # igd.md, 1 and 3
        "IMAGENET_MEAN": (0.485, 0.456, 0.406), "IMAGENET_STD": (0.229, 0.224, 0.225), "STANDARDIZED_RANGE": 4.7579,
    },
    "nn.lenet": {"BN_EPS": 1e-4, "GREY_WIDTHS": (8, 4), "COLOUR_WIDTHS": (32, 64, 128)},  # deep_svdd.md, 2
    "nn.memory_transformer": {"EPS": 1e-6, "MLP_RATIO": 4},  # memmc_mae.md, 2
    "nn.multi_level_decoder": {"TOKEN_STD": 0.02},  # memmc_mae.md, 2
    "nn.multiscale_temporal": {"DILATIONS": (1, 2, 4)},  # rtfm.md, 2
    "nn.patch_network": {"SLOPE": 5e-3},  # student_teacher.md, 2
    "nn.patch_tokens": {"PERIOD": 10_000.0},  # memmc_mae.md, 2
}  # fmt: skip


@pytest.mark.parametrize("module", CONSTANTS)
def test_constants(module: str) -> None:
    found = importlib.import_module(f"anomaly_suite.{module}")
    assert {name: getattr(found, name) for name in CONSTANTS[module]} == CONSTANTS[module]


# Sample configurations that bear the published settings of another network or data set -----------------------------------

SAMPLES: dict[str, dict[str, Any]] = {
    "one_class/deep_svdd_cifar10": {"ae_epochs": 350, "ae_lr_milestones": [250], "ae_weight_decay": 5e-7},  # deep_svdd.md, 3
    "pixel_ood/deeplab_v3_plus_cityscapes_resnet101": {"lr": 0.01, "lr_power": 0.9, "weight_decay": 5e-4, "auxiliary_weight": 0.4},
    "pixel_ood/deeplab_v3_plus_cityscapes_wide_resnet38": {  # deeplabv3plus.md, 3
        "lr": 1e-3, "lr_power": 1.0, "restart_power": 1.5, "weight_decay": 1e-4, "relaxation_epochs": 100,
    },
    "weak_video/deep_mil_shanghaitech": {"optimizer": "adam", "lr": 1e-4, "weight_decay": 5e-4},  # deep_mil.md, 2: I3D
    "weak_video/deep_mil_ucf_crime": {"optimizer": "adam", "lr": 1e-4, "weight_decay": 5e-4},
    "weak_video/deep_mil_xd_violence": {"optimizer": "adam", "lr": 1e-4, "weight_decay": 5e-4},
    "weak_video/deep_mil_polyp_video": {"optimizer": "adam", "lr": 1e-4, "weight_decay": 5e-4},
    "weak_video/deep_mil_ucf_crime_c3d": {"feature_dim": 4096, "normalize": True},  # the release
    "weak_video/rtfm_xd_violence": {"lr": 1e-4},  # rtfm.md, 3
}  # fmt: skip


@pytest.mark.parametrize("sample", SAMPLES)
def test_sample_configurations(sample: str) -> None:
    content = yaml.safe_load((samples_folder() / f"{sample}.yaml").read_text(encoding="utf-8"))
    options = content["model"]["init_args"]
    assert {name: options.get(name) for name in SAMPLES[sample]} == SAMPLES[sample]
