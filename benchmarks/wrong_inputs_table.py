"""The inputs of ``wrong_inputs.py``: every line is one that cannot work, with which a user could come.

Words in braces are paths: ``{run}`` a finished run of ADACL on Digits, ``{ckpt}`` its checkpoint, ``{other}`` the checkpoint of
another class, and the files of ``SHARED_FILES`` by their stems.
"""

from __future__ import annotations

from typing import Any

import wrong_inputs_medical as medical

# Command lines -----------------------------------------------------------------------------------------------------------

SHORT = (
    "--trainer.max_epochs 1 --trainer.limit_train_batches 1 --trainer.limit_val_batches 1 --trainer.limit_test_batches 1 "
    "--trainer.limit_predict_batches 1 --trainer.logger false "
    "--trainer.enable_progress_bar false --trainer.enable_model_summary false --trainer.num_sanity_val_steps 0"
)
MODEL = "--model ADACL --model.widths [4,4,4,4] --model.hidden 4 --model.half_period 0.5"
IMAGE_MODEL = f"{MODEL} --model.in_channels 3"
VIDEO_MODEL = "--model DeepMIL --model.feature_dim 8 --model.hidden [8,4]"
SCENE_MODEL = (
    "--model DeepLabV3Plus --model.backbone mobilenetv3_small_050 --model.width 8 --model.output_stride 16 "
    "--model.backbone_weights null --model.num_classes 19"
)
MODEL_OF = {
    **dict.fromkeys(("UCFCrime", "ShanghaiTech", "XDViolence", "PolypVideo", "UCSDPedWeak"), VIDEO_MODEL),
    **dict.fromkeys(("Cityscapes", "LostAndFound", "RoadAnomaly", "CamVid", "FishyscapesStatic"), SCENE_MODEL),
}
RUN = f"{MODEL} --data Digits --data.normal_class 3 --data.image_size 8 {SHORT}"
"""Words of a fit that works."""

COMMANDS = """
fitt
Fit
train
--verson
-x
list
list method
list configs PaDIM
list methods data
list configs ADACL PaDiM
report
report nowhere
report {text}
report {folder}
report {run} {run}
report {page}
fit
fit --help.nothing
fit --config
fit --config nowhere.yaml
fit --config nowhere.json
fit --config {folder}
fit --config {text}
fit --config {binary}
fit --config {image}
fit --config one_class/padim_mvtek.yaml
fit --model
fit --model ADACL
fit --data Digits
fit --model ADCL --data Digits
fit --model ADACL --data Digts
fit --model torch.nn.Linear --data Digits
fit --model os.path --data Digits
fit --model json --data Digits
fit --model anomaly_suite.methods.Nothing --data Digits
fit --model nowhere.Mine --data Digits
fit --model ADACL --data torch.nn.Linear
fit --model ADACL --data anomaly_suite.methods.ADACL
fit --model Digits --data ADACL
fit --model {} --data Digits
fit --model 3 --data Digits
fit --model ADACL --data 3
fit --model ADACL --model.class_path PaDiM.x --data Digits
fit --run {run}
fit --model ADACL --data Digits extra
fit ADACL Digits
fit --model=ADACL --data=Digits --untrained true
test
test --run
test --run nowhere
test --run {folder}
test --run {text}
test --run={run} --run={run}
test --run {run} --run {run}
test --ckpt_path {ckpt}
test --model ADACL --data Digits
test --model ADACL --data Digits --untrained maybe
test --model ADACL --data Digits --ckpt_path nowhere.ckpt
test --model ADACL --data Digits --ckpt_path {text}
test --model ADACL --data Digits --ckpt_path {folder}
test --model ADACL --data Digits --ckpt_path best
test --model ADACL --data Digits --ckpt_path last
test --model ADACL --data Digits --ckpt_path hpc
validate --run nowhere
validate --model ADACL --data Digits
predict --run nowhere
predict --model ADACL --data Digits
calibrate
calibrate --run nowhere
calibrate --model ADACL --data Digits
calibrate --model ADACL --data Digits --untrained true
extract-features
extract-features {folder}
extract-features nowhere out
extract-features {folder} out --network motion_energy
extract-features {text} out --network motion_energy
extract-features {image} out --network motion_energy
extract-features {folder} out --network c4d
extract-features {folder} out --network c3d
extract-features {folder} out --network c3d --weights nowhere.pth
extract-features {folder} out --network c3d --weights {text}
extract-features {folder} out --network motion_energy --weights {text}
extract-features {folder} out --crops 7
extract-features {folder} out --network motion_energy --crops 10
extract-features {folder} out --batch_size 0
extract-features {folder} out --batch_size many
extract-features {folder} out --network motion_energy --device gpux
extract-features {folder} out --network motion_energy --device cuda:99
extract-features {folder} out --precision 8
extract-features {folder} out --network motion_energy --shard 3/2
extract-features {folder} out --network motion_energy --shard half
extract-features {folder} out --network frame_average --weights random --backbone resnet5
extract-features {folder} out --network motion_energy --include nothing*
extract-features {folder} {text} --network motion_energy
"""

