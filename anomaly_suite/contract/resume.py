"""Where a run goes on after a checkpoint: Lightning's counters, put right where they would lead elsewhere.

An uninterrupted run is the measure. Lightning's own counters lead elsewhere in four places: after the last batch of an epoch they
skip its validation, its end and the start of the next one; under ``max_steps`` an epoch that is over is counted twice; gradients
accumulated since the last step of the optimiser are lost; and a pass that collects begins in its middle, with nothing collected.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn

from anomaly_suite.contract.data_module import AnomalyDataModule
from anomaly_suite.errors import CheckpointError


def take_up(trainer: Trainer, checkpoint: dict[str, Any], *, collects: bool) -> None:
    """Set the training loop of a resumed fit to the place that a checkpoint was saved at.

    Lightning restores the loop once more, from the same counters, but after ``configure_optimizers``, where
    ``estimated_stepping_batches`` has made the loaders already.

    Args:
        trainer: Of the resumed fit; nothing happens in another stage.
        checkpoint: Its counters are changed in place.
        collects: The method is fitted by what it collects in one pass, which is in no checkpoint: the pass begins anew.
    """
    loops = checkpoint.get("loops", {}).get("fit_loop")
    if trainer.state.fn != TrainerFn.FITTING or trainer.ckpt_path is None or not loops:
        return
    epoch, batch = loops["epoch_progress"]["current"], loops["epoch_loop.batch_progress"]
    loaders = loops["state_dict"].get("combined_loader", [])
    states = [state for state in loaders if "had" in state]  # those of TrainingLoader
    if epoch["started"] <= epoch["processed"]:
        _go_to_next_epoch(loops)
    elif collects:
        _begin_anew(loops)
    elif batch["is_last_batch"] and states:
        _go_to_validation(loops)
    elif batch["is_last_batch"]:
        _go_to_next_epoch(loops, over=1)  # a loader without a place to go on from would be asked for one more batch
    elif states:
        _repeat_accumulated(loops, trainer.accumulate_grad_batches)
    elif batch["current"]["processed"] and isinstance(trainer.datamodule, AnomalyDataModule):  # type: ignore[attr-defined]
        rank_zero_warn(
            "the checkpoint does not say which samples its epoch has had: it was saved with another loader, or by a former version. "
            "The rest of the epoch repeats its first samples."
        )
    for state in states:
        state["had"] = batch["current"]["processed"]
    if len(states) == len(loaders) and not batch["current"]["processed"]:
        loops["state_dict"].pop("combined_loader", None)  # at its start an epoch may have any loader
    trainer.fit_loop.load_state_dict(loops)


Layout = list[tuple[list[int], list[str]]]
"""Of every optimiser: the number of parameters in each of its groups, and the options that tell kinds of optimisers apart."""


def layout_of(states: Iterable[Mapping[str, Any]]) -> Layout:
    """What must agree between an optimiser and the state that it goes on with."""
    groups = [state.get("param_groups", []) for state in states]  # none where there is no optimiser
    return [
        (
            [len(group["params"]) for group in each],
            sorted({"betas", "momentum", "alpha"}.intersection(*each)),
        )
        for each in groups
        if each
    ]


def require_layout(trainer: Trainer, saved: Layout, where: str) -> None:
    """Refuse states of other optimisers, which torch would refuse with less to say, or take and fail in the first step.

    Args:
        trainer: Of the resumed fit; its optimisers are made, their states are not loaded.
        saved: Layout of the checkpoint's optimisers.
        where: What to call the checkpoint in a message.

    Raises:
        CheckpointError: they differ.
    """
    own = layout_of(optimizer.state_dict() for optimizer in trainer.optimizers)
    if own != saved:
        raise CheckpointError(
            f"{where} does not fit these optimisers: parameters in groups and options are {saved} in it and {own} here. "
            "Resume with the options that it was fitted with, or begin a new fit."
        )


def _go_to_next_epoch(loops: dict[str, Any], *, over: int = 0) -> None:
    """Between two epochs: ``over`` more than were counted are over, of the next nothing has happened."""
    epoch, batch = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
    for part in ("total", "current"):
        _set_all(epoch[part], epoch[part]["processed"] + over)
    _set_all(batch["current"], 0)
    batch["is_last_batch"] = False


def _begin_anew(loops: dict[str, Any]) -> None:
    """Back to the start of the epoch."""
    total = loops["epoch_loop.batch_progress"]["total"]
    _set_all(total, total["processed"] - loops["epoch_loop.batch_progress"]["current"]["processed"])
    steps = loops["epoch_loop.manual_optimization.optim_step_progress"]  # one for each batch, see on_train_batch_end
    for part in ("total", "current"):
        _set_all(steps[part], total["processed"])
    loops["epoch_loop.state_dict"]["_batches_that_stepped"] = total["processed"]
    _go_to_next_epoch(loops)


def _go_to_validation(loops: dict[str, Any]) -> None:
    """Behind the last batch, before the validation if that has not begun, and before the end of the epoch."""
    batch, validation = loops["epoch_loop.batch_progress"], loops["epoch_loop.val_loop.batch_progress"]
    if batch["current"]["completed"] < batch["current"]["processed"]:  # saved at the end of the batch
        for part in ("total", "current"):
            _set_all(batch[part], batch[part]["processed"])
        # As if it had been left in its first batch: Lightning repeats such a validation.
        count = validation["total"]["completed"]
        validation["total"].update(ready=count + 1, started=count + 1, processed=count)
        _set_all(validation["current"], 0)


def _repeat_accumulated(loops: dict[str, Any], accumulated: int) -> None:
    """Back to the last step of the optimiser: gradients that were accumulated since are in no checkpoint."""
    batch = loops["epoch_loop.batch_progress"]
    if lost := batch["current"]["processed"] % accumulated:
        for part in ("total", "current"):
            _set_all(batch[part], batch[part]["processed"] - lost)


def _set_all(tracker: dict[str, int], count: int) -> None:
    for name in tracker:
        tracker[name] = count
