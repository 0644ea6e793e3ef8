"""Weight averaging: weights are averaged, statistics are measured.

What averages weights (Lightning's ``WeightAveraging`` and ``StochasticWeightAveraging``, timm's ``ModelEmaV3``) makes a deep copy of
the module and moves the copy's tensors after each step. A mean of centres or of score statistics belongs to no weights, so the
module remembers its copies, and whenever it is to be validated or saved measures the statistics of those that have moved. Whoever then
puts an average into the module, or takes the copy, has the right ones.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from anomaly_suite.contract.training import TrainingSupport
from anomaly_suite.errors import ConfigError

Sums = tuple[float, ...]

_COPIES: WeakKeyDictionary[nn.Module, WeakKeyDictionary[nn.Module, Sums]] = WeakKeyDictionary()
"""Of every module its deep copies, with the sums of their weights when last looked at; () if never."""


class AveragingSupport(TrainingSupport):
    """Part of :class:`~anomaly_suite.contract.AnomalyModule`: the statistics of averaged weights.

    Statistics are the buffers that the method itself registers, and those that a part of it names in ``statistics``. They are never
    averaged, nor is what holds no floating-point numbers. Their shapes and types must be the same from the constructor on, because
    the copies are made then: NaN stands for what is not measured yet, and none is bool.
    """

    _own: tuple[Sums, dict[str, Tensor]] | None = None  # weights and statistics before callbacks may put averages in
    _averaged: tuple[Sums, dict[str, Tensor]] | None = None  # those of the average that was measured last
    _put_in: Sums | None = None  # weights that a callback put in for the present epoch
    _validates_average: bool = False

    def measure_statistics(self) -> None:
        """Measure over the training set what follows from the present weights, an average; called in evaluation mode.

        As :meth:`fit_statistics` does, unless a method overrides it. What was fixed for the whole training (a centre, margins)
        stays as it is.
        """
        self.fit_statistics()

    def at_rest(self) -> Iterable[nn.Module]:
        """Parts that an earlier phase has trained and by which others are trained now: an average has them as they are."""
        return ()

    def statistics(self) -> dict[str, Tensor]:
        """By name what is never averaged: buffers that are measured or hold no floating-point numbers, and parts at rest."""
        parts = dict(self.named_modules())
        resting = {id(tensor) for part in self.at_rest() for tensor in (*part.parameters(), *part.buffers())}
        found: dict[str, Tensor] = {name: weight for name, weight in self.named_parameters() if id(weight) in resting}
        for name, buffer in self.named_buffers():
            part, _, own = name.rpartition(".")
            measured = not part or own in getattr(parts[part], "statistics", ())
            if measured or not buffer.is_floating_point() or id(buffer) in resting:
                found[name] = buffer
        return found

    # Hooks; Lightning calls those of callbacks first -----------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Refuse an average that could not be right."""
        if stage == "fit":
            self._check_averaging()
        super().setup(stage)

    def on_fit_start(self) -> None:
        """Look at the copies that callbacks have made."""
        super().on_fit_start()
        self._own = self._averaged = self._put_in = None
        copies = _COPIES.get(self, WeakKeyDictionary())
        for copied in list(copies):
            copies[copied] = _sums(copied)

    def on_train_epoch_start(self) -> None:
        """Give weights that a callback has put in for this epoch their statistics."""
        super().on_train_epoch_start()
        self._put_in = _sums(self) if self._adopt() else None

    def on_validation_start(self) -> None:
        """Measure the averages before one of them is validated."""
        super().on_validation_start()
        if self._fits():
            self._note_weights()

    def on_validation_epoch_start(self) -> None:
        """Give weights that a callback has put in for the validation their statistics."""
        super().on_validation_epoch_start()
        self._validates_average = self._adopt()

    def on_validation_epoch_end(self) -> None:
        """Take back the statistics of the weights that are trained, which are in their place again."""
        super().on_validation_epoch_end()
        if self._validates_average and self._own is not None:
            _write(self, self._own[1])

    def on_train_epoch_end(self) -> None:
        """Measure the averages before they are saved."""
        super().on_train_epoch_end()
        if self._fits():
            self._note_weights()

    def on_train_end(self) -> None:
        """Give weights that a callback has put in for good their statistics."""
        super().on_train_end()
        self._adopt()
        self._own = self._averaged = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save an average with its statistics; within an epoch, with those of the last time they were measured."""
        super().on_save_checkpoint(checkpoint)
        if "current_model_state" in checkpoint:  # WeightAveraging puts its copy into state_dict
            known = {name: value.detach().clone() for name, value in self.statistics().items()}
            if self._averaged is not None:
                known |= {name: value for name, value in self._averaged[1].items() if not value.isnan().any()}
            state = checkpoint["state_dict"]
            state.update({name: value for name, value in known.items() if name in state})

    def __deepcopy__(self, memo: dict[int, Any]) -> AveragingSupport:
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        cast(Any, copied).__setstate__(copy.deepcopy(self.__getstate__(), memo))
        _COPIES.setdefault(self, WeakKeyDictionary())[copied] = ()
        return copied

    # Measuring ---------------------------------------------------------------------------------------------------------

    def _fits(self) -> bool:
        return self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking and not self.single_pass

    @torch.no_grad()
    def _note_weights(self) -> None:
        """Measure the averages, and note what the module itself has before callbacks may change it."""
        with torch.inference_mode(False):
            if self._put_in is not None and self._put_in == _sums(self):
                with _mode(self, training=False):  # an epoch that only renewed running statistics, as SWA ends
                    self.measure_statistics()
            self._measure_copies()
            self._own = self._weights_and_statistics()

    def _weights_and_statistics(self) -> tuple[Sums, dict[str, Tensor]]:
        return _sums(self), {name: value.detach().clone() for name, value in self.statistics().items()}

    def _measure_copies(self) -> None:
        for copied, last in list(_COPIES.get(self, {}).items()):
            if _sums(copied) == last:
                continue  # somebody's copy that nothing moves
            with self._weights_of(copied), _mode(self, training=False):
                self.measure_statistics()
                _, found = self._weights_and_statistics()
            _write(copied, found)
            sums = _sums(copied)
            _COPIES[self][copied], self._averaged = sums, (sums, found)

    def _adopt(self) -> bool:
        """Measure the statistics of weights that have been put in since ``_own`` was noted; whether there were any."""
        if self._own is None or not self._fits() or (sums := _sums(self)) == self._own[0]:
            return False
        with torch.inference_mode(False), torch.no_grad(), _mode(self, training=False):
            if self._averaged is not None and self._averaged[0] == sums:
                _write(self, self._averaged[1])
            else:
                _write(self, self._own[1])
                self.measure_statistics()
        return True

    @contextmanager
    def _weights_of(self, other: nn.Module) -> Iterator[None]:
        """Weights and averaged buffers of a copy for a moment; statistics that are not measured stay those of the training."""
        kept = {name: value.detach().clone() for name, value in _tensors(self).items()}
        own = self.statistics()
        try:
            _write(self, {name: kept[name] if name in own else value for name, value in _tensors(other).items()})
            yield
        finally:
            _write(self, kept)

    # Refusals ----------------------------------------------------------------------------------------------------------

    def _check_averaging(self) -> None:
        for callback in cast(Any, self.trainer).callbacks:
            if not isinstance(callback, WeightAveraging | StochasticWeightAveraging):
                continue
            stochastic = isinstance(callback, StochasticWeightAveraging)
            if self.single_pass:
                why, advice = "it trains no weights", "Leave the callback out."
            elif stochastic and not self.automatic_optimization:
                why, advice = "it steps its optimizers itself", "Use EMAWeightAveraging or WeightAveraging."
            elif not stochastic and not getattr(callback, "_use_buffers", True) and self._trains_normalisation():
                why, advice = "its running statistics would be those of other weights", "Give use_buffers=True."
            else:
                continue
            raise ConfigError(
                f"{type(callback).__name__} cannot average the weights of {type(self).__name__}: {why}. {advice}"
            )

    def _trains_normalisation(self) -> bool:
        """Whether there are running statistics that training moves; methods keep frozen networks in evaluation mode."""
        with _mode(self, training=True):
            layers = [part for part in self.modules() if isinstance(part, _NormBase)]
            return any(part.training and part.track_running_stats for part in layers)


@contextmanager
def _mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    modes = {part: part.training for part in module.modules()}
    module.train(training)
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in module.state_dict().items() if not name.endswith("_extra_state")}


def _sums(module: nn.Module) -> Sums:
    """A sum for every weight tensor, by which a change is seen."""
    weights = [weight.detach() for weight in module.parameters()]
    if not weights:
        return ()
    precise = torch.float32 if weights[0].device.type == "mps" else torch.float64
    return tuple(torch.stack([weight.sum(dtype=precise) for weight in weights]).tolist())


@torch.inference_mode(False)
def _write(module: nn.Module, values: dict[str, Tensor]) -> None:
    module.load_state_dict(values, strict=False)