FIT = """
# trainer: devices and precision
--trainer.devices 4.5
--trainer.devices -3
--trainer.devices 0
--trainer.devices many
--trainer.devices [0,0]
--trainer.devices [5,x]
--trainer.devices null
--trainer.devices 1.5.2
--trainer.devices ''
--trainer.devices [1.5]
--trainer.devices {}
--trainer.accelerator gpux
--trainer.accelerator tpu
--trainer.accelerator mps
--trainer.accelerator 3
--trainer.accelerator null
--trainer.accelerator []
--trainer.precision 8
--trainer.precision 33
--trainer.precision half
--trainer.precision 16-mixe
--trainer.precision 3.2
--trainer.strategy ddpp
--trainer.strategy 3
--trainer.strategy fsdp
--trainer.strategy deepspeed
--trainer.strategy ddp_notebook_x
--trainer.num_nodes 0
--trainer.num_nodes two
--trainer.num_nodes -1
--trainer.sync_batchnorm maybe
--trainer.plugins nothing
--trainer.plugins [nothing]
# trainer: ends
--trainer.max_epochs -2
--trainer.max_epochs 1.5
--trainer.max_epochs many
--trainer.max_epochs ''
--trainer.min_epochs -1
--trainer.min_epochs 5
--trainer.max_steps -2
--trainer.max_steps 1.5
--trainer.max_steps x
--trainer.min_steps -3
--trainer.max_time tomorrow
--trainer.max_time 10
--trainer.max_time 00:00:61:99:00
--trainer.max_time {hours:x}
--trainer.max_time {hour:1}
--trainer.max_time -1
# trainer: limits
--trainer.limit_train_batches 1.5
--trainer.limit_train_batches -1
--trainer.limit_train_batches -0.5
--trainer.limit_train_batches all
--trainer.limit_train_batches .nan
--trainer.limit_val_batches 1.5
--trainer.limit_val_batches -3
--trainer.limit_test_batches 2.5
--trainer.limit_predict_batches 1.01
--trainer.overfit_batches -1
--trainer.overfit_batches 1.5
--trainer.overfit_batches some
--trainer.fast_dev_run -1
--trainer.fast_dev_run 1.5
--trainer.fast_dev_run perhaps
--trainer.val_check_interval 1.5
--trainer.val_check_interval 0
--trainer.val_check_interval -1
--trainer.val_check_interval 1000
--trainer.val_check_interval often
--trainer.val_check_interval {hours:x}
--trainer.check_val_every_n_epoch 0
--trainer.check_val_every_n_epoch -1
--trainer.check_val_every_n_epoch 1.5
--trainer.num_sanity_val_steps -2
--trainer.num_sanity_val_steps 0.5
--trainer.log_every_n_steps -1
--trainer.log_every_n_steps often
--trainer.accumulate_grad_batches 0
--trainer.accumulate_grad_batches -1
--trainer.accumulate_grad_batches 1.5
--trainer.accumulate_grad_batches {4:2}
--trainer.gradient_clip_val x
--trainer.gradient_clip_val []
--trainer.gradient_clip_algorithm clip
--trainer.reload_dataloaders_every_n_epochs -1
--trainer.reload_dataloaders_every_n_epochs x
# trainer: switches, loggers, callbacks, profilers
--trainer.deterministic perhaps
--trainer.benchmark 3
--trainer.inference_mode x
--trainer.detect_anomaly x
--trainer.use_distributed_sampler x
--trainer.barebones x
--trainer.barebones true
--trainer.enable_checkpointing x
--trainer.enable_progress_bar 5
--trainer.profiler fast
--trainer.profiler 3
--trainer.logger csv
--trainer.logger CSVLoger
--trainer.logger 3
--trainer.logger [true,false]
--trainer.logger CSVLogger
--trainer.logger MLFlowLogger
--trainer.logger WandbLogger
--trainer.callbacks EarlyStoping
--trainer.callbacks EarlyStopping
--trainer.callbacks 3
--trainer.callbacks [3]
--trainer.callbacks ADACL
--trainer.callbacks+=EarlyStopping
--trainer.callbacks+=Timer --trainer.callbacks.duration x
--trainer.callbacks+=ModelSummary --trainer.callbacks.max_depth x
--trainer.default_root_dir {text}
--trainer.default_root_dir 3.5 --trainer.default_root_dirr x
--trainer.max_epochs
--trainer.epochs 3
--trainer 3
--trainer []
--trainer nowhere.yaml
# monitors
--trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor val/image_AUROC
--trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor image_AUROC
--trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor val_loss
--trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor nothing
--trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor train/los
--trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor val/image_F1Max --trainer.callbacks.mode max
--trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor train/loss --trainer.callbacks.mode up
--trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor train/loss --trainer.callbacks.patience x
--checkpoint.monitor val/image_AUROC
--checkpoint.monitor nothing
--checkpoint.monitor val/image_AUROC --checkpoint.mode max
--checkpoint.mode up
--checkpoint.save_top_k 3
--checkpoint.save_top_k -2
--checkpoint.save_top_k x
--checkpoint.every_n_epochs -1
--checkpoint.every_n_train_steps -1
--checkpoint.every_n_epochs 1 --checkpoint.every_n_train_steps 1
--checkpoint.train_time_interval x
--checkpoint.dirpath {text}
--checkpoint.filename {nothing}/x{
--checkpoint.save_last maybe
--optimizer Adam --lr_scheduler ReduceLROnPlateau --lr_scheduler.monitor val/image_AUROC
--optimizer Adam --lr_scheduler ReduceLROnPlateau --lr_scheduler.monitor nothing
--optimizer Adam --lr_scheduler ReduceLROnPlateau
--optimizer Adamm
--optimizer 3
--optimizer Adam --optimizer.lr x
--optimizer Adam --optimizer.lr -1
--optimizer Adam --optimizer.betaz 3
--optimizer Adam --lr_scheduler Step
--optimizer Adam --lr_scheduler StepLR
--lr_scheduler StepLR
# the model
--model.hiden 3
--model.hidden many
--model.hidden 0
--model.hidden 4.5
--model.hidden null
--model.in_channels 3
--model.in_channels 0
--model.widths 4
--model.widths [4,4]
--model.widths [4,4,4,0]
--model.widths wide
--model.strides [0,1,1,1]
--model.kernel_size 4
--model.labels continous
--model.loss mae
--model.operations [rotat]
--model.operations rotate
--model.operations []
--model.low 0.9 --model.high 0.1
--model.low 2
--model.mix_share [0.9,0.1]
--model.mix_share 0.5
--model.lr_max x
--model.lr_max .inf
--model.lr_min 1 --model.lr_max 0.1
--model.half_period 0
--model.init_args.hidden x
--model.net x
--model.ADACL.hidden 3
# the data
--data.normal_class 11
--data.normal_class -1
--data.normal_class cat
--data.normal_class []
--data.image_size 0
--data.image_size big
--data.image_size [8,8]
--data.image_size 100000
--data.val_size 0
--data.val_size 1.0
--data.val_size 5000
--data.val_size 5.5
--data.val_size x
--data.validation tset
--data.train_fraction 0
--data.train_fraction 2
--data.train_fraction 0.0001
--data.contamination 1
--data.contamination -1
--data.train_batch_size 0
--data.train_batch_size x
--data.eval_batch_size -5
--data.num_workers x
--data.num_workers -1
--data.seed x
--data.seed -1
--data.num_anomalous -1
--data.num_anomalous 2.5
--data.num_anomalous x
--data.num_anomalous null
--data.num_anomalous 5000
--data.num_anomalous 1614
--data.num_anomalous 3 --data.anomalous_seed -1
--data.num_anomalous 3 --data.anomalous_seed x
--data.num_anomalous 3 --data.anomalous_types [3]
--data.num_anomalous 3 --data.anomalous_types [12]
--data.num_anomalous 3 --data.anomalous_types [zero]
--data.num_anomalous 3 --data.anomalous_types []
--data.num_anomalous 3 --data.anomalous_types 4.5
--data.num_anomalous 200 --data.anomalous_types [4]
--data.num_anomalous 3 --data.anomalous_list {text}
--data.anomalous_types [4] --data.anomalous_list {text}
--data.anomalous_list nowhere.txt
--data.anomalous_list ''
--data.anomalous_list {text}
--data.anomalous_list {folder}
--data.anomalous_list {binary}
--data.anomalous_list {image}
--data.balanced 1.5
--data.balanced 0.0
--data.balanced -0.5
--data.balanced x
--data.balanced null
--data.train_transform x
--data.train_transform [x]
--data.root nowhere
--data.categry bottle
--data.pad maybe
# the layer of callbacks
--disable [heatmap]
--disable heatmaps2
--disable 3
--calibrate.rule autoo
--calibrate.rule fixed
--calibrate.image_threshold 3
--calibrate.quantile 1.5
--calibrate.quantile x
--calibrate.rule max_f1
--calibrate.rule youden
--calibrate.rlue auto
--metrics.image [AUROK]
--metrics.image AUROK
--metrics.image 3
--metrics.pixel [Accuracyy]
--metrics.exact maybe
--metrics.filename ''
--metrics.extra x
--metrics.extra {image:{a:b}}
--heatmaps.colormap rainbows
--heatmaps.opacity 5
--heatmaps.max_images -1
--heatmaps.raw jpg
--components.threshold x
--components.min_object -1
--segmentation.num_classes 0
--table.format xls
--table.path {folder}
--curves.limit -1
--curves.fps 0
--curves.first normal
--curves.save_scores png
--plots.folder 3 --plots.foldr x
# seeds and checkpoints
--seed_everything -1
--seed_everything x
--seed_everything 1.5
--seed_everything 99999999999
--ckpt_path nowhere.ckpt
--ckpt_path {text}
--ckpt_path {other}
--ckpt_path {folder}
--ckpt_path {binary}
--ckpt_path best
--weights_only maybe
--print_config=x
--nothing
-z
"""

LATER = """
test --trainer.limit_test_batches 1.5
test --trainer.devices 4.5
test --trainer.precision 3
test --ckpt_path nowhere.ckpt
test --ckpt_path {other}
test --ckpt_path {text}
test --ckpt_path {binary}
test --ckpt_path {folder}
test --data Folder --data.root nowhere
test --data MVTecAD --data.root {folder}
test --data SyntheticVideos
test --data SyntheticStreets
test --data SyntheticTextures
test --data Digts
test --data.normal_class 77
test --data.image_size -1
test --model PaDiM --model.weights null
test --model DAE
test --model.in_channels 3
test --model.hidden 9
test --model.hiddn 9
test --metrics.image [AUROX]
test --metrics.filename {folder}/
test --heatmaps.colormap none
test --table.path {text}/scores.csv
test --table.format parket
test --plots.folder {text}
test --trainer.default_root_dir {text}
test --components.threshold best2
test --untrained x
test --verbose maybe
test extra
validate --trainer.limit_val_batches 7.5
validate --data.validation none
validate --ckpt_path {other}
validate --data SyntheticVideos
validate --disable [x]
predict --trainer.limit_predict_batches 2.5
predict --ckpt_path {other}
predict --data SyntheticVideos
predict --data SyntheticTextures
predict --data.root nowhere
predict --return_predictions perhaps
predict --heatmaps.raw tif
calibrate --calibrate.rule fixed
calibrate --calibrate.rule max_f1
calibrate --calibrate.rule youden
calibrate --calibrate.quantile 2
calibrate --data.validation none
calibrate --ckpt_path {other}
calibrate --disable [calibrate]
calibrate --data SyntheticStreets
"""

