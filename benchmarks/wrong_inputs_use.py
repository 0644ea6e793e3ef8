"""Wrong inputs of ``wrong_inputs.py`` around new pictures, exported files and help: command lines, and the files that lie beside all of them.

Words in braces are as in ``wrong_inputs_table.py``.
"""

from __future__ import annotations

NOT_RUNS = (
    ("no_model/config.yaml", "text:data: {class_path: Digits}\n"),
    ("no_checkpoint/config.yaml", "text:model: {class_path: ADACL}\ndata: {class_path: Digits}\n"),
    ("not_yaml/config.yaml", "text:model: [}\n"),
    ("not_yaml/checkpoints/model.ckpt", "bytes:80020a0b0c0d"),
    ("gone_class/config.yaml", "text:model: {class_path: nowhere.Method}\ndata: {class_path: Digits}\n"),
    ("gone_class/checkpoints/model.ckpt", "bytes:80020a0b0c0d"),
    ("binary/config.yaml", "bytes:80020a0b0c0d"),
    ("empty_run/config.yaml", "text:"),
)
FILES = (
    ("new/a.png", "image"),
    ("cut/a.png", "bytes:89504e470d0a1a0a0000"),
    ("empty.png", "text:"),
    ("empty", "folder"),
    ("notes.txt", "text:nothing but words\n"),
    ("model.onnx", "bytes:80020a0b0c0d"),
    ("no_path.csv", "text:file\nnew/a.png\n"),
    ("empty.csv", "text:"),
    ("gone.csv", "text:path\nnowhere.png\n"),
    ("words.jsonl", "text:not json\n"),
    ("cut.mp4", "bytes:000000186674797069736f6d"),
    *NOT_RUNS,
)
_RUNS = ("nowhere", "empty", "notes.txt", "no_model", "no_checkpoint", "not_yaml", "gone_class", "binary", "empty_run")

PREDICT = """
nowhere.png
nowhere/
new nowhere.png
empty
notes.txt
model.onnx
'*.jpg'
'nowhere/**/*.png'
cut
cut/a.png
cut/a.png --on_error raise
cut --on_error skipp
cut --on_error
empty.png
no_path.csv
empty.csv
gone.csv
words.jsonl
cut.mp4
new --output
new --output notes.txt
new --output notes.txt/here
new --outputt here
new --run nowhere
new --ckpt_path nowhere.ckpt
new --ckpt_path {other}
new --ckpt_path {binary}
new --model PaDiM
new --model.hidden 9
new --data.image_size 0
new --data.eval_batch_size 0
new --data.eval_batch_size many
new --data MVTecADD
new --data SyntheticVideos
new --data SyntheticStreets
new --tile.size 0
new --tile.size 8
new --tile.size [8]
new --tile.size eight
new --tile.size 8 --tile.overlap 1
new --tile.overlap x
new --tile.overlapp 0.2
new --tiles 8
new --trainer.accelerator gpuu
new --trainer.precision 7
new --heatmaps.max_images -1
new --heatmaps.max_images few
new --heatmaps.raw tif
new --heatmaps.opacity 2
new --table.format xls
new --curves.fps 0
new --disable heatmap
new --disable [heatmaps,nothing]
new --features.network c3d
new --features.netwrk c3d
new --features.crops 3
new --features.device nowhere
new --features.weights
--on_error skip
--output here
--features.network c3d
--help pictures
"""
EXPORT = """
--format onnxx
--format
--formatt onnx
--exporter tracee
--output
--output notes.txt/model.onnx
--ckpt_path nowhere.ckpt
--ckpt_path {binary}
--ckpt_path {other}
--license
--model PaDiM
--help everything
new
"""
TRAIN = """
--trainer.max_epochs -3
--trainer.fast_dev_run true
--trainer.enable_checkpointing false
--model.hiddn 3
--data.normal_class 77
--disable [tables]
--run {run}
--calibrate.rule best
--untrained true
--tile.size 8
--then
--then nowhere.yaml
--help al
new
"""
CALIBRATE = """
--calibrate.rule quantil
--calibrate.rule quantile --calibrate.quantile 0
--calibrate.rule quantile --calibrate.quantile -1
--calibrate.rule fixed
--calibrate.rule fixed --calibrate.image_threshold x
--calibrate.image_threshold nan
--calibrate.nothing 1
--data.validation test1
--ckpt_path nowhere.ckpt
--run
--help rules
"""
WORDS = """
fit --help PaDIM
fit --model.help PaDIM
fit --model.help nowhere.Method
fit --data.help MVTec
fit --model PaDIM --help
fit --data MVTecADD -h
test --help heatmaps
train
train --config
train --config nowhere.yaml
train --config one_class/padim_mvtec
train --model PaDiM
train --model PaDiM --data
train --run runs
predict
predict new
predict --run
predict --run new
export
export --run
export nowhere
calibrate
calibrate new
extract-features
extract-features nowhere out
extract-features new out --network c3d
extract-features new out --network motion_energi
extract-features empty out --network motion_energy
extract-features new out --network motion_energy --shard 3/2
extract-features new out --network motion_energy --batch_size 0
extract-features new out --network motion_energy --crops 5
extract-features cut.mp4 out --network motion_energy
list nothing
list methods PaDiM
list configs PaDIM ADACL
report new
report notes.txt
"""


def lines() -> list[str]:
    """Every command line, the verb first."""
    run = "--run {run}"
    found = [f"predict {run} {line}" for line in _lines(PREDICT)]
    found += [f"export {run} {line}" for line in _lines(EXPORT)]
    found += [f"train {{fit}} {line}" for line in _lines(TRAIN)]
    found += [f"calibrate {run} {line}" for line in _lines(CALIBRATE)]
    found += [
        f"{verb} --run {place}" for verb in ("test", "validate", "predict", "export", "calibrate") for place in _RUNS
    ]
    found += [f"predict --run {place} new" for place in _RUNS]
    found += [f"report {place}" for place in _RUNS]
    return [*found, *_lines(WORDS)]


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line]
