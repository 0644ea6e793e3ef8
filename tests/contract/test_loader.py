"""A loader that goes on inside an epoch: its state, what it reads, and when it begins."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import SequentialSampler

from anomaly_suite.contract import AnomalyModule, Batch, ShardSampler
from anomaly_suite.contract.loader import TrainingLoader
from anomaly_suite.data import Digits
from anomaly_suite.data.batched_dataset import BatchedDataset
from anomaly_suite.errors import CheckpointError


class Numbers(BatchedDataset):
    """Images of one pixel, its value the index; remembers what was read."""

    def __init__(self, count: int) -> None:
        self.count, self.epoch = count, 0
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: list[int]) -> Batch:
        self.read += indices
        return {"image": torch.tensor(indices).float().view(-1, 1, 1, 1), "label": torch.zeros(len(indices))}


def make(count: int = 10, *, batch_size: int = 3, workers: int = 0, world: int = 1, seed: int = 0) -> TrainingLoader:
    data = Numbers(count)
    sampler = ShardSampler(data, world=world, rank=0, shuffle=True, seed=seed)
    return TrainingLoader(data, batch_size=batch_size, sampler=sampler, num_workers=workers, collate_fn=lambda x: x)


def values(loader: TrainingLoader) -> list[list[float]]:
    return [batch["image"].flatten().tolist() for batch in loader]


@pytest.mark.parametrize("workers", [0, 2])
def test_it_goes_on_behind_what_it_has_handed_out_and_the_next_pass_is_whole(workers: int) -> None:
    first, second = make(workers=workers), make(workers=workers)
    whole, batches = values(first), iter(first)
    for _ in range(2):
        next(batches)
    second.load_state_dict(first.state_dict())
    assert values(second) == whole[2:]
    assert second.state_dict() == first.state_dict() | {"had": 4}
    assert values(second) == whole
    del batches


def test_what_is_skipped_is_not_read() -> None:
    loader = make()
    loader.load_state_dict({**loader.state_dict(), "had": 2})
    left = values(loader)
    assert [int(value) for batch in left for value in batch] == loader.dataset.read  # type: ignore[attr-defined]
    assert len(loader.dataset.read) == 4  # type: ignore[attr-defined]
    assert len(loader) == 4  # of the whole epoch: Lightning counts against it


@pytest.mark.parametrize("workers", [0, 2])
def test_an_iterator_made_before_the_epoch_is_known_reads_that_epoch(workers: int) -> None:
    early, late = make(workers=workers), make(workers=workers)
    batches = iter(early)
    for loader in (early, late):
        loader.sampler.set_epoch(3)  # type: ignore[attr-defined]
    assert [batch["image"].flatten().tolist() for batch in batches] == values(late) != values(make())


def test_another_sampler_is_skipped_through() -> None:
    data = Numbers(10)
    loader = TrainingLoader(data, batch_size=3, sampler=SequentialSampler(data), collate_fn=lambda x: x)
    loader.load_state_dict({**loader.state_dict(), "had": 2})
    assert values(loader) == [[6, 7, 8], [9]]


def test_a_copy_counts_for_itself() -> None:
    loader = make()
    batches = iter(loader)
    next(batches)
    values(copy.copy(loader))
    assert loader.state_dict()["had"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 2}, "train_batch_size=3, .*this run has .*train_batch_size=2"),
        ({"world": 2}, "processes=1, .*this run has .*processes=2"),
        ({"count": 12}, "samples=10, .*this run has samples=12"),
        ({"seed": 1}, "seed=0; this run has .*seed=1"),
    ],
)
def test_inside_an_epoch_other_batches_are_refused(changes: dict[str, int], message: str) -> None:
    before, after = make().state_dict(), make(**changes)  # type: ignore[arg-type]
    after.load_state_dict(before)  # between two epochs they are allowed
    with pytest.raises(CheckpointError, match=rf"saved inside an epoch with .*{message}"):
        after.load_state_dict({**before, "had": 1})


class Reader(AnomalyModule):
    """Remembers the first path of every batch, and reads the training set besides."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.steps: list[list[str]] = []
        self.besides: list[list[str]] = []

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        self.steps.append(batch["image_path"])
        if batch_idx == 0:
            self.besides += [each["image_path"] for each in self.training_batches()]

    def forward(self, image: Tensor) -> tuple[Tensor, None]:
        return image.mean((1, 2, 3)), None

    def configure_optimizers(self) -> None:
        return None


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("limit", [{"limit_train_batches": 2}, {"overfit_batches": 2}, {"max_epochs": 1}])
def test_a_pass_besides_the_loop_reads_what_the_epoch_trains_on(
    limit: dict[str, int], workers: int, trainer_in: Callable[..., Trainer]
) -> None:
    model, data = Reader(), Digits(normal_class=3, image_size=8, train_batch_size=64, num_workers=workers)
    trainer_in(**{"max_epochs": 2, **limit}).fit(model, datamodule=data)
    assert model.steps == model.besides
    assert len(model.steps) == (len(data.train_dataloader()) if "max_epochs" in limit else 4)