# Configuration files -----------------------------------------------------------------------------------------------------

FIRST_FILE = (
    "model: {class_path: ADACL, init_args: {widths: [4, 4, 4, 4], hidden: 4, half_period: 0.5}}\n"
    "data: {class_path: Digits, init_args: {image_size: 8, normal_class: 3}}\n"
    "trainer: {max_epochs: 1, logger: false, limit_train_batches: 1, limit_val_batches: 1, enable_progress_bar: false}\n"
)

SECOND_FILES = [
    "model: {class_path: ADACLL}",
    "model: {class_path: Digits}",
    "model: {class_path: 3}",
    "model: {class_path: null}",
    "model: {class_path: [ADACL]}",
    "model: {class: ADACL}",
    "model: {init_args: {hiden: 3}}",
    "model: {init_args: {hidden: many}}",
    "model: {init_args: [hidden, 3]}",
    "model: {init_args: 3}",
    "model: {init_args: {hidden: [4]}}",
    "model: {class_path: ADACL, init_args: {widths: {a: 1}}}",
    "model: [ADACL]",
    "model: 3",
    "model:",
    "model: {class_path: ADACL, hidden: 3}",
    "data: {class_path: Digitz}",
    "data: {class_path: ADACL}",
    "data: {init_args: {normal_clas: 3}}",
    "data: {init_args: {normal_class: [1, 2]}}",
    "data: {init_args: {val_size: yes}}",
    "data: [Digits]",
    "data:",
    "trainer: {max_epoch: 3}",
    "trainer: {max_epochs: [3]}",
    "trainer: {max_epochs: '3 epochs'}",
    "trainer: {devices: 4.5}",
    "trainer: {devices: yes}",
    "trainer: {accelerator: true}",
    "trainer: {precision: 7}",
    "trainer: {callbacks: [{class_path: EarlyStoping}]}",
    "trainer: {callbacks: [{class_path: EarlyStopping}]}",
    "trainer: {callbacks: [{class_path: EarlyStopping, init_args: {monitor: nothing}}]}",
    "trainer: {callbacks: [{class_path: EarlyStopping, init_args: {monitor: val/image_AUROC}}]}",
    "trainer: {callbacks: [{class_path: EarlyStopping, init_args: {monitr: nothing}}]}",
    "trainer: {callbacks: [{class_path: ADACL}]}",
    "trainer: {callbacks: [EarlyStopping, 3]}",
    "trainer: {callbacks: {class_path: 3}}",
    "trainer: {callbacks: [{class_path: anomaly_suite.callbacks.Calibrate, init_args: {quantile: 7}}]}",
    "trainer: {callbacks: [{class_path: LearningRateMonitor, init_args: {logging_interval: hour}}]}",
    "trainer: {callbacks: [{class_path: LearningRateMonitor}]}",
    "trainer: {callbacks: [{class_path: WeightAveraging, init_args: {nothing: 3}}]}",
    "trainer: {logger: {class_path: CSVLoger}}",
    "trainer: {logger: {class_path: CSVLogger}}",
    "trainer: {logger: {class_path: CSVLogger, init_args: {save_dirr: x}}}",
    "trainer: {logger: {class_path: ADACL}}",
    "trainer: {profiler: {class_path: Nothing}}",
    "trainer: {strategy: {class_path: Nothing}}",
    "trainer: {plugins: [{class_path: Nothing}]}",
    "trainer: [3]",
    "trainer: 3",
    "trainr: {max_epochs: 3}",
    "fit: {trainer: {max_epochs: 3}}",
    "seed_everything: x",
    "seed_everything: [1]",
    "calibrate: 3",
    "calibrate: {rule: 3}",
    "metrics: {image: {AUROC: 1}}",
    "disable: {a: 1}",
    "checkpoint: {monitor: 3, mode: max}",
    "optimizer: {class_path: Nothing}",
    "optimizer: 3",
    "lr_scheduler: {class_path: Nothing}",
    "ckpt_path: 3",
    "- model\n- data",
    "just a text",
    "3",
    "model: [}",
    "model: {class_path: ADACL",
    "model:\n\tclass_path: ADACL",
    "model:\n  class_path: ADACL\n init_args: {}",
    "model: 'ADACL",
    "model: *nothing",
    "model: &a {class_path: *a}",
    "model: !!python/object/apply:os.getcwd []",
    "model: !nothing {class_path: ADACL}",
    "model: {class_path: ADACL}\nmodel: {class_path: PaDiM}",
    "trainer: {max_epochs: 1, max_epochs: 2}",
    "model: {class_path: ADACL}\n---\nmodel: {class_path: PaDiM}",
    "model: {class_path: ADACL}: 3",
    "? [a, b]\n: 3",
    "1: {a: 2}",
    "null: 3",
    "%YAML 9.9\n---\na: 1",
    "<<: 3",
    "@model: 3",
    "model = 'ADACL'",
    '{"model": {"class_path": "ADACL",}',
    "\x00\x01",
]

FILES = [
    "",
    "# nothing",
    "{}",
    "model: {class_path: ADACL}",
    "data: {class_path: Digits}",
    "model: ADACL\ndata: 3",
    "model: {class_path: ADACL}\ndata: {class_path: Digits}\ntrainer:\n  max_epochs: x",
    "model: {class_path: PaDiM, init_args: {weights: nowhere.pth}}\ndata: {class_path: SyntheticTextures}\ntrainer: {logger: false}",
    "model: {class_path: PaDiM, init_args: {weights: '{text}'}}\ndata: {class_path: SyntheticTextures}\ntrainer: {logger: false}",
    "model: {class_path: PaDiM, init_args: {backbone: resnet17}}\ndata: {class_path: SyntheticTextures}",
    "model: {class_path: DeepSVDD, init_args: {backbone: residual}}\ndata: {class_path: Digits}",
    "model: {class_path: IGD, init_args: {encoder_weights: nowhere, encoder: residual}}\ndata: {class_path: Digits}",
    "model: {class_path: RTFM, init_args: {weights: nowhere.pkl}}\ndata: {class_path: SyntheticVideos}\ntrainer: {logger: false}",
    "model: {class_path: PostHocScore, init_args: {segmenter_weights: nowhere}}\ndata: {class_path: SyntheticStreets}\ntrainer: {logger: false}",
    "model: {class_path: PostHocScore, init_args: {segmenter_adapter: {class_path: torch.nn.Linear}}}\ndata: {class_path: SyntheticStreets}",
    "model: {class_path: PostHocScore, init_args: {segmenter_adapter: x}}\ndata: {class_path: SyntheticStreets}",
    "model: {class_path: RTFM}\ndata: {class_path: Digits}\ntrainer: {logger: false}",
    "model: {class_path: RTFM}\ndata: {class_path: SyntheticVideos}\ntrainer: {logger: false}",
    "model: {class_path: ADACL}\ndata: {class_path: SyntheticVideos}\ntrainer: {logger: false}",
    "model: {class_path: ADACL}\ndata: {class_path: SyntheticTextures}\ntrainer: {logger: false}",
    "model: {class_path: DAE}\ndata: {class_path: Digits}\ntrainer: {logger: false}",
    "model: {class_path: FAnoGAN}\ndata: {class_path: Digits}\ntrainer: {logger: false}",
    "model: {class_path: DeepLabV3Plus, init_args: {backbone: mobilenetv3_small_050, backbone_weights: null}}\ndata: {class_path: Digits}\ntrainer: {logger: false}",
    "model: {class_path: ADACL, init_args: {in_channels: 3}}\ndata: {class_path: RoadAnomaly}\ntrainer: {logger: false}",
]

SHARED_FILES = (
    ("text.txt", "text:nothing but words\n"),
    ("page.html", "text:<!doctype html><html></html>"),
    ("binary.ckpt", "bytes:80020a0b0c0d"),
    ("image.png", "image"),
    ("folder", "folder"),
)

# Data sets on disks: data module, options, files --------------------------------------------------------------------------

