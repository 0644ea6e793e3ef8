"""AUROC, AP and FPR95 of driving-scene maps in bounded memory: time and memory per map, and the distance to exact values.

    python benchmarks/pixel_metrics_streaming.py                                      # 12 maps of every case, then 50 maps
    python benchmarks/pixel_metrics_streaming.py --cases "" --stream ""                # the costs alone
    python benchmarks/pixel_metrics_streaming.py --cases energy --stream energy --maps 1203 --exact --json streaming.json

Maps of 2048 x 1024 pixels are made one at a time from a seed, so nothing but the metric grows with their number. The lowest
fifth of each is void. Every job runs in a fresh process. Progress goes to stderr, one JSON to stdout:

* ``<case>_sklearn``: 12 maps of a quarter of the size on each side against scikit-learn; ``<case>_subset``: 12 maps of full
  size against the package's exact metrics. ``<metric>`` is the value in bounded memory, ``_exact`` the exact one,
  ``_difference`` their distance, ``_error_bound`` what the metric certifies that the distance cannot exceed.
* ``<case>_stream``: 50 maps. ``update_cpu_s`` is the median over maps of the processor time of an update,
  ``above_map_mb`` the peak of resident memory during an update or the final computation, in MiB, above what the process
  held with the first map in memory and no metric yet. ``total_cpu_s`` and ``with_exact_cpu_s`` include making the maps.
* ``costs``: ``tiny_update_cpu_s`` is an update of four pixels; ``sorted_ratio`` and the like are the processor time of 60 maps of
  256 x 256, one an update, whose pixels rise, fall or drift through the maps, over that of the same pixels in random order;
  ``three_metrics_mb`` is the peak of AUPRO, AUROC and AP on one state for 60 maps in batches of 32, above the imports, as in
  ``core.py``. The least of ``--repeats`` runs counts.
* ``broken`` lists what is further than 1e-4 from the exact value, takes 1 GiB or more, or costs more than ``LARGEST_COSTS``; if
  there is any, the exit status is 1.

Linux only: the peak memory is read from ``/proc``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from core import Meter, Outcome, fresh, machine, pixel_metrics, versions, work

Floats = npt.NDArray[np.float32]
METRICS = ("AUROC", "AP", "FPR95")
LARGEST_ERROR = 1e-4
LARGEST_MEMORY_MB = 1024
LARGEST_COSTS = {"tiny_update_cpu_s": 1e-3, "three_metrics_mb": 60.0} | dict.fromkeys(
    ("sorted_ratio", "backwards_ratio", "drift_ratio", "drift_over_scales_ratio"), 3.0
)
WIDTH, HEIGHT = 2048, 1024
SMALL = 4  # scikit-learn's maps are smaller by this factor on both sides, for time

# Maps ------------------------------------------------------------------------------------------------------------


def energy(rng: np.random.Generator, normal: int, anomalous: int) -> tuple[Floats, Floats]:
    """Free energies: most near -12 with a thin upper tail, anomalies around -8."""
    z = rng.standard_normal(normal, dtype=np.float32)
    return 0.6 * z + np.maximum(z - 2, 0) ** 2 - 12, 2 * rng.standard_normal(anomalous, dtype=np.float32) - 8


def squeezed_to_zero(rng: np.random.Generator, normal: int, anomalous: int) -> tuple[Floats, Floats]:
    """1 - largest softmax probability: nearly all near 0."""
    low, high = energy(rng, normal, anomalous)
    return _sigmoid(2.5 * low + 20), _sigmoid(2.5 * high + 20)


def squeezed_to_one(rng: np.random.Generator, normal: int, anomalous: int) -> tuple[Floats, Floats]:
    """Probabilities so close to 1 that many are tied there in float32."""
    low, high = energy(rng, normal, anomalous)
    return _sigmoid(low + 22), _sigmoid(high + 22)


def rounded(rng: np.random.Generator, normal: int, anomalous: int) -> tuple[Floats, Floats]:
    """Energies in steps of 1/16, as half precision gives them: ties everywhere."""
    low, high = energy(rng, normal, anomalous)
    return np.round(16 * low) / 16, np.round(16 * high) / 16


def separated(rng: np.random.Generator, normal: int, anomalous: int) -> tuple[Floats, Floats]:
    """Anomalies six standard deviations up: the value is decided among the highest few normal pixels."""
    return rng.standard_normal(normal, dtype=np.float32), 6 + rng.standard_normal(anomalous, dtype=np.float32)


def heavy_tailed(rng: np.random.Generator, normal: int, anomalous: int) -> tuple[Floats, Floats]:
    """Cauchy: scores over twelve orders of magnitude."""
    low, high = rng.standard_cauchy(normal), rng.standard_cauchy(anomalous) + 1e4
    return low.astype(np.float32), high.astype(np.float32)


def few_near_one(rng: np.random.Generator, normal: int, anomalous: int) -> tuple[Floats, Floats]:
    """Probabilities, nearly all near 0; the anomalies lie among the one in ten thousand between 0.99 and 1 - 10**-6.5."""
    low = _sigmoid(2 * rng.standard_normal(normal, dtype=np.float32) - 8)
    low[:: 10**4] = 1 - 10 ** rng.uniform(-6.5, -2, len(low[:: 10**4]))
    return low, (1 - 10 ** rng.uniform(-6.5, -2.5, anomalous)).astype(np.float32)


def _sigmoid(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-x))


class Case(NamedTuple):
    """How maps are drawn."""

    draw: Callable[[np.random.Generator, int, int], tuple[Floats, Floats]]
    rate: float = 1e-4  # anomalous share of the pixels; at least one pixel a map
    constant: bool = False  # every other map is one value
    late: bool = False  # anomalies in the last tenth of the maps only
    drift: float = 0.0  # what is added from the first to the last map


CASES = {
    "energy": Case(energy),
    "energy_1e-6": Case(energy, rate=1e-6),
    "energy_late": Case(energy, late=True),
    "energy_rising": Case(energy, drift=4.0),
    "energy_falling": Case(energy, drift=-4.0),
    "energy_rounded": Case(rounded),
    "half_constant": Case(energy, constant=True),
    "softmax_near_0": Case(squeezed_to_zero),
    "softmax_near_0_1e-6": Case(squeezed_to_zero, rate=1e-6),
    "softmax_near_1": Case(squeezed_to_one),
    "few_near_1_late": Case(few_near_one, rate=1e-6, late=True),
    "separated_1e-6": Case(separated, rate=1e-6),
    "separated_late": Case(separated, rate=1e-5, late=True),
    "heavy_tailed": Case(heavy_tailed),
}


def make_maps(
    name: str, count: int, height: int, width: int, *, seed: int = 0
) -> Iterator[tuple[Floats, npt.NDArray[np.uint8]]]:
    """Maps (1, 1, H, W) and their labels (1, H, W): 0 normal, 1 anomalous, 255 not scored."""
    case = CASES[name]
    pixels = height * width
    for index in range(count):
        rng = np.random.default_rng((seed, index))
        anomalous = 0 if case.late and index < count - max(1, count // 10) else max(1, round(case.rate * pixels))
        position = rng.integers(0, height * 4 // 5 * width, anomalous)
        score, raised = case.draw(rng, pixels, anomalous)
        score[position] = raised
        if case.constant and index % 2:
            score[:] = -12
        score += np.float32(case.drift * index / count)
        label = np.zeros(pixels, dtype=np.uint8)
        label[position] = 1
        label[height * 4 // 5 * width :] = 255
        yield score.reshape(1, 1, height, width), label.reshape(1, height, width)


# Exact values in memory of the anomalous pixels alone ------------------------------------------------------------


class TwoPasses:
    """Exact AUROC, AP and FPR95 of any number of pixels: all anomalous scores are kept, the normal ones ranked among them."""

    def __init__(self, anomalous: Sequence[npt.NDArray[np.float32]]) -> None:
        self.score, self.count = np.unique(np.concatenate(anomalous), return_counts=True)  # the first pass, rising
        self.reached = np.zeros(len(self.score) + 1, dtype=np.int64)  # normal pixels by the number of scores they reach
        self.tied = np.zeros(len(self.score), dtype=np.int64)

    def add(self, normal: npt.NDArray[np.float32]) -> None:
        """The second pass."""
        reached = np.searchsorted(self.score, normal, side="right")
        self.reached += np.bincount(reached, minlength=len(self.reached))
        equal = reached[(reached > 0) & (self.score[reached - 1] == normal)]
        self.tied += np.bincount(equal - 1, minlength=len(self.tied))

    def values(self) -> dict[str, float]:
        """Higher is more anomalous; ties count one half in AUROC."""
        normal = self.reached.sum()
        true = self.count[::-1].cumsum()[::-1]  # anomalous pixels at or above each score
        false = self.reached[1:][::-1].cumsum()[::-1]  # normal ones
        below = normal - false + self.tied / 2
        found = np.flatnonzero(true >= 0.95 * true[0])[-1]  # the highest such score
        return {
            "AUROC": float((self.count / true[0] * (below / normal)).sum()),
            "AP": float((self.count / true[0] * (true / (true + false))).sum()),
            "FPR95": float(false[found] / normal),
        }


# Cases: each runs in a process of its own ------------------------------------------------------------------------


def build() -> Any:
    """The three metrics on one state, as the callback ``AnomalyMetrics`` has them."""
    from torchmetrics import MetricCollection

    from anomaly_suite import metrics

    members: dict[str, Any] = {name: getattr(metrics, name)(exact=False) for name in METRICS}
    return MetricCollection(members, compute_groups=[list(METRICS)])


def results(collection: Any) -> tuple[dict[str, float], dict[str, float]]:
    """Values and their certified error bounds."""
    values = {name: float(value) for name, value in collection.compute().items()}
    return values, {f"{name}_error_bound": float(metric.error_bound()) for name, metric in collection.items()}


def stream(*, name: str, count: int, height: int, width: int, exact: bool) -> Outcome:
    """Feed maps to the three metrics on one state; time and memory of the updates alone, then values and their bounds."""
    import torch

    from anomaly_suite import metrics

    warm_up = build()  # what is imported or set up on first use
    for score, label in make_maps("energy", 2, 16, 16):
        warm_up.update(*metrics.scored_pixels(torch.from_numpy(score), torch.from_numpy(label)))
    warm_up.compute()
    collection = build()
    spent: list[float] = []
    anomalous: list[npt.NDArray[np.float32]] = []
    start, peak = 0.0, 0.0
    begin = time.process_time()
    for score, label in make_maps(name, count, height, width):
        meter = Meter()  # holds one map
        start = start or meter.start
        collection.update(*metrics.scored_pixels(torch.from_numpy(score), torch.from_numpy(label)))
        spent.append(meter.lap()["_cpu_s"])
        peak = max(peak, meter.start + meter.memory()["above_import_mb"])
        if exact:
            anomalous.append(score[:, 0][label == 1])
    meter = Meter()
    values, bounds = results(collection)
    end = meter.lap()["_cpu_s"]
    peak = max(peak, meter.start + meter.memory()["above_import_mb"])
    curve = collection[METRICS[0]].curve()
    outcome: Outcome = {
        "pixels": float(curve.false[-1] + curve.true[-1]),
        "anomalous": float(curve.true[-1]),
        "update_cpu_s": statistics.median(spent),
        "slowest_update_cpu_s": max(spent),
        "compute_and_bounds_cpu_s": end,
        "above_map_mb": peak - start,
        "total_cpu_s": time.process_time() - begin,
        **values,
        **bounds,
    }
    if exact:
        two_passes = TwoPasses(anomalous)
        for score, label in make_maps(name, count, height, width):
            two_passes.add(score[:, 0][label == 0])
        outcome |= _differences(values, two_passes.values())
        outcome["with_exact_cpu_s"] = time.process_time() - begin
    return outcome


def compare(*, name: str, count: int, height: int, width: int, reference: str) -> Outcome:
    """Bounded-memory values against exact ones of the same pixels: ``functions`` of the package, or ``sklearn``."""
    import torch

    from anomaly_suite import metrics

    collection = build()
    scores, labels = [], []
    for score, label in make_maps(name, count, height, width):
        pair = metrics.scored_pixels(torch.from_numpy(score), torch.from_numpy(label))
        collection.update(*pair)
        scores.append(pair[0])
        labels.append(pair[1])
    values, bounds = results(collection)
    whole, truth = torch.cat(scores), torch.cat(labels)
    scores.clear()
    labels.clear()
    if reference == "sklearn":
        from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

        fpr, tpr, _ = roc_curve(truth, whole, drop_intermediate=False)
        exact = {
            "AUROC": float(roc_auc_score(truth, whole)),
            "AP": float(average_precision_score(truth, whole)),
            "FPR95": float(fpr[tpr >= 0.95].min()),
        }
    else:
        # One curve for all three: sorting tens of millions of scores is what takes the time.
        keeper = metrics.AUROC()
        keeper.update(whole, truth)
        curve = keeper.curve()
        exact = {metric: float(getattr(metrics, metric)()._value(curve)) for metric in METRICS}
    return {
        "pixels": float(len(whole)),
        "anomalous": float(truth.sum()),
        **values,
        **bounds,
        **_differences(values, exact),
    }


def _differences(values: dict[str, float], exact: dict[str, float]) -> Outcome:
    found = {f"{metric}_exact": exact[metric] for metric in METRICS}
    return found | {f"{metric}_difference": abs(values[metric] - exact[metric]) for metric in METRICS}


def costs(*, maps: int, side: int, repeats: int) -> Outcome:
    """What an update costs by itself, how much more the order of the pixels costs, and the memory of few maps."""
    import torch

    from anomaly_suite.metrics import AUROC

    memory = pixel_metrics(names=["AUPRO", "AUROC", "AP"], count=maps, size=side)["above_import_mb"]
    generator, pixels = torch.Generator().manual_seed(0), maps * side * side
    score = torch.randn(pixels, generator=generator)
    target = torch.rand(pixels, generator=generator) < 0.03
    rising, ramp = score.argsort(), torch.linspace(-20, 20, pixels)
    streams = {
        "random": (score, target),
        "sorted": (score[rising], target[rising]),
        "backwards": (score[rising.flip(0)], target[rising.flip(0)]),
        "drift": (score + ramp, target),
        "drift_over_scales": (torch.exp(score + ramp), target),
    }
    spent = dict.fromkeys(streams, float("inf"))
    tiny = float("inf")
    for _ in range(repeats):
        for name, (scores, truth) in streams.items():
            metric = AUROC(exact=False)
            begin = time.process_time()
            for part in zip(scores.split(side * side), truth.split(side * side), strict=True):
                metric.update(*part)
            metric.compute()
            spent[name] = min(spent[name], time.process_time() - begin)
            begin = time.process_time()
            for _ in range(100):
                metric.update(score[:4], target[:4])
            tiny = min(tiny, (time.process_time() - begin) / 100)
    ratios = {f"{name}_ratio": spent[name] / spent["random"] for name in streams if name != "random"}
    return {"tiny_update_cpu_s": tiny, "random_cpu_s": spent["random"], **ratios, "three_metrics_mb": memory}


KINDS: dict[str, Callable[..., Outcome]] = {"stream": stream, "compare": compare, "costs": costs}

# Command line ----------------------------------------------------------------------------------------------------


def broken(outcome: Outcome) -> list[str]:
    """What of the limits the outcome does not keep: nothing, if all is well."""
    found = [name for name in outcome if name == "error"]
    found += [name for name, value in outcome.items() if name.endswith("_difference") and not value <= LARGEST_ERROR]
    found += [name for name, largest in LARGEST_COSTS.items() if name in outcome and not outcome[name] <= largest]
    return found + [name for name in outcome if name == "above_map_mb" and outcome[name] >= LARGEST_MEMORY_MB]


def main(words: Sequence[str] | None = None) -> int:
    """Run the cases, print the result and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES), help="compare these with exact values; empty for none")
    parser.add_argument("--subset", type=int, default=12, help="maps of a comparison")
    parser.add_argument("--stream", default="energy", help="stream these; empty for none")
    parser.add_argument("--maps", type=int, default=50, help="maps of a stream")
    parser.add_argument(
        "--exact", action="store_true", help="compare the streams too, by a second pass over their maps"
    )
    parser.add_argument("--height", type=int, default=HEIGHT)
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--repeats", type=int, default=3, help="runs of the costs; 0 for none")
    parser.add_argument("--cost-maps", type=int, default=60, help="maps of the costs, of 256 x 256")
    parser.add_argument("--threads", type=int, default=1, help="numeric threads; 0 leaves the number to the libraries")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.work:
        work(KINDS, *options.work)
        return 0
    jobs: dict[str, tuple[str, Outcome]] = {}
    compared, streamed = (list(filter(None, part.split(","))) for part in (options.cases, options.stream))
    for name in [*compared, *streamed]:
        if name not in CASES:
            parser.error(f"no case {name!r}; known are {', '.join(CASES)}")
    size = {"height": options.height, "width": options.width}
    small = {side: length // SMALL for side, length in size.items()}
    for name in compared:
        jobs[f"{name}_sklearn"] = "compare", {"count": options.subset, **small, "reference": "sklearn"}
        jobs[f"{name}_subset"] = "compare", {"count": options.subset, **size, "reference": "functions"}
    for name in streamed:
        jobs[f"{name}_stream"] = "stream", {"count": options.maps, **size, "exact": options.exact}
    if options.repeats:
        jobs["costs"] = "costs", {"maps": options.cost_maps, "side": 256, "repeats": options.repeats}
    result: Outcome = {"machine": machine(), "versions": versions(("anomaly-suite", "torch", "numpy", "scikit-learn"))}
    result |= {"maps": {"subset": options.subset, "stream": options.maps, **size}, "results": {}, "broken": []}
    for job, (kind, arguments) in jobs.items():
        print(job, file=sys.stderr, flush=True)
        arguments = arguments if kind == "costs" else {"name": job.rpartition("_")[0], **arguments}
        command = [sys.executable, str(Path(__file__).resolve()), "--work", kind, json.dumps(arguments)]
        outcome = result["results"][job] = fresh(command, threads=options.threads)
        result["broken"] += [f"{job}: {name}" for name in broken(outcome)]
    text = json.dumps(result, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")
    return 1 if result["broken"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
