"""More inputs of ``wrong_inputs.py``, in the form of ``wrong_inputs_table.py``: pre-training, chains, medical images."""

from __future__ import annotations

_SMALL = "--model.encoder residual --model.encoder_weights null --model.image_size 32 --model.width 4"
_PRE = f"fit --model SimCLR {_SMALL} --data Digits --data.normal_class 3 --data.image_size 32"
_DET = "text:model: {class_path: MSSSIMAutoencoder, init_args: {image_size: 32, encoder: residual, encoder_weights: null, width: 4}}\\ndata: {class_path: Digits}\\n"

COMMANDS = f"""
fit --then
fit --then nowhere.yaml
test --then {{text}}
{_PRE} --then
{_PRE} --then nowhere.yaml
{_PRE} --then {{folder}}
{_PRE} --then {{text}}
{_PRE} --then {{binary}}
{_PRE} --then one_class/padim_mvtek.yaml
{_PRE} --then one_class/igd_digits_cpu.yaml
{_PRE} --then one_class/adacl_digits_cpu.yaml
{_PRE} --then one_class/padim_synthetic_textures_cpu.yaml
{_PRE} --then one_class/igd_digits_ccd_cpu.yaml --model.encoder_weights x
{_PRE} --then one_class/igd_digits_ccd_cpu.yaml --model.width 8
{_PRE} --then one_class/igd_digits_ccd_cpu.yaml --then one_class/igd_digits_ccd_cpu.yaml
{_PRE} --trainer.enable_checkpointing false --then one_class/igd_digits_ccd_cpu.yaml --model.width 4
{_PRE} --trainer.fast_dev_run true --then one_class/igd_digits_ccd_cpu.yaml --model.width 4
fit --model ADACL --data Digits --then one_class/igd_digits_ccd_cpu.yaml
fit --config pretraining/ccd_digits_cpu.yaml --model.crop_scale [1,0.2] --then one_class/igd_digits_ccd_cpu.yaml
"""

FIT = """
--trainer.callbacks+=EmbeddingPlot --trainer.callbacks.method tsn
--trainer.callbacks+=EmbeddingPlot --trainer.callbacks.samples 2
--trainer.callbacks+=EmbeddingPlot --trainer.callbacks.samples x
--trainer.callbacks+=EmbeddingPlot --trainer.callbacks.stages [tset]
--trainer.callbacks+=EmbeddingPlot --trainer.callbacks.stages []
--trainer.callbacks+=EmbeddingPlot --trainer.callbacks.seed -1
--splits.filename ''
--splits.filename 3 --splits.filname x
--disable [split]
--localisation.threshold x
"""

_VIEWS = """
encoder='resnet17'
encoder=3
encoder='residual', image_size=30, encoder_weights=None
encoder_weights=3
width=0
image_size=0
patch_size=0
patch_size='32'
patch_size=1.5
patches_per_image=0
lr=-1
lr='fast'
momentum=1.0
momentum=-0.1
weight_decay=-1
crop_scale=0.5
crop_scale=(1.0, 0.2)
crop_scale=(0.2,)
crop_scale=(0.0, 1.0)
crop_scale=(0.2, 1.5)
colour='maybe'
blur='maybe'
temprature=0.2
"""
_CONTRAST = "temperature=0\ntemperature=-1\ntemperature='x'\n"
_STRONG = """
strong='mixup'
strong=None
num_strong=0
num_strong=1.5
strong='permutation', num_strong=5
strong='rotation', num_strong=5
strong='noise', num_strong=9
versions='some'
"""
_FILES = """
root=3
image_size='x'
image_size=(1, 2, 3)
channels=2
exif='turn'
bit_depth=7
validation='tset'
val_size=0
val_size='x'
seed=-1
num_workers=-1
train_batch_size=0
transform=3
subset='maybe'
"""
_DRAWN = "threshold_set='leeky'\nthreshold_set=None\nthreshold_images=0\nthreshold_images=1.5\n"
_GROUPS = "localisation_groups=-1\nlocalisation_groups=1.5\nlocalisation_size=0\n"