_GOOD = "\n".join(f"ad/bottle/train/good/{number}.png=image" for number in range(6))
_TEST = (
    "ad/bottle/test/good/0.png=image\nad/bottle/test/broken/0.png=image\nad/bottle/ground_truth/broken/0_mask.png=mask"
)
_AD = "--data.root ad --data.image_size 16"
_NORMAL = "\n".join(f"f/normal/{number}.png=image" for number in range(6))
_ABNORMAL = "f/abnormal/0.png=image\nf/abnormal/1.png=image"
_F = "--data.root f --data.image_size 16"

FOLDERS: list[tuple[str, str, str]] = [
    ("MVTecAD", "--data.root nowhere", ""),
    ("MVTecAD", _AD, "ad=folder"),
    ("MVTecAD", _AD, "ad=text:a file"),
    ("MVTecAD", _AD, "ad/bottle=folder"),
    ("MVTecAD", _AD, "ad/bottle/train=folder"),
    ("MVTecAD", _AD, "ad/bottle/train/good=folder\n" + _TEST),
    ("MVTecAD", _AD, _GOOD),
    ("MVTecAD", _AD, _TEST),
    ("MVTecAD", _AD, _GOOD + "\nad/bottle/test/good/0.png=image\nad/bottle/test/broken/0.png=image"),
    ("MVTecAD", _AD, _GOOD + "\n" + _TEST + "\nad/bottle/test/broken/1.png=image"),
    ("MVTecAD", _AD, _GOOD + "\n" + _TEST + "\nad/bottle/ground_truth/broken/7_mask.png=mask"),
    ("MVTecAD", _AD, _GOOD + "\n" + _TEST + "\nad/bottle/train/good/9.png=text:no image"),
    ("MVTecAD", _AD, _GOOD + "\n" + _TEST + "\nad/bottle/train/good/9.png=bytes:89504e470d0a1a0a"),
    ("MVTecAD", _AD, _GOOD + "\n" + _TEST + "\nad/bottle/train/good/9.png=text:"),
    ("MVTecAD", _AD + " --data.category botle", _GOOD + "\n" + _TEST),
    ("MVTecAD", _AD + " --data.category []", _GOOD + "\n" + _TEST),
    ("MVTecAD", _AD + " --data.category [bottle,cable]", _GOOD + "\n" + _TEST),
    ("MVTecAD", _AD + " --data.category ''", _GOOD + "\n" + _TEST),
    ("MVTecAD", _AD + " --data.category ../ad/bottle", _GOOD + "\n" + _TEST),
    ("MVTecAD", _AD + " --data.category 3", _GOOD + "\n" + _TEST),
    ("MVTecAD", _AD + " --data.val_size 6", _GOOD + "\n" + _TEST),
    ("MVTecAD", _AD + " --data.num_anomalous 1", _GOOD + "\n" + _TEST),
    ("MVTecAD", _AD + " --data.num_anomalous 1 --data.anomalous_types [brokn]", _GOOD + "\n" + _TEST),
    ("MVTecAD", _AD + " --data.num_anomalous 1 --data.anomalous_types [good]", _GOOD + "\n" + _TEST),
    ("MVTecAD", _AD + " --data.anomalous_list l.txt", _GOOD + "\n" + _TEST + "\nl.txt=text:"),
    ("MVTecAD", _AD + " --data.anomalous_list l.txt", _GOOD + "\n" + _TEST + "\nl.txt=text:bottle/test/broken/0.png"),
    ("MVTecAD", _AD + " --data.anomalous_list l.txt", _GOOD + "\n" + _TEST + "\nl.txt=text:bottle/test/broken/1.png"),
    ("MVTecAD", _AD + " --data.anomalous_list l.txt", _GOOD + "\n" + _TEST + "\nl.txt=text:bottle/test/good/0.png"),
    ("MVTecAD", _AD + " --data.anomalous_list l.txt", _GOOD + "\n" + _TEST + "\nl.txt=text:bottle/train/good/0.png"),
    ("MVTecAD", _AD + " --data.channels 1", _GOOD + "\n" + _TEST),
    ("MVTecAD", _AD + " --data.channels 4", _GOOD + "\n" + _TEST),
    ("MVTecAD", _AD + " --data.center_crop 64", _GOOD + "\n" + _TEST),
    ("MVTecAD", _AD + " --data.transform [{class:Nothing}]", _GOOD + "\n" + _TEST),
    ("MVTecAD", _AD + " --data.transform [{class:Equalize,q:1}]", _GOOD + "\n" + _TEST),
    ("MVTecAD", _AD + " --data.transform [Equalize]", _GOOD + "\n" + _TEST),
    ("MVTecAD", _AD + " --data.train_transform [{class:RandomCrop,height:99,width:99}]", _GOOD + "\n" + _TEST),
    (
        "MVTecAD",
        "--data.root ad --data.image_size null",
        _GOOD + "\n" + _TEST + "\nad/bottle/train/good/9.png=image:20,20",
    ),
    ("Folder", "--data.root nowhere", ""),
    ("Folder", _F, "f=folder"),
    ("Folder", _F, _NORMAL),
    ("Folder", _F, _ABNORMAL),
    ("Folder", _F, _NORMAL + "\nf/abnormal=folder"),
    ("Folder", _F, "f/normal/0.png=image\n" + _ABNORMAL),
    ("Folder", _F + " --data.mask_dir masks", _NORMAL + "\n" + _ABNORMAL),
    (
        "Folder",
        _F + " --data.mask_dir masks",
        _NORMAL + "\n" + _ABNORMAL + "\nf/masks/0.png=mask:9,9\nf/masks/1.png=mask:9,9",
    ),
    (
        "Folder",
        _F + " --data.mask_dir masks --untrained true",
        _NORMAL + "\n" + _ABNORMAL + "\nf/masks/0.png=image\nf/masks/1.png=image",
    ),
    ("Folder", _F + " --data.test_fraction 0", _NORMAL + "\n" + _ABNORMAL),
    ("Folder", _F + " --data.test_fraction 2", _NORMAL + "\n" + _ABNORMAL),
    ("Folder", _F + " --data.num_anomalous 2", _NORMAL + "\n" + _ABNORMAL),
    ("Folder", _F + " --data.num_anomalous 1 --data.anomalous_types [broken]", _NORMAL + "\n" + _ABNORMAL),
    (
        "Folder",
        _F + " --data.anomalous_list l.txt",
        _NORMAL + "\n" + _ABNORMAL + "\nl.txt=text:abnormal/0.png\\nabnormal/0.png",
    ),
    ("Folder", _F + " --data.normal_dir good", _NORMAL + "\n" + _ABNORMAL),
    ("Folder", _F + " --data.normal_dir []", _NORMAL + "\n" + _ABNORMAL),
    ("Folder", _F + " --data.normal_dir abnormal", _NORMAL + "\n" + _ABNORMAL),
    ("Folder", _F + " --data.normal_test_dir nowhere", _NORMAL + "\n" + _ABNORMAL),
    ("Folder", _F + " --data.index nowhere.csv", _NORMAL + "\n" + _ABNORMAL),
    ("Folder", _F + " --data.index i.csv", _NORMAL + "\nf/i.csv=text:"),
    ("Folder", _F + " --data.index i.csv", _NORMAL + "\nf/i.csv=text:a,b\\n1,2\\n"),
    ("Folder", _F + " --data.index i.csv", _NORMAL + "\nf/i.csv=text:image,label,split\\nnowhere.png,0,train\\n"),
    ("Folder", _F + " --data.index i.csv", _NORMAL + "\nf/i.csv=text:image,label,split\\nnormal/0.png,maybe,train\\n"),
    ("Folder", _F + " --data.index i.csv", _NORMAL + "\nf/i.csv=text:image,label,split\\nnormal/0.png,0,trian\\n"),
    ("Folder", _F + " --data.index i.csv", _NORMAL + "\nf/i.csv=bytes:fffe00d8"),
    ("MNIST", "--data.root nowhere", ""),
    ("MNIST", "--data.root m", "m/MNIST/raw/train-images-idx3-ubyte=text:x"),
    ("CIFAR10", "--data.root nowhere", ""),
    ("CIFAR10", "--data.root c", "c/cifar-10-batches-py/data_batch_1=text:x"),
    ("FashionMNIST", "--data.root nowhere --data.normal_class 12", ""),
    ("UCFCrime", "--data.root nowhere", ""),
    ("UCFCrime", "--data.root u", "u=folder"),
    ("UCFCrime", "--data.root u --data.train_features a --data.test_features a", "u/a/Normal_1.npy=npy:4,1,8"),
    (
        "UCFCrime",
        "--data.root u --data.train_features a --data.test_features a --data.train_list null --data.test_list null",
        "u/a/Normal_1.npy=npy:4,1,8\nu/a/Abuse_1.npy=npy:4,1,8",
    ),
    (
        "UCFCrime",
        "--data.root u --data.train_features a --data.test_features a --data.train_list null --data.test_list null",
        "u/a/Normal_1.npy=npy:4,1,8\nu/a/Abuse_1.npy=text:x\nu/Temporal_Anomaly_Annotation.txt=text:Abuse_1.mp4 Abuse x 5 -1 -1\\n",
    ),
    (
        "UCFCrime",
        "--data.root u --data.train_features a --data.test_features a --data.train_list l.txt --data.test_list l.txt",
        "u/a/Normal_1.npy=npy:4,1,8\nu/l.txt=text:",
    ),
    ("ShanghaiTech", "--data.root nowhere", ""),
    (
        "ShanghaiTech",
        "--data.root s",
        "s/SH_Train_ten_crop_i3d/01_001.npy=npy:4,1,8\ns/SH_Test_ten_crop_i3d/01_0014.npy=npy:4,1,8",
    ),
    ("XDViolence", "--data.root nowhere", ""),
    (
        "XDViolence",
        "--data.root x --data.train_rgb a --data.test_rgb b",
        "x/a/v_label_A.npy=text:x\nx/b/v_label_A.npy=npy:4,8",
    ),
    ("PolypVideo", "--data.root nowhere", ""),
    ("UCSDPedWeak", "--data.root nowhere", ""),
    ("UCSDPedWeak", "--data.root nowhere --data.split 99", ""),
    ("Cityscapes", "--data.root nowhere", ""),
    ("Cityscapes", "--data.root c", "c/leftImg8bit=folder\nc/gtFine=folder"),
    (
        "Cityscapes",
        "--data.root c",
        "c/leftImg8bit/train/aachen/a_000000_000000_leftImg8bit.png=image\nc/gtFine=folder",
    ),
    ("CamVid", "--data.root nowhere", ""),
    ("CamVid", "--data.root c --data.anomalous_classes [Carr]", "c=folder"),
    ("LostAndFound", "--data.root nowhere", ""),
    ("RoadAnomaly", "--data.root nowhere", ""),
    ("RoadAnomaly", "--data.root r", "r/frames/a.png=image"),
    ("FishyscapesStatic", "--data.root nowhere", ""),
]

