"""Errors of loader workers and threads say the sentence alone."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader, Dataset

from anomaly_suite import errors
from anomaly_suite.errors import AnomalySuiteError, DatasetError, ImageReadError

KINDS = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, AnomalySuiteError)]
SENTENCE = "'a: b.png' holds\nNaN in DataLoader worker. Replace: it."


class Broken(Dataset[int]):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        try:
            return 1 // 0
        except ZeroDivisionError as error:
            raise DatasetError(SENTENCE) from error


@pytest.mark.parametrize("kind", KINDS)
def test_what_torch_raises_again_is_the_sentence(kind: type[AnomalySuiteError]) -> None:
    try:
        raise kind(SENTENCE) from OSError("first")
    except AnomalySuiteError:
        wrapped = ExceptionWrapper(where="in pin memory thread for device 0")
    with pytest.raises(kind) as raised:
        wrapped.reraise()
    assert str(raised.value) == SENTENCE
    assert str(pickle.loads(pickle.dumps(raised.value))) == SENTENCE


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_with_and_without_workers(workers: int) -> None:
    with pytest.raises(DatasetError) as raised:
        next(iter(DataLoader(Broken(), num_workers=workers)))
    assert str(raised.value) == SENTENCE


def test_other_messages_stay_as_they_are() -> None:
    assert ImageReadError("Caught ImageReadError in a net").args == ("Caught ImageReadError in a net",)
    assert ImageReadError(2, "text").errno == 2
    assert torch.is_tensor(AnomalySuiteError(torch.ones(1)).args[0])
