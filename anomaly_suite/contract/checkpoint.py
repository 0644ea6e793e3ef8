"""What a checkpoint holds beside weights, and pretrained weights, which it makes needless."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from keyword import iskeyword
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from lightning.pytorch.trainer.states import TrainerFn, TrainerStatus
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from typing_extensions import Self

from anomaly_suite.contract.calibration import Calibration
from anomaly_suite.contract.checkpoint_file import is_local, read_checkpoint, use_checkpoint_files
from anomaly_suite.contract.data_module import AnomalyDataModule
from anomaly_suite.contract.finite import FiniteSupport
from anomaly_suite.contract.resume import Layout, layout_of, require_layout, take_up
from anomaly_suite.errors import (
    AnomalySuiteError,
    CheckpointError,
    MissingCheckpointError,
    NotFiniteError,
    StateDictError,
)
from anomaly_suite.options import require_options
from anomaly_suite.tensor_files import numpy_numbers

LOADING = ("map_location", "hparams_file", "strict", "weights_only")
"""What :meth:`CheckpointSupport.load_from_checkpoint` takes beside options of the constructor."""

RESUMED = ("loops", "optimizer_states", "lr_schedulers")
"""What a checkpoint needs beside weights for training to go on."""


@runtime_checkable
class LaysOut(Protocol):
    """A part that runs faster on weights in another layout, and sees to it itself if it finds them in the usual one."""

    def lay_out(self) -> None:
        """Lay out the weights."""


class CheckpointSupport(FiniteSupport):
    """Part of :class:`~anomaly_suite.contract.AnomalyModule`: pretrained weights once, the record, growing buffers."""

    calibration: Calibration
    single_pass: ClassVar[bool]

    whole_weights: ClassVar[tuple[str, ...]] = ()
    """Options, each of which gives the weights of all that scores: with one of them, ``test`` needs no checkpoint."""

    _has_news: bool = False  # steps that fit_statistics has not seen
    _seed: int | None = None
    _growing: frozenset[str] = frozenset()  # buffers that the fit fills
    _has_weights: bool = False  # pretrained ones, or those of a checkpoint
    _saved_optimizers: Layout | None = None  # of the checkpoint that a fit resumes from

    def load_pretrained(self) -> None:
        """Load pretrained weights; called once at the start of a fit that does not resume, never by the constructor."""

    def setup(self, stage: str) -> None:
        """Write and read checkpoints safely; lay out weights, before a strategy takes over their layout."""
        use_checkpoint_files(self.trainer)
        for part in self.modules():
            if isinstance(part, LaysOut):
                part.lay_out()

    # Not in ``setup``, which Lightning calls before it looks at the checkpoint that a run resumes from or that is tested.
    def on_fit_start(self) -> None:
        """Load pretrained weights before a first fit: a checkpoint holds its own, so nothing is downloaded for it.

        Raises:
            CheckpointError: a fit should go on with the states of other optimisers.
        """
        super().on_fit_start()
        saved, self._saved_optimizers = self._saved_optimizers, None
        if saved is not None:
            require_layout(self.trainer, saved, self._where())
        self.load_pretrained_once()

    def on_validation_start(self) -> None:
        """See :meth:`_prepare_evaluation`; nothing inside a fit."""
        super().on_validation_start()
        if self.trainer.state.fn != TrainerFn.FITTING:
            self._prepare_evaluation()

    def on_test_start(self) -> None:
        """See :meth:`_prepare_evaluation`."""
        super().on_test_start()
        self._prepare_evaluation()

    def on_predict_start(self) -> None:
        """See :meth:`_prepare_evaluation`."""
        super().on_predict_start()
        self._prepare_evaluation()

    def _prepare_evaluation(self) -> None:
        """Without a checkpoint load weights that are whole; without any say that the network is untrained."""
        if self.has_whole_weights:
            self.load_pretrained_once()
        elif not self._has_weights:
            rank_zero_warn(
                f"{type(self).__name__} was neither fitted by a Trainer nor loaded from a checkpoint: unless it was trained otherwise, "
                "these are the scores of an untrained network."
            )

    @property
    def has_whole_weights(self) -> bool:
        """Whether an option gives the weights of all that scores."""
        return any(getattr(self, name, None) is not None for name in self.whole_weights)

    def load_pretrained_once(self) -> None:
        """Load pretrained weights, unless that has been done or the weights are or will be those of a checkpoint."""
        if not self._has_weights and self.trainer.ckpt_path is None:
            self.load_pretrained()
            self._has_weights = True

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record class and seed, and whether statistics wait to be fitted.

        Raises:
            NotFiniteError: a tensor has become NaN or infinite: the checkpoint before is worth more.
        """
        if names := self.spoilt(checkpoint["state_dict"]):
            raise NotFiniteError(
                f"a checkpoint of {type(self).__name__} must hold finite numbers; {names} became NaN or infinite, so none is "
                "written. Go back to the last one, and look for broken files or too high a learning rate."
            )
        state = checkpoint["state_dict"]
        state.update({name: value.contiguous() for name, value in state.items() if isinstance(value, Tensor)})
        checkpoint["anomaly_suite"] = {"class": type(self).__name__, "seed": self._seed, "news": self._has_news}
        data = None if self._trainer is None else self.trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, AnomalyDataModule) and (decided := data.state_dict()):
            checkpoint["anomaly_suite"]["data"] = (
                decided  # for data modules of other classes; Lightning knows that of this one
            )
        # Under weight averaging the state is that of a copy, which no callback has calibrated.
        checkpoint["state_dict"]["calibration._extra_state"] = self.calibration.get_extra_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another class, and go on where it was saved, if a fit resumes.

        Raises:
            CheckpointError: the checkpoint was written by another class or another program, or has weights alone and training
                should go on from it.
        """
        written = checkpoint.get("anomaly_suite")
        saved = written.get("class") if isinstance(written, Mapping) else None
        if saved != type(self).__name__:
            raise CheckpointError(
                f"{type(self).__name__} cannot load a checkpoint of {saved or 'a class outside anomaly_suite'}: {self._where()}. "
                f"Give the checkpoint to {saved or 'the class that wrote it'}."
            )
        fitting = self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING
        if missing := [name for name in RESUMED if fitting and name not in checkpoint]:
            raise CheckpointError(
                f"{self._where()} has no {missing[0]}: it was saved to be tested (save_weights_only), and training cannot go on from it. "
                "Give a whole checkpoint, or begin a new fit."
            )
        if fitting:
            self._saved_optimizers = layout_of(checkpoint["optimizer_states"])
        record: Mapping[str, Any] = written if isinstance(written, Mapping) else {}
        self._seed = record.get("seed")
        self._has_news = record.get("news", False)
        self._has_weights = True
        if self._trainer is not None:
            data = self.trainer.datamodule  # type: ignore[attr-defined]
            if isinstance(data, AnomalyDataModule) and type(data).__qualname__ not in checkpoint:
                data.load_state_dict(dict(record.get("data", {})))
            collects = self.single_pass and not any(checkpoint.get("optimizer_states", ()))
            take_up(self.trainer, checkpoint, collects=collects)

    def _where(self) -> str:
        path = None if self._trainer is None else self.trainer.ckpt_path
        return "the checkpoint" if path is None else f"'{path}'"

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **options: Any) -> Self:
        """Build the method of a checkpoint, as Lightning does.

        Args:
            checkpoint_path: The file.
            args: ``map_location``, ``hparams_file``, ``strict`` and ``weights_only``.
            options: The same by name, and options of the constructor other than those of the checkpoint.

        Raises:
            UnknownOptionError: an option that the constructor does not have.
            CheckpointError: the file cannot be read, is no checkpoint, or one of another class.
        """
        require_options(cls, [name for name in options if name not in LOADING])
        try:
            with numpy_numbers():
                return super().load_from_checkpoint(checkpoint_path, *args, **options)
        except FileNotFoundError as error:
            raise MissingCheckpointError(
                f"a checkpoint must be a file that exists; there is no '{checkpoint_path}'. Give one that fit wrote."
            ) from error
        except Exception as error:  # whatever a damaged file leads to
            if is_local(checkpoint_path) and options.get("weights_only", True) is not False:
                read_checkpoint(checkpoint_path)
            if isinstance(error, AnomalySuiteError):
                raise type(error)(f"'{checkpoint_path}': {error}") from error
            raise CheckpointError(
                f"'{checkpoint_path}' cannot be made a {cls.__name__} ({type(error).__name__}: {' '.join(str(error).split())}). "
                "Give a checkpoint that fit wrote, and the options that it leaves open."
            ) from error

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load tensors, as torch does.

        Raises:
            StateDictError: some are missing, needless or of another shape; names the first.
        """
        try:
            found = super().load_state_dict(state_dict, strict, assign)
        except RuntimeError as error:
            raise StateDictError(
                f"{self._where()} does not fit {type(self).__name__}: {_misfit(str(error))}. "
                "Give the options that it was fitted with, or another checkpoint."
            ) from error
        self._has_weights |= strict
        return found

    def statistics_shapes(self) -> dict[str, tuple[int | None, ...]]:
        """Shapes of the buffers that the fit fills, by their names in ``state_dict``; None where the data decide."""
        return {}

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Register a buffer, as torch does; one that is empty is filled by the fit and takes any shape then."""
        super().register_buffer(name, tensor, persistent)
        if tensor is not None and tensor.numel() == 0:
            self._growing = self._growing | {name}

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Tensors alone, all of them row by row, which safetensors demand: networks may have laid them out otherwise.

        Not in a fit of several processes: DistributedDataParallel remembers the layout that weights had before a step, and
        would give back gradients in another order.
        """
        if not self._shares_gradients():
            with torch.inference_mode(False):
                for tensor in (*self.parameters(), *self.buffers()):
                    if not tensor.is_contiguous():
                        tensor.data = tensor.data.contiguous()
        state: dict[str, Any] = super().state_dict(*args, **kwargs)
        return state

    def _shares_gradients(self) -> bool:
        running = self._trainer is not None and self._trainer.state.status == TrainerStatus.RUNNING
        return running and self.trainer.state.fn == TrainerFn.FITTING and self.trainer.world_size > 1

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        _rename_keywords(state_dict, known={prefix + name for name in self.state_dict()})
        # Fitted buffers (means, banks) are empty before the fit and take the checkpoint's shape, in parts of the method too.
        for path, module in self.named_modules(prefix=prefix.removesuffix(".")):
            for name, buffer in module._buffers.items():
                saved = state_dict.get(f"{path}.{name}" if path else name)
                grows = module is self and name in self._growing
                fitted = buffer is not None and (grows or buffer.numel() == 0)
                if isinstance(saved, Tensor) and (fault := self._shape_fault(path, name, saved)):
                    args[-1].append(fault)
                    return
                if fitted and isinstance(saved, Tensor) and saved.shape != buffer.shape:
                    module._buffers[name] = buffer.new_empty(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _shape_fault(self, path: str, name: str, saved: Tensor) -> str | None:
        """What is wrong with the shape of a buffer that the fit fills, in torch's words."""
        wanted = self.statistics_shapes().get(f"{path}.{name}" if path else name)
        if wanted is None or not saved.numel():
            return None
        if len(wanted) == saved.ndim and all(
            size in (None, there) for size, there in zip(wanted, saved.shape, strict=True)
        ):
            return None
        here = str(list(wanted)).replace("None", "any")
        return f"size mismatch for {name}: copying a param with shape {saved.shape} from checkpoint, not torch.Size({here})"


def _misfit(message: str) -> str:
    """The first tensor of each kind that torch complains of, and how many there are."""
    faults = []
    for kind, said in (("Missing", "it lacks"), ("Unexpected", "it also holds")):
        if found := re.search(rf"{kind} key\(s\) in state_dict: (.*?)\. *$", message, re.MULTILINE):
            names = re.findall('"([^"]+)"', found[1])
            faults.append(f"{said} {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else ""))
    shapes = re.findall(r"size mismatch for (\S+): .*?Size\((\[.*?\])\).*?Size\((\[.*?\])\)", message)
    faults += [f"{name} has the shape {there} in it and {here} here" for name, there, here in shapes[:1]]
    return ", ".join(faults) or " ".join(message.split())[:300]


def _rename_keywords(state_dict: dict[str, Any], *, known: Collection[str]) -> None:
    """Rename in place what former versions called by a keyword of Python, which code made by exporters cannot contain.

    The part ``global`` of a name is now ``global_``.
    """
    for key in [key for key in state_dict if key not in known]:
        valid = ".".join(f"{part}_" if iskeyword(part) else part for part in key.split("."))
        if valid in known:
            state_dict[valid] = state_dict.pop(key)