# Options in Python ---------------------------------------------------------------------------------------------------------

_SIZES = """
image_size=0
image_size=-8
image_size='32'
image_size=8.5
image_size=(32,)
image_size=(32, 32, 32)
image_size=None
image_size=(32, 0)
"""
_SEGMENTER = """
backbone='resnet17', backbone_weights=None
backbone=3
num_classes=0
num_classes='19'
output_stride=7, backbone='mobilenetv3_small_050'
output_stride=0
width=0
window=0
window=(64,), backbone='mobilenetv3_small_050', width=8
window='64'
stride=8, backbone='mobilenetv3_small_050', width=8
window=8, stride=16, backbone='mobilenetv3_small_050', width=8
blend='mean', backbone='mobilenetv3_small_050', width=8
"""

OPTIONS = {
    "ADACL": """
in_channels='3'
in_channels=None
widths=4
widths=(4, 4)
widths=None
widths=('a', 'b', 'c', 'd')
strides=(1, 2, 2)
kernel_size=4
kernel_size='3'
labels='continous'
loss='mae'
operations=['rotat']
operations='rotate'
operations=[]
operations=3
mix_share=0.5
mix_share=(0.1,)
mix_share=None
low=0.8, high=0.2
lr_min=0.1, lr_max=0.01
hiden=3
""",
    "DeepSVDD": _SIZES
    + """
backbone='lenett'
backbone='resnet18', in_channels=4, ae_epochs=0
backbone='residual', image_size=30, weights=None
in_channels=5.5
widths=()
widths=(0, 4)
widths=[8] * 12
objective='soft'
nu=0
nu=2
score='sum'
score='dist'
lr_decay='cosine'
lr_milestones=5
lr_milestones=['a']
betas=0.9
betas=(0.9,)
betas=(1.0, 0.9)
ae_epochs=-1
initialization='kaiming'
image_size=2
reconstruction_weight=1.0, image_size=28
ssim_window=4, reconstruction_weight=1.0, image_size=32
weights=3, backbone='resnet18', ae_epochs=0
""",
    "IGD": _SIZES
    + """
scope='globl'
encoder='resnet17'
encoder=3
image_size=30, encoder='residual', encoder_weights=None
patch_size=7, scope='local'
patch_stride=0
patch_size=64, patch_stride=128, scope='local'
pixel_space='rgb'
critic_norm='batch'
critic_activation='relu'
xi_global=-1
ssim_window=100, encoder='residual', encoder_weights=None, image_size=16
ssim_scales=9, encoder='residual', encoder_weights=None, image_size=16
latent_dim='128'
e_step_every=0
""",
    "PaDiM": """
backbone='resnet17'
backbone=None
backbone=''
layers=[9]
layers=[]
layers='2'
layers=2
layers=[1.5]
num_channels=0
num_channels=10000
num_channels='all'
num_channels=1.5
normalization='imagnet'
score='smooth'
border='zero'
sigma=-1
eps=-1
seed=-1
weights=3
backbone='vit_tiny_patch16_224'
""",
    "StudentTeacher": """
patch_sizes=17
patch_sizes=()
patch_sizes=(16,)
patch_sizes=('a',)
patch_sizes=(3,)
num_students=0
teacher='resnet17'
teacher_epochs=-1
teacher_size='x'
pool='avg'
distilled_teachers=3
distillation_weight=-1
""",
    "KnowledgeDistillation": _SIZES
    + """
teacher='resnet17'
teacher_size=0
encoder='resnet17'
patch_size=0
image_size=30
patches_per_image=0
""",
    "DAE": _SIZES
    + """
in_channels=0
widths=()
widths=3
widths=(0, 4)
loss='mae'
loss='ms_ssim', image_size=8, ssim_window=11
noise_std=-1
latent_dim=None
""",
    "VAE": _SIZES
    + """
likelihood='normal'
score='mse'
samples=-1
samples=1.5
beta=-1
score='elbo', likelihood='poisson'
widths=8
""",
    "FAnoGAN": _SIZES
    + """
in_channels=4
in_channels=2
in_channels=0
variant='izi_f'
variant=None
gan_epochs=0
score='residual'
feature='generator'
scope='both_'
encoder='resnet17'
encoder='resnet18', in_channels=5
local_encoder='resnet17', scope='local'
initialization='tf'
image_size=48
patch_size=20, scope='local'
patch_stride=64, patch_size=32, scope='local'
latent_dim=0
width=0
encoder_alpha=1
""",
    "MSSSIMAutoencoder": _SIZES
    + """
scope='globl'
loss='ssim'
encoder='resnet17'
nu=2
rho=2
warmup_epochs=-1
pixel_space='rgb'
ssim_window=0
""",
    "DeepLabV3Plus": _SEGMENTER
    + """
score='softmax', backbone='mobilenetv3_small_050', width=8
optimizer='adamw', backbone='mobilenetv3_small_050', width=8
border_loss='sum', backbone='mobilenetv3_small_050', width=8
strict_classes=3, backbone='mobilenetv3_small_050', width=8
""",
    "PEBAL": "abstention='fixd', backbone='mobilenetv3_small_050', width=8\nregularizer='x', backbone='mobilenetv3_small_050', width=8\n"
    "trunk_mode='x', backbone='mobilenetv3_small_050', width=8\noutlier_form='x', backbone='mobilenetv3_small_050', width=8\n"
    "margin_in=-6.0, margin_out=-12.0, backbone='mobilenetv3_small_050', width=8",
    "DeepGamblers": "payoff=0\nscore='x', backbone='mobilenetv3_small_050', width=8\noutlier_clamp=2",
    "EntropyMaximisation": "outlier_weight=-1\nbackbone='vgg999'\nsegmenter_weigths='x'",
    "PostHocScore": """
score='softmax', backbone='mobilenetv3_small_050', width=8
temperature=0
sample=0
boundary_width=4, boundary_steps=3, backbone='mobilenetv3_small_050', width=8
boundary_steps=0
segmenter_adapter=3
segmenter_adapter='network'
segmenter_adapter=torch.nn.Identity(), own_segmenter=torch.nn.Identity()
score='mahalanobis', segmenter_adapter=torch.nn.Identity()
score='mahalanobis', segmenter_adapter=torch.nn.Identity(), feature_layer='nothing'
""",
    "DeepMIL": """
feature_dim=0
feature_dim='2048'
hidden=512
hidden=(512,)
hidden=(512, 128, 32)
hidden=(0, 1)
dropout=1.0
top_k=0
top_k=1.5
reduction='max'
optimizer='sgd'
mode='snippet'
segments=0
normalise=True
""",
    "RTFM": """
variant='published'
hidden=3
top_k=0
top_k=99
attention_width='third'
mag_loss='x'
bag_loss='x'
sparsity='x'
feature_dim=1.5
margin=0
train_crops=0
segments=-1
weights=3
""",
    "ARNet": """
alpha=0.5
alpha=0
hidden=0
hidden=(512,)
variant='thesis'
center_weight=-1
dropout=1.0
segments=0
""",
    "CLAWS": """
hidden=512
hidden=(512,)
rescale='yes'
segments=1
lr_drop_steps=0
cluster_weight=-1
dropout=1.0
""",
    "MIST": """
groups=0
group_size=0
group_size=1.5
ranking='video'
normal_labels='ones'
class_weights=(0.0, 0.0)
class_weights=1.0
class_weights=(-1.0, 1.0)
generator_epochs=0
hidden=3
""",
    "URDMU": """
width=0
depth=0
heads=0
head_width=0
normal_items=0
anomalous_items=-1
margin=0
divergence_weight=-1
dropout=1.0
segments=0
""",
    "GCNAnomaly": """
hidden=512
cleaner_widths=(0, 1)
cleaner_widths=(512,)
rounds=-1
rounds=1.5
classifier_epochs=0
cleaner_epochs=0
uncertainty_samples=1
similarity='cosine'
cleaner_lr=-1
momentum=1.0
""",
    "CTMIL": """
preset='defaults'
tokens='pixels'
heads=3, embed_dim=16
heads=0
embed_dim=0
depth=0
kernel=2
kv_stride=0
encoder='lstm'
attention_scale='x'
edge='x'
pairs='x'
regularizer='x'
hidden=(1,)
dropout=-0.1
""",
    "Digits": "normal_class=11\nnormal_class=1.5\nnormal_class='cat'\nnormal_class=None\nnormal_class=[3]\nimage_size='32'\ntrain_transform=3\nvalidation='x'\n"
    "train_fraction=0\ncontamination=1.0\nval_size='x'\nval_size=None\nroot='x'\nnum_anomalous=-1\nnum_anomalous='3'\nnum_anomalous=2.5\n"
    "num_anomalous=True, anomalous_list='x'\nanomalous_types=4\nanomalous_types='4'\nanomalous_types=[]\nanomalous_types=[4.5]\nanomalous_seed=-1\n"
    "anomalous_seed='x'\nanomalous_list=3\nanomalous_list='x', num_anomalous=3\nbalanced=1.0\nbalanced='x'\nbalanced=0.0\nbalanced=None",
    "SyntheticTextures": "channels=2\nchannels='3'\nimage_size=(32, 32)\nimage_size=1\ntrain_size=0\ntest_size='x'\ndifficulty=2\ndifficulty='x'\nval_anomalies=-1\nvalidation=None",
    "SyntheticVideos": "layout='x'\nlength_rule='x'\nfeature_dim=0\ncrops=0\nsegments=0\nbatches_per_epoch=0\ncache=3\nscene='x'",
    "SyntheticStreets": "image_size=64\nimage_size=(64,)\nimage_size=(1, 1)\ncrop_size=0\nscales=()\nscales=1.0\nscales=(0.0,)\nscale_range=(2, 1)\nflip=2\n"
    "outliers=3\nvalidation='augmented'\ntrain_transform=3\ntrain_transform=['x']\noutlier_exclude='x'\noutlier_rescale=3",
    "MVTecAD": "root=3\ncategory=3\ncategory=None\nimage_size='x'\nimage_size=(1, 2, 3)\ncenter_crop=0\nchannels=2\ntransform=3\ntransform=[3]",
    "Folder": "root=3\nnormal_dir=3\nnormal_dir=[]\nabnormal_dir=None\nmask_dir=3\ntest_fraction=1.0\nindex=3\nchannels=0",
    "Calibrate": "rule='x'\nrule='fixed'\nimage_threshold=1.0\nquantile=0\nquantile='x'\nrule='fixed', image_threshold='x'\nrule=None",
    "AnomalyMetrics": "image=['AUROX']\nimage='AUROC'\nimage=3\nimage=None\nframe=['AUPRO']\npixel=['Accuracyy']\nextra=3\nextra={'image': {'x': 3}}\nextra={'nothing': {}}\nfilename=3\nfilename=''\nexact='x'",
    "ComponentMetrics": "threshold='x'\nthreshold=nan\nmin_object=-1\nmin_predicted=1.5\nfilename=3",
    "SegmentationMetrics": "num_classes=0\nnum_classes='x'\nfilename=3",
    "HeatmapExport": "colormap='x'\ncolormap=3\nopacity=2\nopacity='x'\nraw='jpg'\nmax_images=-1\nlog_images=-1\nfolder=3",
    "ScoreCurves": "limit=-1\nfirst='x'\nfps=0\nfps='x'\nsave_scores='x'\nvideos=3\nfolder=3",
    "ScoreTable": "format='x'\npath=3\nformat=None",
    "ScorePlots": "folder=3\nfoldr='x'",
    "metrics.AUROC": "bins=0\nbins=1.5\nbins='x'\nexact='x'\nregion=True",
    "metrics.AUPRO": "max_fpr=0\nmax_fpr=2\nmax_fpr='x'",
    "metrics.FPR95": "tpr=0\ntpr=2\ntpr='x'",
    "metrics.MeanIoU": "num_classes=0\nnum_classes=None\nnum_classes='x'",
    "metrics.ECE": "bins=0\nbins='x'",
    "metrics.SIoU": "min_object=-1\nmin_object='x'",
}  # fmt: skip

