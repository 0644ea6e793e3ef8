"""What happens around the steps of a fit: their seeds, their place in the run, batches outside the loop, sums over processes.

Axes: B batch, C channels, H and W pixels.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar, cast

import torch
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch import Tensor
from torch.utils.data import DataLoader

from anomaly_suite.contract.batch import Batch, as_batch
from anomaly_suite.contract.finite import FiniteSupport, names_of, not_finite
from anomaly_suite.contract.inputs import InputSupport
from anomaly_suite.contract.monitors import require_monitors
from anomaly_suite.contract.processes import share_running_statistics
from anomaly_suite.errors import ConfigError, LabelError
from anomaly_suite.io.seeds import derive_seed
from anomaly_suite.tracing import untraced, untraced_itself

TRAINING_SET = "the training set"  # in messages


class TrainingSupport(FiniteSupport, InputSupport):
    """Part of :class:`~anomaly_suite.contract.AnomalyModule`: what every method may ask for while it is fitted.

    Batches reach ``training_step`` already passed through :func:`~anomaly_suite.contract.as_batch`, and torch's generator, from
    which dropout draws, is set anew for each step, so that a resumed run draws what an uninterrupted one would have drawn.
    """

    single_pass: ClassVar[bool] = False
    """One pass over the training set fits the method; training stops after it."""

    reads_labels: ClassVar[bool | None] = None
    """Whether the method learns from labels. To others data modules give normal images alone. A method that says False, as all of this package do
    that say nothing else, refuses a training batch that holds a labelled anomaly, wherever it comes from."""

    _seed: int | None = None
    _has_news: bool = False  # steps that fit_statistics has not seen

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.reads_labels is None and cls.__module__.startswith("anomaly_suite.methods."):
            cls.reads_labels = False
        if "training_step" in cls.__dict__:
            cls.training_step = _with_checked_batch(cls.__dict__["training_step"])  # type: ignore[method-assign]

    @property
    def unfinished(self) -> str | None:
        """What a method of several phases still lacks to give scores, with the phase and its option; None if nothing.

        Validation inside the fit runs all the same, with scores that say little; test and predict refuse.
        """
        return None

    # Under torch.compile: Lightning's bookkeeping is not worth tracing ------------------------------------------------

    @untraced
    def log(self, *args: Any, **kwargs: Any) -> None:
        """Lightning's own."""
        super().log(*args, **kwargs)

    @untraced
    def log_dict(self, *args: Any, **kwargs: Any) -> None:
        """Lightning's own."""
        super().log_dict(*args, **kwargs)

    # Statistics of methods without gradients --------------------------------------------------------------------------

    def fit_statistics(self) -> None:
        """Turn what ``training_step`` has collected in this epoch into buffers, or measure anew what scores need.

        Called before every validation and at the end of every epoch, however the run ends, where there were steps since the last
        call. With a validation inside an epoch there are several calls: what was collected before the first counts in the
        last, so it is kept until ``on_train_epoch_start``.
        """

    def _fit_news(self) -> None:
        if self._has_news:
            self._has_news = False
            # Inference tensors, which a validation loop makes, could not be loaded over later.
            with torch.inference_mode(False), torch.no_grad():
                self.fit_statistics()
                self.check_state()

    def on_train_batch_end(self, *args: Any) -> None:
        """Count the batches of a single-pass method as steps: ModelCheckpoint saves nothing at global step 0."""
        if not self.trainer.optimizers:
            self.stop_if_not_finite()  # otherwise before the optimiser's step
        if self.single_pass:
            self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.increment_completed()

    def on_validation_start(self) -> None:
        """Fit what was collected, because Lightning validates before the training epoch ends."""
        super().on_validation_start()
        if self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking:
            self._fit_news()

    def on_validation_epoch_end(self) -> None:
        """Look for what is monitored."""
        super().on_validation_epoch_end()
        if self.trainer.state.fn == TrainerFn.FITTING:
            require_monitors(self.trainer, "validation")

    def on_train_epoch_end(self) -> None:
        """Fit what was collected, and look for what is monitored; a single-pass method is then done."""
        self._fit_news()
        require_monitors(self.trainer, "epoch")
        if self.single_pass:
            self.trainer.should_stop = True

    def warn_of_first_phase(self, what: str, option: str, epochs: int, *, steps: float = 1.0) -> None:
        """Warn at the start of a run that is planned to end in the first phase of a method.

        Args:
            what: The phase does, such as ``trains its teacher``.
            option: Its name for the epochs of the phase.
            epochs: So many.
            steps: Of optimisers for each batch, in the mean, as ``max_steps`` counts them.
        """
        ends = {"max_epochs": self.trainer.max_epochs or -1, "max_steps": self.trainer.max_steps}
        length = {"max_epochs": 1.0, "max_steps": steps * self.steps_per_epoch()}
        for name, end in ends.items():
            if 0 < end <= epochs * length[name] < math.inf:
                rank_zero_warn(
                    f"{type(self).__name__} only {what}: {name}={end} does not exceed {option}={epochs}"
                    f"{'' if name == 'max_epochs' else ' epochs'}. Raise {name} or lower {option}."
                )

    def on_fit_end(self) -> None:
        """Refuse to end as if something had been trained.

        Raises:
            ConfigError: the training loader has no batch.
        """
        super().on_fit_end()
        if self.trainer.num_training_batches == 0 and self.trainer.limit_train_batches:
            raise ConfigError(
                f"{type(self).__name__} needs training data; the training loader has no batch. Look at the data set, its batch size and drop_last."
            )

    def on_train_end(self) -> None:
        """Say so where a method of two phases has ended in the first."""
        if self.unfinished is not None:
            rank_zero_warn(f"{type(self).__name__} ends unfitted: {self.unfinished}")

    # Seeds and progress ---------------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Remember the seed: random draws of the steps derive from it (see :meth:`step_generator`)."""
        if self._seed is None or self.trainer.ckpt_path is None:
            self._seed = torch.initial_seed()
        super().on_fit_start()
        self._known = frozenset(not_finite(self.state_dict()))

    @untraced
    def step_generator(self, batch_idx: int) -> torch.Generator:
        """Random numbers for one training step, on the module's device.

        They depend on the run's seed, epoch, step and process alone, so a resumed run repeats what an uninterrupted run
        would have drawn.
        """
        return torch.Generator(device=self.device).manual_seed(self._step_seed(batch_idx))

    @untraced
    def _step_seed(self, batch_idx: int, *more: int) -> int:
        return derive_seed(self._seed or 0, self.current_epoch, batch_idx, self.global_rank, *more)

    @untraced
    def training_progress(self, batch_idx: int) -> float:
        """Share of the training that lies behind this step, in [0, 1]: of ``max_epochs``, ``max_steps`` or ``max_time``, whichever ends it.

        0 throughout if the trainer has no end. For schedules of methods with several optimisers, or with rates of their own; it
        follows from Lightning's counters, so a resumed run needs no more.
        """
        trainer = self.trainer
        per_epoch, steps = self.steps_per_epoch(), batch_idx // trainer.accumulate_grad_batches
        shares = [0.0]
        if trainer.max_epochs is not None and trainer.max_epochs > 0:
            known = math.isfinite(per_epoch)  # else epochs are all there is to count
            behind = self.current_epoch * per_epoch + steps if known else self.current_epoch
            shares.append(behind / (trainer.max_epochs * (per_epoch if known else 1)))
        if trainer.max_steps > 0:
            shares.append(self.global_step / trainer.max_steps)
        timers = [each for each in trainer.callbacks if isinstance(each, Timer) and each.time_remaining() is not None]  # type: ignore[attr-defined]
        # The clocks of two processes differ, and so would their rates.
        share = max(shares + [_share_of_time(timer) for timer in timers])
        return min(1.0, trainer.strategy.broadcast(share) if timers else share)

    def epochs_behind(self, batch_idx: int) -> float:
        """Epochs that lie behind this step, with their fraction, in optimiser steps."""
        return self.current_epoch + batch_idx // self.trainer.accumulate_grad_batches / self.steps_per_epoch()

    def steps_per_epoch(self) -> float:
        """Optimiser steps of an epoch, also in ``configure_optimizers``; infinite where a loader has no length.

        One for each batch, or for each group of accumulated ones, as ``trainer.estimated_stepping_batches`` counts them; for a
        method with several optimisers, batches.
        """
        if self.trainer.train_dataloader is None:
            self.trainer.fit_loop.setup_data()
        batches = self.trainer.num_training_batches
        return math.ceil(batches / self.trainer.accumulate_grad_batches) if math.isfinite(batches) else math.inf

    # Several optimisers -----------------------------------------------------------------------------------------------

    def step_alone(self, *optimizers: Any, losses: Sequence[Tensor], clip: float | None = None) -> None:
        """Let some of a method's optimisers take a step; the weights of all others stay, and have no gradient after it.

        Args:
            optimizers: Of Lightning's :meth:`optimizers`.
            losses: Scalars, whose sum falls.
            clip: Greatest norm of the gradients of an optimiser; None leaves them as they are.
        """
        loss = torch.stack(list(losses)).sum()
        # Gradients of the other optimizers' weights are neither needed nor computed, ...
        weights = [weight for each in optimizers for group in each.param_groups for weight in group["params"]]
        if self.trainer.world_size > 1:  # ... but DDP waits for a gradient of every parameter
            weights = [weight for weight in self.parameters() if weight.requires_grad]
            loss = loss + 0.0 * torch.stack([weight.sum() for weight in weights]).sum()
        self.manual_backward(loss, inputs=weights)
        for optimizer in optimizers:
            if clip is not None:
                self.clip_gradients(optimizer, gradient_clip_val=clip, gradient_clip_algorithm="norm")
            optimizer.step()
        self.zero_grad()

    # The training set and the processes ------------------------------------------------------------------------------

    def training_batches(self) -> Iterator[Batch]:
        """One pass over what an epoch trains on, this process's share, outside the training loop, batches on the device.

        ``limit_train_batches`` and ``overfit_batches`` hold for it, too.

        Raises:
            ConfigError: the trainer has no training set.
        """
        loader = self.trainer.train_dataloader
        if loader is None:
            raise ConfigError(
                f"{type(self).__name__} needs a training set; the trainer has no train_dataloader. Give fit a data module or train_dataloaders."
            )
        yield from self._pass(loader, self.trainer.num_training_batches, TRAINING_SET)

    def validation_batches(self) -> Iterator[Batch]:
        """One pass over what a fit validates on, as :meth:`training_batches`, outside the validation loop; for :meth:`fit_statistics`.

        ``limit_val_batches`` and ``overfit_batches`` hold for it, too. Nothing where no validation is about to begin, as at the end of an epoch
        without one: a resumed run would not know its loaders. A method that decides by it must not where it is the test set.
        """
        if not self.trainer.validating:
            return
        loaders = CombinedLoader(self.trainer.val_dataloaders, "sequential").flattened
        for loader, limit in zip(loaders, self.trainer.num_val_batches, strict=True):
            yield from self._pass(loader, limit, "the validation set")

    def _pass(self, loader: Any, limit: float, what: str) -> Iterator[Batch]:
        if isinstance(loader, DataLoader):
            # Persistent workers serve one iterator at a time: ours must not use up the loop's.
            loader = copy.copy(loader)
            loader._iterator = None
        for raw in islice(loader, int(limit) if math.isfinite(limit) else None):
            # In the precision of the weights, as the loops give them.
            converted = self.trainer.precision_plugin.convert_input(raw)
            batch = as_batch(self.trainer.strategy.batch_to_device(converted, self.device))
            self.check_input(batch)
            if what == TRAINING_SET:
                self._require_normal(batch, f"a pass over {what}")
            self.see(batch, f"a pass over {what}")
            yield batch
        self.stop_if_not_finite()

    def _require_normal(self, batch: Batch, where: str) -> None:
        """Refuse images labelled anomalous where the method would take them for normal."""
        if (
            self.reads_labels is not False
            or "image" not in batch
            or "label" not in batch
            or not bool(batch["label"].any())
        ):
            return
        names = [name for name, label in zip(names_of(batch), batch["label"].tolist(), strict=True) if label]
        raise LabelError(
            f"{type(self).__name__} trains on normal images alone; {where} holds {len(names)} labelled anomalous, first {names[0]}. "
            "Take them out of the training loader (the data modules of this package do), or choose a method that learns from labels."
        )

    def training_images(self) -> Iterator[Tensor]:
        """Images (B, C, H, W) of :meth:`training_batches`, less padding, which the sampler repeats."""
        for batch in self.training_batches():
            image = batch["image"][~batch["padding"]] if "padding" in batch else batch["image"]
            if len(image):
                yield image

    @untraced
    def sum_over_ranks(self, value: Tensor) -> Tensor:
        """Sum of a tensor over all processes; the tensor itself in a single process.

        Args:
            value: Any shape, the same in every process.

        Returns:
            Shape of ``value``.

        Raises:
            NotFiniteError: the sum, or what was noted before, is not finite; in every process.
        """
        total = cast(Tensor, self.trainer.strategy.reduce(value, reduce_op="sum"))
        self.watch("a statistic of the training set", total, seen=False)
        self.stop_if_not_finite()
        return total


