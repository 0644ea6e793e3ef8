"""What stops a run whose numbers are no longer finite, before an optimiser, a statistic or a checkpoint takes them over.

On a CPU a number is looked at when it is noted. On a GPU that would make the host wait in every step, so what is noted is
read later: inputs and losses before the optimiser's step, when the backward pass has been queued behind them, gradients in
the step after.

Axes: B batch, C channels, T snippets, D feature width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from anomaly_suite.contract.batch import Batch, Prediction
from anomaly_suite.contract.precision import raise_epsilon
from anomaly_suite.errors import NotFiniteError
from anomaly_suite.tracing import untraced

LARGEST_INPUT = torch.finfo(torch.float32).max ** 0.5
"""Every statistic and most losses square what they are given: beyond 1.8e19 that is infinite in float32."""

MOST_NAMES = 16  # of a batch's files in a message


class Seen(NamedTuple):
    """A batch that is being worked on: where it comes from, its files or numbers, and its largest values (B,)."""

    where: str
    names: list[str]
    largest: Tensor


class _Note(NamedTuple):
    """Something that must be finite: what it is, the batch that it comes from if from a single one, and whether it is."""

    what: str
    seen: Seen | None
    fine: Tensor
    ready: torch.cuda.Event | None  # when ``fine`` has arrived on the host

    def is_fine(self) -> bool:
        """Whether all values were finite; waits for the device."""
        if self.ready is not None:
            self.ready.synchronize()
        return bool(self.fine)


class FiniteSupport(LightningModule):
    """Part of :class:`~anomaly_suite.contract.AnomalyModule`: notes what must be finite, and stops all processes if it is not."""

    _seen: Seen | None = None
    _notes: list[_Note] | None = None
    _known: frozenset[str] | None = (
        None  # tensors that were not finite when the fit began, such as margins to be measured
    )

    @untraced
    def see(self, batch: Batch, where: str) -> None:
        """Note the input of what follows.

        Args:
            batch: On the module's device.
            where: What to call the batch in a message.
        """
        largest = largest_values(batch)
        self._seen = Seen(where, names_of(batch), largest)
        self._note("the input", self._seen, (largest <= LARGEST_INPUT).all())

    @untraced
    def watch(self, what: str, *values: Tensor, seen: bool = True) -> None:
        """Note values that must be finite; :meth:`stop_if_not_finite` then reads what was noted.

        Args:
            what: What to call them in a message, such as ``the loss``.
            values: Of any shapes.
            seen: Whether they come from the batch at hand, whose files the message then names.
        """
        floating = [value.detach() for value in values if value.is_floating_point() and value.numel()]
        if floating:
            self._note(what, self._seen if seen else None, _largest(floating).isfinite().all())

    def _note(self, what: str, seen: Seen | None, fine: Tensor) -> None:
        self._notes = [] if self._notes is None else self._notes
        if fine.device.type == "cuda":
            host = torch.empty((), dtype=torch.bool, pin_memory=True).copy_(fine, non_blocking=True)
            ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
            ready.record(torch.cuda.current_stream(fine.device))
            self._notes.append(_Note(what, seen, host, ready))
        elif not read_at_once(fine.device) or not bool(fine):
            self._notes.append(_Note(what, seen, fine, None))

    @untraced
    def stop_if_not_finite(self) -> None:
        """Stop if anything that was noted is not finite; all processes must ask, and all of them stop.

        Raises:
            NotFiniteError: with the files of the first batch that is to blame.
        """
        notes, self._notes = self._notes or [], []
        found = next((note for note in notes if not note.is_fine()), None)
        reason = None if found is None else (found.seen is None, _sentence(type(self).__name__, found))
        if self._trainer is not None and self.trainer.world_size > 1 and torch.distributed.is_initialized():
            happened = torch.tensor(float(found is not None), device=self.device)
            torch.distributed.all_reduce(happened)
            if not bool(happened):
                return
            reasons: list[tuple[bool, str] | None] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(reasons, reason)
            reason = min(each for each in reasons if each is not None)  # one that names files, if there is any
        if reason is not None:
            raise NotFiniteError(reason[1])

    # In a fit --------------------------------------------------------------------------------------------------------

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Note the loss, then Lightning's own."""
        self.watch("the loss", loss)
        super().manual_backward(loss, *args, **kwargs)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Stop before weights take over what is not finite."""
        raise_epsilon(optimizer)
        at_once = read_at_once(self.device) or self.trainer.world_size > 1  # all processes must stop in the same step
        if not at_once:
            self.stop_if_not_finite()
        if getattr(self.trainer.precision_plugin, "scaler", None) is None:  # a scaler leaves such steps out by itself
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            gradients = [weight.grad for weight in weights if weight.grad is not None]
            self.watch("the gradient", *gradients, seen=self.trainer.world_size == 1)  # or it is that of all processes
        if at_once:
            self.stop_if_not_finite()

    @untraced
    def watch_step(self, loss: Any) -> None:
        """Note what a training step has made: its loss, and the running statistics of its batch normalisations."""
        if isinstance(loss, Tensor) and self.automatic_optimization:
            self.watch("the loss", loss)
        norms = [module for module in self.modules() if isinstance(module, nn.modules.batchnorm._NormBase)]
        self.watch("a running statistic", *(buffer for norm in norms for buffer in norm.buffers(recurse=False)))

    def check_state(self) -> None:
        """Stop if a tensor of the module is not finite; all processes must ask.

        Raises:
            NotFiniteError: with the names of the tensors.
        """
        if names := self.spoilt(self.state_dict()):
            self._note(f"what it has learned ({names})", None, torch.tensor(False))
        self.stop_if_not_finite()

    def spoilt(self, state: Mapping[str, Any]) -> str:
        """Names of the tensors of a state that have become NaN or infinite; empty if there are none."""
        known = self._known
        if known is None:  # outside a fit: buffers may be waiting for theirs
            known = frozenset(state) - frozenset(name for name, _ in self.named_parameters())
        names = [name for name in not_finite(state) if name not in known]
        return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def read_at_once(device: torch.device) -> bool:
    """Whether reading a number costs nothing: a GPU would make the host wait for everything that was queued before."""
    return device.type == "cpu"


def largest_values(batch: Batch) -> Tensor:
    """Largest absolute value of every image or video of a batch, less what pads videos: shape (B,), NaN where one is NaN."""
    if "image" in batch:
        whole: Tensor = torch.linalg.vector_norm(batch["image"].detach().flatten(1), torch.inf, dim=1)
        return whole
    features = batch["snippet_features"].detach()
    largest: Tensor = torch.linalg.vector_norm(features, torch.inf, dim=3)  # B C T
    padding = torch.arange(features.shape[2], device=features.device) >= batch["length"].unsqueeze(1)
    return largest.masked_fill(padding.unsqueeze(1), 0).amax((1, 2))


def names_of(batch: Batch) -> list[str]:
    """Files of a batch, or the numbers of its samples where it has none."""
    count = len(batch["image"] if "image" in batch else batch["snippet_features"])
    names = [str(name) for name in batch.get("image_path", ())]
    return names if len(names) == count else [f"sample {number}" for number in range(count)]


def not_finite(state: Mapping[str, Any]) -> list[str]:
    """Names of the tensors that hold NaN or infinity."""
    floating = {
        name: value.detach()
        for name, value in state.items()
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel()
    }
    if not floating:
        return []
    finite = _largest(floating.values()).isfinite().tolist()
    return [name for name, fine in zip(floating, finite, strict=True) if not fine]


@untraced
def require_finite(owner: str, batch: Batch, prediction: Prediction) -> None:
    """Refuse scores that say nothing.

    Args:
        owner: Who predicted.
        batch: What was given.
        prediction: What came out.

    Raises:
        NotFiniteError: an input or a score is NaN or infinite; with its file.
    """
    largest, score = largest_values(batch), prediction["anomaly_score"].detach()
    if bool((largest <= LARGEST_INPUT).all() & score.isfinite().all()):
        return
    seen = Seen("a batch", names_of(batch), largest)
    what = "the score" if bool((largest <= LARGEST_INPUT).all()) else "the input"
    if what == "the score":
        names = [name for name, fine in zip(seen.names, score.isfinite().tolist(), strict=True) if not fine]
        seen = seen._replace(names=names, largest=largest[~score.isfinite()])
    raise NotFiniteError(_sentence(owner, _Note(what, seen, torch.tensor(False), None)))


def _largest(values: Iterable[Tensor]) -> Tensor:
    """Largest absolute value of each of several tensors, shape (their number,), NaN where one is NaN."""
    norms = torch._foreach_norm(list(values), torch.inf)
    return torch.stack([norm.to(norms[0].device, torch.float32) for norm in norms])


def _sentence(owner: str, note: _Note) -> str:
    advice = "Look for broken files, too high a learning rate, or a precision that is too low."
    if note.seen is None:
        return f"{owner} needs finite numbers; {note.what} has become NaN or infinite. {advice}"
    where, names, largest = note.seen.where, note.seen.names, note.seen.largest.tolist()
    bad = [index for index, value in enumerate(largest) if not value <= LARGEST_INPUT]
    if note.what == "the input" and bad:
        holds = ", ".join(f"{names[index]} holds {largest[index]:.3g}" for index in bad[:MOST_NAMES])
        return f"{owner} needs finite numbers; in {where} {holds}. Repair these files or leave them out."
    most = max(range(len(names)), key=largest.__getitem__)
    shown = ", ".join(names[:MOST_NAMES]) + (f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else "")
    return (
        f"{owner} needs finite numbers; {note.what} of {where} is NaN or infinite. It holds {shown}; the largest value, "
        f"{largest[most]:.3g}, is in {names[most]}. {advice}"
    )