# Batches ---------------------------------------------------------------------------------------------------------------------

HOW = {
    "called": "tiny('{method}').eval()({batch})",
    "fitted": "fit('{method}', {batch})",
    "validated": "Trainer(**QUIET).validate(tiny('{method}').eval(), Loader([{batch}]))",
    "tested": "Trainer(**QUIET).test(tiny('{method}').eval(), Loader([{batch}]))",
    "predicted": "Trainer(**QUIET).predict(tiny('{method}').eval(), Loader([{batch}]))",
}

_FOREIGN = """
{{'img': images(4, C)}}
{{'image': images(4, C), 'label': ['good', 'bad', 'good', 'good']}}
{{'image': images(4, C), 'label': [0, 1, 2, 0]}}
{{'image': images(4, C), 'label': torch.zeros(3)}}
{{'image': images(4, C), 'mask': torch.zeros(4, 1, 3, 3)}}
{{'image': images(4, C), 'mask': 'mask.png'}}
{{'image': images(4, C).byte()}}
{{'image': images(4, C)[0]}}
{{'image': images(0, C)}}
{{'image': [1, 2, 3]}}
{{'image': 'a.png'}}
{{'image': images(4, C) * nan}}
{{'image': images(4, C).double()}}
'a.png'
3
[]
(images(4, C), torch.zeros(4), torch.zeros(4, 1, SIDE, SIDE), 3)
"""
_FOREIGN = _FOREIGN.replace("{{", "{").replace("}}", "}")
_IMAGES = """
images(2, 2)
images(2, 4)
images(2, 5)
images(2, C).byte()
images(2, C)[0]
images(0, C)
images(2, C).numpy()
[1, 2]
None
'a.png'
images(2, C).double()
images(2, C).unsqueeze(0)
"""
_FITTED = "{'image': images(4, 2)}\n{'image': images(4, 5)}\n{'image': images(0, C)}\n{'image': images(4, C) * nan}\n{'image': images(4, C).double()}"
_OF_GREY = "{'image': images(4, 3)}"
_VIDEO = """
{'snippet_features': torch.rand(4, 6, 7), 'label': [0, 0, 1, 1]}
{'snippet_features': torch.rand(4, 6, 16)}
{'snippet_features': torch.rand(4, 6, 16), 'label': [0, 0, 0, 0]}
{'snippet_features': torch.rand(4, 6, 16), 'label': [1, 1, 1, 1]}
{'snippet_features': torch.rand(4, 6, 16), 'label': ['a', 'b', 'c', 'd']}
{'snippet_features': torch.rand(4, 6, 16), 'label': [0, 1]}
{'snippet_features': torch.rand(4, 6, 16), 'label': [0, 0, 1, 1], 'length': [9, 1, 1, 1]}
{'snippet_features': torch.rand(4, 6, 16), 'label': [0, 0, 1, 1], 'length': ['a', 'b', 'c', 'd']}
{'snippet_features': torch.rand(4, 6, 16).double(), 'label': [0, 0, 1, 1]}
{'snippet_features': torch.rand(4, 6, 16).long(), 'label': [0, 0, 1, 1]}
{'snippet_features': torch.rand(4, 16), 'label': [0, 0, 1, 1]}
{'snippet_features': torch.rand(0, 6, 16), 'label': []}
{'snippet_features': torch.rand(4, 0, 16), 'label': [0, 0, 1, 1]}
{'snippet_features': torch.rand(4, 6, 16) * nan, 'label': [0, 0, 1, 1]}
{'snippet_features': [torch.rand(6, 16)] * 4, 'label': [0, 0, 1, 1]}
{'features': torch.rand(4, 6, 16), 'label': [0, 0, 1, 1]}
{'image': torch.rand(4, 3, 16, 16), 'label': [0, 0, 1, 1]}
"""
_VIDEO_CHECKED = _VIDEO.split("[1, 1, 1, 1]}\n")[1]  # what validation refuses, too
_VIDEO_CALLED = """
torch.rand(2, 1, 6, 7)
torch.rand(2, 6, 16)
torch.rand(6, 16)
torch.rand(0, 1, 6, 16)
torch.rand(2, 1, 0, 16)
torch.rand(2, 1, 6, 16).double()
torch.rand(2, 1, 6, 16).long()
torch.rand(2, 1, 6, 16).numpy()
torch.rand(2, 1, 6, 16), torch.tensor([6])
torch.rand(2, 1, 6, 16), [6, 6]
None
"""
_TARGETS = """
{'image': images(4, 3)}
{'image': images(4, 3), 'target': torch.full((4, SIDE, SIDE), 77)}
{'image': images(4, 3), 'target': torch.full((4, SIDE, SIDE), -1)}
"""
_SCENE = """
{'image': images(4, 3), 'target': torch.zeros(4, 9, 9).long()}
{'image': images(4, 3), 'target': torch.zeros(4, SIDE, SIDE)}
{'image': images(4, 3), 'target': 'road'}
{'image': images(4, 2), 'target': torch.zeros(4, SIDE, SIDE).long()}
{'image': images(4, 4), 'target': torch.zeros(4, SIDE, SIDE).long()}
{'image': images(4, 3) * nan, 'target': torch.zeros(4, SIDE, SIDE).long()}
{'image': images(0, 3), 'target': torch.zeros(0, SIDE, SIDE).long()}
{'image': images(4, 3).double(), 'target': torch.zeros(4, SIDE, SIDE).long()}
{'snippet_features': torch.rand(4, 6, 16), 'label': [0, 0, 1, 1]}
"""
_SCENE_TESTED = """
{'image': images(1, 3), 'ood_mask': torch.zeros(1, 9, 9).byte()}
{'image': images(1, 3), 'ood_mask': torch.rand(1, SIDE, SIDE)}
{'image': images(1, 2)}
{'image': images(0, 3)}
{'image': images(1, 3), 'ood_mask': 'x'}
"""

