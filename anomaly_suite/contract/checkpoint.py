"""What a checkpoint holds beside weights, and pretrained weights, which it makes needless."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from anomaly_suite.contract.calibration import Calibration
from anomaly_suite.contract.finite import FiniteSupport
from anomaly_suite.errors import CheckpointError, NotFiniteError


class CheckpointSupport(FiniteSupport):
    """Part of :class:`~anomaly_suite.contract.AnomalyModule`: pretrained weights once, the record, growing buffers."""

    calibration: Calibration

    _seed: int | None = None
    _has_weights: bool = False  # pretrained ones, or those of a checkpoint

    def load_pretrained(self) -> None:
        """Load pretrained weights; called once at the start of a fit that does not resume, never by the constructor."""

    def setup(self, stage: str) -> None:
        """Load pretrained weights before a first fit: a checkpoint holds its own, so nothing is downloaded for it."""
        if stage == "fit":
            self.load_pretrained_once()

    def load_pretrained_once(self) -> None:
        """Load pretrained weights, unless that has been done or the weights are or will be those of a checkpoint."""
        if not self._has_weights and self.trainer.ckpt_path is None:
            self.load_pretrained()
            self._has_weights = True

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record class and seed.

        Raises:
            NotFiniteError: a tensor has become NaN or infinite: the checkpoint before is worth more.
        """
        if names := self.spoilt(checkpoint["state_dict"]):
            raise NotFiniteError(
                f"a checkpoint of {type(self).__name__} must hold finite numbers; {names} became NaN or infinite, so none is "
                "written. Go back to the last one, and look for broken files or too high a learning rate."
            )
        checkpoint["anomaly_suite"] = {"class": type(self).__name__, "seed": self._seed}
        # Under weight averaging the state is that of a copy, which no callback has calibrated.
        checkpoint["state_dict"]["calibration._extra_state"] = self.calibration.get_extra_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another class.

        Raises:
            CheckpointError: the checkpoint was written by another class or another program.
        """
        saved = checkpoint.get("anomaly_suite", {}).get("class")
        if saved != type(self).__name__:
            raise CheckpointError(
                f"{type(self).__name__} cannot load a checkpoint of {saved or 'a class outside anomaly_suite'}. "
                f"Give the checkpoint to {saved or 'the class that wrote it'}."
            )
        self._seed = checkpoint["anomaly_suite"]["seed"]
        self._has_weights = True

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Fitted buffers (means, banks) are empty before the fit and take the checkpoint's shape, in parts of the method too.
        for path, module in self.named_modules(prefix=prefix.removesuffix(".")):
            for name, buffer in module._buffers.items():
                saved = state_dict.get(f"{path}.{name}" if path else name)
                fitted = buffer is not None and (module is self or buffer.numel() == 0)
                if fitted and isinstance(saved, Tensor) and saved.shape != buffer.shape:
                    module._buffers[name] = buffer.new_empty(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)