def _with_checked_batch(step: Callable[..., Any]) -> Callable[..., Any]:
    plain = untraced(step)

    @untraced_itself  # what it calls is compiled
    @functools.wraps(step)
    def training_step(self: TrainingSupport, batch: Any, batch_idx: int, *args: Any, **kwargs: Any) -> Any:
        """The method's own step, on a checked batch, with torch's generator set."""
        # Dropout draws from torch's own generator, which a resumed run could not take up where it was.
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(self._step_seed(batch_idx, 1))  # other numbers than step_generator has
            checked = as_batch(batch)
            self.check_input(checked)
            where = f"batch {batch_idx} of epoch {self.current_epoch}"
            self._require_normal(checked, where)
            self.see(checked, where)
            # Steps of several optimisers are more bookkeeping than graph.
            run = step if self.automatic_optimization else plain
            output = run(self, checked, batch_idx, *args, **kwargs)
            if self._trainer is not None and self.trainer.world_size > 1:  # a step may be called by hand
                share_running_statistics(self, self.trainer.strategy)
            self.watch_step(output.get("loss") if isinstance(output, Mapping) else output)
        self._has_news = True
        return output

    return training_step


def _share_of_time(timer: Timer) -> float:
    elapsed, remaining = timer.time_elapsed(), timer.time_remaining() or 0.0
    return elapsed / max(elapsed + remaining, 1e-9)  # a duration may be 0