_GREY = "ADACL DAE VAE FAnoGAN DeepSVDD"
_ANY = "IGD MSSSIMAutoencoder KnowledgeDistillation PaDiM StudentTeacher"
_VIDEOS = "DeepMIL RTFM CTMIL ARNet GCNAnomaly CLAWS MIST URDMU"
_SCENES = "DeepLabV3Plus PEBAL DeepGamblers EntropyMaximisation PostHocScore"
BATCHES: list[tuple[str, dict[str, str]]] = [
    (f"{_GREY} {_ANY}", {"called": _IMAGES, "fitted": _FITTED}),
    (_GREY, {"called": "images(2, 3)", "fitted": _OF_GREY, "validated": _OF_GREY}),
    ("ADACL PaDiM", {"fitted": _FOREIGN}),
    ("ADACL", {"validated": _FOREIGN}),
    (f"{_GREY} {_ANY}", {"fitted": "{'snippet_features': torch.rand(4, 6, 16)}"}),
    ("DAE FAnoGAN DeepSVDD IGD MSSSIMAutoencoder KnowledgeDistillation", {"fitted": "{'image': images(4, C, 24)}"}),
    ("PaDiM IGD DeepSVDD FAnoGAN StudentTeacher PostHocScore", {"called": "images(2, C)", "tested": "{'image': images(2, C)}", "predicted": "{'image': images(2, C)}"}),
    (_VIDEOS, {"fitted": _VIDEO, "called": _VIDEO_CALLED}),
    ("RTFM", {"validated": _VIDEO_CHECKED}),
    ("DeepLabV3Plus PEBAL DeepGamblers EntropyMaximisation", {"fitted": _TARGETS}),
    ("DAE VAE FAnoGAN DeepSVDD IGD MSSSIMAutoencoder", {"called": "images(2, C, 1)", "fitted": "{'image': images(4, C, 1)}"}),
    (_SCENES, {"fitted": _SCENE, "called": "images(1, 2)\nimages(1, 4)\nimages(1, 3).byte()\nimages(1, 3)[0]\nimages(0, 3)\nNone\nimages(1, 3).double()"}),
    ("DeepLabV3Plus", {"tested": _SCENE_TESTED}),
]  # fmt: skip

# Calls in Python ---------------------------------------------------------------------------------------------------------------

