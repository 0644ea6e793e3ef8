"""How the cells of a grid are run: where, how many at once, with which share of the processors, and what is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from anomaly_suite.errors import ConfigError, did_you_mean

Executor = Literal["sequence", "processes", "ray"]
Keep = Literal["results", "checkpoints", "all"]


@dataclass(frozen=True)
class RunSettings:
    """How cells are run.

    Args:
        executor: ``sequence`` in this process, ``processes`` on this machine, ``ray`` on a cluster.
        workers: Cells at once; of Ray, processors of a local cluster.
        gpus: GPUs of a cell; 0.25 lets four cells share one, 0 leaves the choice to the configurations.
        cpus: Processors of a cell on Ray.
        threads: Numeric threads of a cell; 0 shares the processors out.
        address: Of a Ray cluster; empty starts one on this machine.
        keep: What stays of a finished cell: ``results`` (configuration, metrics, scores), ``checkpoints`` as well, or ``all`` that a
            test writes, with heatmaps and plots.
    """

    executor: Executor = "sequence"
    workers: int = 1
    gpus: float = 0
    cpus: float = 1
    threads: int = 0
    address: str = ""
    keep: Keep = "results"

    def __post_init__(self) -> None:
        for name, kind in (("executor", Executor), ("keep", Keep)):
            value, known = getattr(self, name), get_args(kind)
            if value not in known:
                raise ConfigError(
                    f"run.{name} must be one of {', '.join(known)}; got {value!r}.{did_you_mean(str(value), known)}"
                )
        for name, lowest in (("workers", 1), ("gpus", 0), ("cpus", 0), ("threads", 0)):
            value = getattr(self, name)
            whole = name in ("workers", "threads")
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or value < lowest:
                raise ConfigError(
                    f"run.{name} must be a {'whole ' if whole else ''}number from {lowest} on; got {value!r}. Choose another."
                )
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ConfigError(
                f"run.gpus must be a share of one GPU, or a whole number; got {self.gpus}. Choose 1 or 2."
            )

    @classmethod
    def read(cls, content: Any, file: Path) -> RunSettings:
        """From the section ``run`` of a grid's file.

        Args:
            content: The section.
            file: Which to name.

        Raises:
            ConfigError: an unknown key, or a value that cannot work.
        """
        known = [each.name for each in fields(cls)]
        if not isinstance(content, dict):
            raise ConfigError(f"'{file}': run must be a mapping; got {content!r}. Write lines such as 'workers: 2'.")
        for key in content:
            if key not in known:
                raise ConfigError(
                    f"'{file}': run may have {', '.join(known)}; got {key!r}.{did_you_mean(str(key), known)}"
                )
        return cls(**content)

    def changed(self, values: Mapping[str, Any]) -> RunSettings:
        """With the values of the command line.

        Args:
            values: By name; None leaves what there is.
        """
        return replace(self, **{name: value for name, value in values.items() if value is not None})
