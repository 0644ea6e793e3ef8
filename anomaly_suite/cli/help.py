"""What ``anomaly-suite --help`` prints."""

HELP = """usage: anomaly-suite VERB [options]

Visual anomaly detection on PyTorch Lightning.

verbs that need a configuration (anomaly-suite VERB --help lists every option):
  fit         train a method, validate and calibrate it
  validate    run the validation set through a checkpoint
  test        metrics, heatmaps, plots and score table on the test set
  predict     scores, decisions and heatmaps of new pictures: predict --run RUN PICTURE|FOLDER|PATTERN|VIDEO|LIST...
  calibrate   refit thresholds of a checkpoint by another rule, without training

verbs that need a run:
  export --run RUN                       one file for other programs, decisions inside: --format onnx|torch_export|torchscript

verb that needs videos:
  extract-features INPUT OUTPUT          snippet features of video files or folders of frames (--help lists the options)

verbs that answer at once:
  list methods|data|metrics|callbacks    what the package offers
  list configs [METHOD]                  sample configurations: data, device and published figure
  report RUN [--html]                    metrics of a run folder as a table, beside the published ones, or all of it as one HTML file

common options:
  --config FILE             YAML file with model, data and trainer, yours or a sample configuration such as
                            one_class/padim_mvtec.yaml; repeatable, later files win
  --model NAME --data NAME  short class name (see list), or the dotted name of your own class in the current folder
  --then FILE [options]     (fit) a second stage, such as a detector after a pre-training, whose encoder it takes; options
                            after it are of that stage. A finished pre-training is not trained again
  --print_config            print the complete configuration and stop
  --run RUN                 (all but fit) configuration and checkpoint of an earlier fit; results go into its folder
  --untrained true          (validate, test, predict) score a model that has neither run nor checkpoint nor weights
  --output DIR              (predict) folder for the results; --on_error skip leaves out pictures that cannot be read
  --disable [NAME, ...]     leave out default callbacks: calibrate, metrics, segmentation, components, frames,
                            localisation, heatmaps, plots, curves, table, splits
  --version                 print the version

example:
  anomaly-suite fit --config quickstart.yaml
  anomaly-suite test --run runs/quickstart
"""