CALLS = """
Trainer(**QUIET).fit(tiny('PaDiM'), Loader([]))
Trainer(**QUIET).fit(tiny('DeepSVDD'), Loader([]))
Trainer(**QUIET).test(tiny('PaDiM'), datamodule=SyntheticTextures(train_size=8, test_size=4))
Trainer(**QUIET).predict(tiny('IGD'), datamodule=Digits(image_size=16))
Trainer(**QUIET).validate(tiny('PostHocScore'), datamodule=SyntheticStreets(train_size=2, val_size=2, test_size=2, image_size=(32, 64)))
Trainer(**QUIET).fit(tiny('ADACL'), datamodule=SyntheticTextures(train_size=16, test_size=4, image_size=16))
Trainer(**QUIET).fit(tiny('ADACL'), datamodule=SyntheticVideos(train_size=8, test_size=4))
Trainer(**QUIET).fit(tiny('RTFM'), datamodule=SyntheticVideos(train_size=8, test_size=4, feature_dim=8))
Trainer(**QUIET).fit(tiny('RTFM'), datamodule=Digits(image_size=16))
Trainer(**QUIET).fit(tiny('DeepLabV3Plus'), datamodule=Digits(image_size=16))
Trainer(**QUIET, callbacks=[L.EarlyStopping('val/image_AUROC')]).fit(tiny('ADACL'), datamodule=Digits(image_size=8))
Trainer(**QUIET, callbacks=[L.EarlyStopping('val/image_AUROC', mode='max'), AnomalyMetrics()]).fit(tiny('ADACL'), datamodule=Digits(image_size=8))
Trainer(**{**QUIET, 'enable_checkpointing': True}, callbacks=[L.ModelCheckpoint(monitor='val/image_AP'), AnomalyMetrics()]).fit(tiny('ADACL'), datamodule=Digits(image_size=8))
Trainer(**{**QUIET, 'enable_checkpointing': True}, callbacks=[L.ModelCheckpoint(monitor='nothing')]).fit(tiny('ADACL'), datamodule=Digits(image_size=8))
Trainer(**QUIET).test(tiny('ADACL'), datamodule=Digits(image_size=8), ckpt_path='{other}')
Trainer(**QUIET).test(tiny('ADACL'), datamodule=Digits(image_size=8), ckpt_path='{text}')
Trainer(**QUIET).fit(tiny('ADACL'), datamodule=Digits(image_size=8), ckpt_path='{other}')
Trainer(**QUIET).fit(tiny('ADACL'), datamodule=Digits(image_size=8, validation='x'))
ADACL.load_from_checkpoint('{other}')
ADACL.load_from_checkpoint('{text}')
ADACL.load_from_checkpoint('nowhere.ckpt')
ADACL.load_from_checkpoint('{folder}')
ADACL.load_from_checkpoint('{binary}')
ADACL.load_from_checkpoint('{ckpt}', hiden=3)
ADACL.load_from_checkpoint('{ckpt}', hidden=5)
PaDiM.load_from_checkpoint('{ckpt}')
tiny('ADACL').load_state_dict({})
tiny('PaDiM').load_state_dict({'mean': torch.zeros(3)})
ADACL(1)
Digits(3)
as_batch(3)
as_batch({})
as_batch([])
as_batch(None)
as_batch((1, 2, 3, 4))
as_batch({'image': torch.rand(2, 3, 4, 4), 'label': 'good'})
as_batch({'image': torch.rand(2, 3, 4, 4), 'label': ['good', 'bad']})
as_batch({'image': torch.rand(2, 3, 4, 4), 'label': [None, 1]})
as_batch({'image': torch.rand(2, 3, 4, 4), 'label': np.array(['0', '1'])})
as_batch({'image': torch.rand(2, 3, 4, 4), 'label': torch.tensor([0.5, 1])})
as_batch({'image': torch.rand(2, 3, 4, 4), 'label': [nan, 1]})
as_batch({'image': torch.rand(2, 3, 4, 4), 'label': {'a': 1}})
as_batch({'image': torch.rand(2, 3, 4, 4), 'mask': ['a.png', 'b.png']})
as_batch({'image': torch.rand(2, 3, 4, 4), 'mask': 3})
as_batch({'image': torch.rand(2, 3, 4, 4), 'target': 'x'})
as_batch({'image': torch.rand(2, 3, 4, 4), 'target': [[1, 2], [3]]})
as_batch({'image': torch.rand(2, 3, 4, 4), 'ood_mask': torch.rand(2, 4, 4)})
as_batch({'image': np.zeros((2, 3, 4, 4))})
as_batch({'snippet_features': 3})
as_batch({'snippet_features': torch.rand(2, 3, 4), 'label': 'x'})
as_batch({'snippet_features': torch.rand(2, 3, 4), 'frame_label': torch.zeros(5)})
as_batch({'snippet_features': torch.rand(2, 3, 4), 'frame_count': 'x', 'frame_label': torch.zeros(5)})
as_batch({'snippet_features': torch.rand(2, 3, 4), 'length': torch.tensor([0, 9])})
metrics.AUROC().compute()
metrics.AUROC().update(torch.rand(3), torch.tensor([0, 1]))
metrics.AUROC().update(torch.rand(2), torch.tensor([0, 2]))
metrics.AUROC().update(torch.tensor([nan, 1]), torch.tensor([0, 1]))
metrics.AUROC().update([0.1, 0.2], [0, 1])
metrics.AUROC().update(np.zeros(2), np.zeros(2))
metrics.AUROC().update(torch.rand(2), None)
metrics.AUROC().update(torch.rand(2), ['good', 'bad'])
metrics.AUROC().update(torch.rand(2).to(torch.complex64), torch.tensor([0, 1]))
metrics.auroc(torch.rand(2), torch.tensor([1, 1]))
metrics.auroc(torch.rand(0), torch.zeros(0))
metrics.auroc(3, 4)
metrics.average_precision(torch.rand(2), torch.rand(3))
metrics.AP(exact=False).update(torch.rand(3), torch.tensor([0, 1]))
metrics.AUPRO().update(torch.rand(3), torch.tensor([0, 1, 1]))
metrics.AUPRO().update(torch.rand(1, 1, 4, 4), torch.zeros(1, 1, 5, 5))
metrics.AUPRO().update(torch.rand(1, 3, 4, 4), torch.zeros(1, 3, 4, 4))
metrics.aupro(torch.rand(1, 4, 4), torch.zeros(1, 4, 4), max_fpr=0)
metrics.Accuracy().update(torch.rand(3), torch.tensor([0, 1, 1]))
metrics.Accuracy().update(torch.tensor([0, 1]), torch.tensor([0, 1, 1]))
metrics.Accuracy().compute()
metrics.Dice().update(torch.tensor([0, 1, 3]), torch.tensor([0, 1, 1]))
metrics.MeanIoU(num_classes=3).update(torch.tensor([[[5]]]), torch.tensor([[[1]]]))
metrics.MeanIoU(num_classes=3).update(torch.rand(1, 3, 3), torch.zeros(1, 3, 3))
metrics.MeanIoU(num_classes=3).update(torch.zeros(1, 3, 3).long(), torch.zeros(1, 4, 4).long())
metrics.ECE().update(torch.tensor([2.0]), torch.tensor([1]))
metrics.ECE().update(torch.rand(2), torch.rand(3))
metrics.SIoU().update(torch.rand(2), torch.rand(2))
metrics.SIoU().update(torch.rand(1, 4, 4), torch.zeros(1, 5, 5))
metrics.scored_pixels(torch.rand(1, 4, 4), torch.zeros(1, 4, 4))
metrics.scored_pixels(torch.rand(1, 1, 4, 4), torch.full((1, 4, 4), 7))
metrics.F1Max()
metrics.F1Max().update(torch.rand(2), torch.rand(2))
metrics.EER().update('x', 'y')
metrics.FAR().update(torch.tensor([True]), 3)
Calibration().set('pixels', threshold=1.0, low=0.0, high=1.0)
Calibration().set('image', threshold=nan, low=0.0, high=1.0)
frame_scores(torch.rand(2, 3), torch.tensor([3]))
frame_scores(torch.rand(2, 3), torch.tensor([3, 3]), torch.tensor([1]))
"""
CALLS = CALLS.replace("metrics.F1Max()\n", "")

OTHER_CHECKPOINT = """
model = DAE(in_channels=1, image_size=8, widths=(4,), latent_dim=2)
trainer = Trainer(**QUIET)
trainer.strategy.connect(model)
trainer.fit(model, datamodule=Digits(image_size=8))
trainer.save_checkpoint(file)
"""


# What the lines name -------------------------------------------------------------------------------------------------------------

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "max_epochs": 1,
    "limit_train_batches": 1,
    "limit_val_batches": 1,
    "limit_test_batches": 1,
    "limit_predict_batches": 1,
}
SIDE = 16
C = 1
HELPERS = ("QUIET", "SIDE", "C", "tiny", "fit", "images", "Loader")

CHANGES: dict[str, dict[str, Any]] = {
    "DAE": {"image_size": 16, "widths": (4, 4)},
    "VAE": {"image_size": 16, "widths": (4, 4)},
    "FAnoGAN": {"image_size": 16, "gan_epochs": 1},
    "PaDiM": {"backbone": "test_resnet", "num_channels": 8},
    **{method: {"width": 8} for method in _SCENES.split()},
}
"""Options other than those of ``tests/configs``, so that images of 16 x 16 pixels fit."""


def tiny(method: str, **changes: Any) -> Any:
    """A small model of a method, unfitted."""
    import tiny_runs

    import anomaly_suite.methods

    options = {**tiny_runs.config(method)["model"], **CHANGES.get(method, {}), **changes}
    return getattr(anomaly_suite.methods, method)(**options)


def images(count: int, channels: int, side: int = SIDE) -> Any:
    """Random images in [0, 1]."""
    import torch

    return torch.rand(count, channels, side, side)


class Loader(list[Any]):
    """Anybody's loader: what is given, as it is."""


def fit(method: str, batch: Any) -> None:
    """Fit a small model on one batch, two epochs."""
    from lightning.pytorch import Trainer

    Trainer(**{**QUIET, "max_epochs": 2}).fit(tiny(method), Loader([batch]))


COMMANDS += medical.COMMANDS
FIT += medical.FIT
FOLDERS += medical.FOLDERS
OPTIONS |= medical.OPTIONS
BATCHES += medical.BATCHES
