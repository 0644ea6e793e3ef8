from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from anomaly_suite.nn.feature_bank import FeatureSample, count_rows, empty_bank, fill_bank, log_kernels, nearest

CPU = torch.device("cpu")


def alone(value: torch.Tensor) -> torch.Tensor:
    return value


def test_the_sample_depends_on_keys_alone() -> None:
    keys, feature = torch.randperm(40), torch.randn(40, 3)
    banks = []
    for order in (torch.arange(40), torch.randperm(40)):
        sample = FeatureSample(12)
        for part in order.split(7):
            sample.add(keys[part], feature[part])
        assert len(sample.keys) == 12  # it never grows
        banks.append(sample.merge(3, all_gather=alone, device=CPU))
    assert torch.equal(*banks)
    assert torch.equal(banks[0], feature[keys.argsort()[:12]])


@pytest.mark.parametrize("total", [9, 6])  # more than the bank holds, and fewer
def test_two_processes_have_the_sample_of_one(total: int) -> None:
    keys, feature = torch.randperm(total), torch.randn(total, 2)
    one = FeatureSample(7)
    one.add(keys, feature)
    parts = [FeatureSample(7), FeatureSample(7)]
    parts[0].add(keys[:2], feature[:2])
    parts[1].add(keys[2:], feature[2:])
    missing = total - 4
    counts = torch.tensor([2, total - 2])
    padded_keys = torch.stack([torch.cat([keys[:2].sort().values, torch.full((missing,), 2**63 - 1)]), parts[1].keys])
    padded = torch.stack([torch.cat([parts[0].features, torch.zeros(missing, 2)]), parts[1].features])
    answers = iter([counts, padded_keys, padded])
    asked = []

    def gather(value: torch.Tensor) -> torch.Tensor:
        asked.append(value)
        return next(answers)

    found = parts[0].merge(2, all_gather=gather, device=CPU)
    assert torch.equal(asked[1], padded_keys[0])
    assert torch.equal(asked[2], padded[0])
    assert torch.equal(found, one.merge(2, all_gather=alone, device=CPU))


def test_nearest_features() -> None:
    bank = torch.tensor([[0.0], [3.0], [10.0]])
    assert nearest(torch.tensor([[1.0]]), bank, neighbours=2).tolist() == [[1.0, 4.0]]  # panda.md, 7.5
    assert nearest(bank, bank, neighbours=1).tolist() == [[0.0]] * 3  # 7.7
    assert nearest(bank, bank, neighbours=5).shape == (3, 3)


def test_empty_rows_of_a_bank_are_not_there() -> None:
    features, query = F.normalize(torch.randn(5, 3), dim=1), F.normalize(torch.randn(4, 3), dim=1)
    bank = empty_bank(8, 3)
    assert count_rows(bank) == 0
    fill_bank(bank, torch.randn(8, 3))
    fill_bank(bank, features)
    assert count_rows(bank) == 5
    torch.testing.assert_close(nearest(query, bank, neighbours=7), nearest(query, features, neighbours=5))
    slow = torch.exp(-0.7 * torch.cdist(query, features) ** 2).sum(1).log()
    torch.testing.assert_close(log_kernels(query, bank, gamma=0.7), slow)


class Scores(torch.nn.Module):
    def __init__(self, bank: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("bank", bank)

    def forward(self, feature: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return nearest(feature, self.bank, neighbours=3).sum(1), log_kernels(feature, self.bank, gamma=1.0)


def test_an_exported_bank_has_its_empty_rows() -> None:
    bank, query = empty_bank(6, 3), torch.randn(4, 3)
    fill_bank(bank, torch.randn(2, 3))  # fewer than neighbours, too
    net = Scores(bank)
    graph = torch.export.export(net, (query,), strict=False).module()
    fill = torch.randn(2, 3)
    torch.testing.assert_close(graph(fill.repeat(2, 1)), net(fill.repeat(2, 1)))