OPTIONS = {
    "SimCLR": _VIEWS + _CONTRAST,
    "RotNet": _VIEWS,
    "CSI": _VIEWS + _CONTRAST + "contrast_weight=0, augmentation_weight=0\ncontrast_weight=-1\n",
    "DROC": _VIEWS + _CONTRAST,
    "SupCon": _VIEWS + _CONTRAST + _STRONG,
    "CCD": _VIEWS
    + _CONTRAST
    + _STRONG
    + "anchors='second'\nnegatives='some'\ncontrast_weight=0, augmentation_weight=0\nposition_pairs=0\naugmentation_weight=-1\n",
    "PMSACL": _VIEWS
    + _CONTRAST
    + _STRONG
    + "alpha=0\nalpha=-1\ndenominator='printed'\nwarmup_epochs=-1\ncenter_weight=-1\ncontrast_weight=0, center_weight=0, augmentation_weight=0\n"
    "warmup_epochs=2, augmentation_weight=0\nposition_pairs=0\n",
    "CutPaste": "encoder='resnet17'\nencoder_weights=3\nimage_size=0\nlr=-1\ntask='4-way'\ndensity='x'\nheatmap='x'\nshift=1\npatch_stride=0\nbank_size=0\npatch_size=0\n",
    "HyperKvasir": _FILES + _DRAWN + _GROUPS + "layout='archive'\nmask_dir=3\nmask_dir='masks'\ncrop_frame='maybe'\n",
    "LAG": _FILES
    + _DRAWN
    + _GROUPS
    + "protocol='paper'\nsplit_file=3\nsplit_file='data.json'\nattention='maybe'\nattention_threshold=0\nattention_threshold=2\n",
    "COVIDx": _FILES
    + _DRAWN
    + "version='1'\nversion=8\nversion='8C'\nnegatives='some'\nnegatives='normal_only'\ntrain_list=3\nlocalisation_groups=5\n",
    "LiuColonoscopy": _FILES.replace("subset='maybe'", "strict_counts='maybe'")
    + _DRAWN
    + "variant='zero_shot'\nshots=-1\nshots=1.5\nsubset=True\n",
    "MedIAnomaly": _FILES + "dataset='Rsna'\ndataset=None\nthreshold_set='apart'\n",
    "BMAD": _FILES + _GROUPS + "dataset='Brain'\ndataset=3\n",
    "MedMNIST": "flag='mnist'\nflag='adrenalmnist3d'\nsize=32\nsize='28'\nnormal_class=9\nnormal_class='healthy'\nflag='bloodmnist'\nflag='chestmnist', normal_class=0\n"
    "download='maybe'\nsubset='maybe'\nvalidation='x'\ntrain_transform=3\nroot=3\n",
    "EmbeddingPlot": "method='pca'\nmethod='umap'\nsamples=2\nsamples='x'\nseed=-1\nstages=['tset']\nstages='fit'\nstages=[]\nfolder=3\nkey_map=3\n",
    "SplitTable": "filename=3\nfilename=''\nfilenam='x'\n",
    "LocalisationMetrics": "filename=3\nfilename=''\nthresold=1\n",
}

_K = "--data.root k --data.image_size 16 --data.subset true --data.threshold_images 1"
_KN = "\n".join(
    f"k/labeled-images/lower-gi-tract/anatomical-landmarks/cecum/{number}.jpg=image" for number in range(12)
)
_KP = "\n".join(
    f"k/segmented-images/{part}/{number}.jpg={kind}"
    for number in range(3)
    for part, kind in (("images", "image"), ("masks", "mask"))
)
_L = "--data.root l --data.image_size 16 --data.subset true --data.threshold_images 1"
_LN = "\n".join(f"l/non_glaucoma/image/{number:04}.jpg=image" for number in range(1, 13))
_LP = "\n".join(
    f"l/suspicious_glaucoma/{part}/{number:04}.jpg=image"
    for number in range(13, 16)
    for part in ("image", "attention_map")
)
_C = "--data.root c --data.image_size 16 --data.subset true --data.threshold_images 1"
_CI = "\n".join(
    [*(f"c/train/n{number}.png=image" for number in range(4)), *(f"c/test/t{number}.png=image" for number in range(4))]
)
_CL = "c/labels/train_COVIDx8B.txt=text:" + "\\n".join(f"n{number} n{number}.png negative rsna" for number in range(4))
_CT = "c/labels/test_COVIDx8B.txt=text:" + "\\n".join(
    f"t{number} t{number}.png {('negative', 'positive')[number % 2]} ricord" for number in range(4)
)
_M = "--data.root m --data.image_size 16 --data.subset true"
_MI = "\n".join(f"m/RSNA/images/{number}.png=image" for number in range(6))
_B = "--data.root b --data.image_size 16 --data.subset true --data.validation none"
_BI = "\n".join(
    f"b/Brain/{place}/{number}.png=image"
    for number in range(3)
    for place in ("train/good/img", "test/good/img", "test/Ungood/img")
)

