"""Level: which batches one level of metrics takes, what it compares, and how its values are named.

A new modality is a subclass in a file of its own, and one line in ``anomaly_metrics.LEVELS``.
Axes: N samples, pixels or frames.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from torch import Tensor
from torchmetrics import Metric, MetricCollection

from anomaly_suite import metrics
from anomaly_suite.callbacks.reading import Found
from anomaly_suite.contract import Batch, Prediction
from anomaly_suite.metrics.levels import THRESHOLDED, LevelOption, check_names


class Group(NamedTuple):
    """Metrics of one level that see the same values; groups sort in the order in which their metrics are logged."""

    option: LevelOption
    scope: str = ""
    decides: bool = False
    own: bool = False


class Update(NamedTuple):
    """Values and truth for the metrics of one group.

    ``values`` and ``truth`` (N, ...) are scores, or decisions where the group decides. ``per_sample``: their rows are those of the
    batch, so that categories can be told apart.
    """

    group: Group
    values: Tensor
    truth: Tensor
    per_sample: bool = False


class Level:
    """One level of metrics.

    Args:
        names: Metrics wanted; see ``metrics.levels``.
        exact: Keep every value, where the level would use a sketch of bounded memory.
        own: A user's metrics by name; they see raw scores and truth.

    Raises:
        ConfigError: a metric that the level does not have.
    """

    option: ClassVar[LevelOption]
    logged: ClassVar[str]
    """What logged names begin with."""

    score: ClassVar[str]
    truth: ClassVar[str]
    """Keys of prediction and batch that are compared."""

    sketched: ClassVar[bool] = False
    """Whether values would fill the memory, so that metrics keep a sketch."""

    unit: ClassVar[str | None] = None
    """What is counted, if not images."""

    notes: ClassVar[dict[str, str]] = {}
    """What a part of a logged name adds to the definition of its metric."""

    def __init__(self, names: Sequence[str], *, exact: bool, own: Mapping[str, Metric]) -> None:
        check_names(self.option, names)
        self.exact = exact or not self.sketched
        self.own = dict(own)
        self._names: dict[Group, list[str]] = {}
        for name in names:
            metric, _, scope = name.partition("_")
            group = Group(self.option, scope, decides=metric in (*THRESHOLDED, "FAR"))
            self._names.setdefault(group, []).append(name)
        if own:
            self._names[Group(self.option, own=True)] = list(own)

    def prepare(self, data: Any) -> None:
        """Take in what the data module of an epoch, or None, says of the benchmark."""

    def wants(self, group: Group) -> bool:
        """Whether a metric of this group was asked for."""
        return bool(self.names_of(group))

    def names_of(self, group: Group) -> list[str]:
        """Metrics of one group that were asked for."""
        return self._names.get(group, [])

    def names(self) -> list[str]:
        """Metrics that were asked for."""
        return [name for names in self._names.values() for name in names]

    def expected(self, read: Collection[str], *, testing: bool) -> bool:
        """Whether an epoch whose steps had these keys should have values of this level: half of what is compared is there.

        Args:
            read: Our names of keys.
            testing: Whether this is a test.
        """
        return (self.score in read) != (self.truth in read)

    def lacks(self, found: Found, *, testing: bool) -> str | None:
        """Why an epoch has no values of this level, if it should; for the sentence about each metric.

        Args:
            found: Keys of the epoch.
            testing: Whether this was a test.
        """
        return found.lacks(self.score, self.truth) if self.expected(found.read, testing=testing) else None

    def build(self, group: Group) -> MetricCollection:
        """New metrics of one group."""
        if group.own:
            return MetricCollection({name: metric.clone() for name, metric in self.own.items()}, compute_groups=False)
        # The first of a group of rankings keeps the state, and AUPRO needs more.
        names = sorted(self.names_of(group), key=lambda name: name != "AUPRO")
        options: dict[str, Any] = {} if group.decides else {"exact": self.exact}
        members: dict[str, Metric | MetricCollection] = {
            name: getattr(metrics, name.partition("_")[0])(**options) for name in names
        }
        return MetricCollection(members, compute_groups=False if group.decides else [names])

    def updates(self, prediction: Prediction, batch: Batch) -> Iterator[Update]:
        """What a batch gives to the groups of this level; nothing if it is of another modality.

        Raises:
            NotImplementedError: the level does not define it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define updates(prediction, batch).")

    def scores(self, values: Tensor, truth: Tensor, *, scope: str = "", per_sample: bool = False) -> Iterator[Update]:
        """Scores for the rankings, and for the user's own metrics.

        Args:
            values: Shape (N, ...).
            truth: Shape (N, ...).
            scope: Part of the logged names; own metrics see the level as a whole.
            per_sample: See :class:`Update`.
        """
        yield Update(Group(self.option, scope), values, truth, per_sample)
        if not scope:
            yield Update(Group(self.option, own=True), values, truth, per_sample)

    def decisions(self, values: Tensor, truth: Tensor, *, per_sample: bool = False) -> Iterator[Update]:
        """Decisions.

        Args:
            values: Bool, shape (N, ...).
            truth: Shape (N, ...).
            per_sample: See :class:`Update`.
        """
        yield Update(Group(self.option, decides=True), values, truth, per_sample)