FOLDERS: list[tuple[str, str, str]] = [
    ("HyperKvasir", "--data.root nowhere", ""),
    ("HyperKvasir", _K, "k=folder"),
    ("HyperKvasir", _K, "k/hyper-kvasir-labeled-images.zip=text:x"),
    ("HyperKvasir", "--data.root k/labeled-images", _KN + "\n" + _KP),
    ("HyperKvasir", _K.replace(" --data.subset true", ""), _KN + "\n" + _KP),
    ("HyperKvasir", _K, _KN),
    ("HyperKvasir", _K, _KN + "\nk/segmented-images/images/0.jpg=image"),
    ("HyperKvasir", _K, _KN + "\n" + _KP + "\nk/segmented-images/masks/9.jpg=mask"),
    ("HyperKvasir", _K, _KN + "\n" + _KP.replace("masks/0.jpg=mask", "masks/0.jpg=mask:9,9")),
    ("HyperKvasir", _K, _KN + "\n" + _KP.replace("images/0.jpg=image", "images/0.jpg=text:")),
    (
        "HyperKvasir",
        _K,
        _KN + "\n" + _KP.replace("images/0.jpg=image", "images/0.jpg=text:version https://git-lfs.github.com/spec/v1"),
    ),
    ("HyperKvasir", _K, _KN.replace("cecum", "caecum") + "\n" + _KP),
    ("HyperKvasir", _K + " --data.threshold_images 9", _KN + "\n" + _KP),
    ("HyperKvasir", _K + " --data.localisation_groups 5", _KN + "\n" + _KP),
    ("HyperKvasir", _K + " --data.layout ccd_archive", _KN + "\n" + _KP),
    ("LAG", "--data.root nowhere", ""),
    ("LAG", _L, _LN),
    ("LAG", _L.replace(" --data.subset true", ""), _LN + "\n" + _LP),
    ("LAG", _L, _LN + "\n" + _LP + "\nl/suspicious_glaucoma/image/0001.jpg=image"),
    ("LAG", _L, _LN + "\n" + _LP + "\nl/suspicious_glaucoma/image/0099.jpg=image"),
    ("LAG", _L, _LN + "\n" + _LP + "\nl/suspicious_glaucoma/label/0013.txt=text:0"),
    ("LAG", _L + " --data.protocol medianomaly", _LN + "\n" + _LP),
    ("LAG", _L + " --data.protocol medianomaly", _LN + "\n" + _LP + "\nl/data.json=text:{"),
    (
        "LAG",
        _L + " --data.protocol medianomaly",
        _LN
        + "\n"
        + _LP
        + '\nl/data.json=text:{"train": {"1": ["0001.jpg"]}, "test": {"0": ["0002.jpg"], "1": ["0013.jpg"]}}',
    ),
    ("LAG", _L + " --data.attention false --data.localisation_groups 1 --data.localisation_size 1", _LN + "\n" + _LP),
    ("COVIDx", "--data.root nowhere", ""),
    ("COVIDx", _C, _CI),
    ("COVIDx", _C, _CI + "\n" + _CL),
    ("COVIDx", _C.replace(" --data.subset true", ""), _CI + "\n" + _CL + "\n" + _CT),
    ("COVIDx", _C, _CI + "\n" + _CL.replace("negative", "maybe") + "\n" + _CT),
    ("COVIDx", _C, _CI + "\n" + _CL.replace(" n0.png negative", "") + "\n" + _CT),
    ("COVIDx", _C, _CI + "\n" + _CL + "\n" + _CT.replace("t0 t0.png", "n0 t0.png")),
    ("COVIDx", _C, _CI + "\n" + _CL + "\n" + _CT.replace("t0.png", "n0.png")),
    ("COVIDx", _C + " --data.version 9C", _CI + "\n" + _CL + "\n" + _CT),
    ("MedIAnomaly", _M, _MI),
    (
        "MedIAnomaly",
        _M,
        _MI + '\nm/RSNA/data.json=text:{"train": {"0": ["0.png", "1.png"]}, "test": {"0": ["0.png"], "1": ["4.png"]}}',
    ),
    ("MedIAnomaly", _M + " --data.dataset BraTS2021", _MI),
    ("BMAD", _B, "b=folder"),
    ("BMAD", _B, _BI),
    ("BMAD", _B + " --data.dataset liver", _BI),
    ("BMAD", _B, _BI.replace("Ungood", "Bad")),
    ("MedMNIST", "--data.root nowhere", ""),
    ("MedMNIST", "--data.root d", "d/pneumoniamnist.npz=text:no zip"),
    ("MedMNIST", "--data.root d --data.flag bloodmnist", "d/bloodmnist.npz=text:no zip"),
    ("LiuColonoscopy", "--data.root nowhere", ""),
    (
        "LiuColonoscopy",
        "--data.root u --data.variant few_shot",
        "u/train/normal/0.png=image\nu/test/normal/1.png=image\nu/test/abnormal/2.png=image",
    ),
    (
        "LiuColonoscopy",
        "--data.root u --data.strict_counts true",
        "u/train/normal/0.png=image\nu/test/normal/1.png=image\nu/test/abnormal/2.png=image",
    ),
    ("LiuColonoscopy", "--data.root u", "u/train/normal/0.png=image\nu/test/normal/1.png=image"),
]

_CALLED = "images(2, 2)\nimages(2, 4)\nimages(2, 3).byte()\nimages(2, 3)[0]\nimages(0, 3)\nNone\nimages(2, 3).double()"
_FITTED = "{'image': images(4, 2)}\n{'image': images(0, 3)}\n{'image': images(4, 3) * nan}\n{'image': images(4, 3).double()}\n{'image': images(4, 3, 24)}"
_WHOLE = "SimCLR RotNet CSI DROC SupCon PMSACL"
BATCHES: list[tuple[str, dict[str, str]]] = [
    (f"{_WHOLE} CCD CutPaste", {"called": _CALLED, "fitted": _FITTED}),
    (
        _WHOLE.replace("RotNet ", ""),
        {"fitted": "{'snippet_features': torch.rand(4, 6, 16)}", "tested": "{'image': images(2, 3)}"},
    ),
]
