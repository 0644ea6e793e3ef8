from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix as sklearn_confusion

from anomaly_suite.errors import ConfigError, MetricUndefinedError, ShapeError
from anomaly_suite.metrics import MeanIoU, confusion_matrix, intersection_over_union


def example(classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    pred, target = torch.randint(classes, (3, 7, 9)), torch.randint(classes, (3, 7, 9))
    target[torch.rand(target.shape) < 0.2] = 255
    target[torch.rand(target.shape) < 0.1] = 254
    return pred, target


def slow_mean_iou(pred: torch.Tensor, target: torch.Tensor, classes: int) -> float:
    values = []
    for label in range(classes):
        both = either = 0
        for said, truth in zip(pred.flatten().tolist(), target.flatten().tolist(), strict=True):
            if truth < 254:
                both += said == label == truth
                either += label in (said, truth)
        if either:
            values.append(both / either)
    return sum(values) / len(values)


def test_counts_equal_sklearn() -> None:
    pred, target = example()
    known = target < 254
    expected = sklearn_confusion(target[known], pred[known], labels=range(5))
    np.testing.assert_array_equal(confusion_matrix(pred, target, 5).numpy(), expected)


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_mean_iou_equals_a_slow_loop_in_any_number_of_batches(parts: int) -> None:
    pred, target = example()
    metric = MeanIoU(num_classes=8)  # classes 5 to 7 do not occur
    for said, truth in zip(pred.chunk(parts), target.chunk(parts), strict=True):
        metric.update(said, truth.to(torch.uint8))
    assert metric.compute().item() == pytest.approx(slow_mean_iou(pred, target, 8), abs=1e-12)


def test_all_images_count_together() -> None:
    metric = MeanIoU(num_classes=2)
    metric.update(torch.tensor([[[0, 0, 0, 1]]]), torch.tensor([[[0, 0, 0, 0]]]))
    metric.update(torch.tensor([[[1]]]), torch.tensor([[[1]]]))
    assert metric.compute().item() == pytest.approx((3 / 4 + 1 / 2) / 2)


def test_merged_states_are_those_of_all_data() -> None:
    pred, target = example()
    whole, first, second = (MeanIoU(num_classes=5) for _ in range(3))
    whole.update(pred, target)
    first.update(pred[:1], target[:1])
    second.update(pred[1:], target[1:])
    first.merge_state(second)
    assert torch.equal(first.counts(), whole.counts())
    assert first.compute() == whole.compute()
    first.reset()
    assert first.counts().sum() == 0


def test_a_perfect_prediction_is_1() -> None:
    _, target = example()
    metric = MeanIoU(num_classes=5)
    metric.update(target.where(target < 254, 0), target)
    assert metric.compute() == 1


def test_all_road_is_the_share_of_road_over_the_classes() -> None:
    target = torch.cat([torch.zeros(360), torch.arange(640) % 18 + 1]).long().view(1, 25, 40)
    metric = MeanIoU(num_classes=19)
    metric.update(torch.zeros_like(target), target)
    assert metric.compute().item() == pytest.approx(0.36 / 19)


def test_a_class_that_is_only_predicted_counts_and_one_that_never_occurs_does_not() -> None:
    iou = intersection_over_union(confusion_matrix(torch.tensor([0, 0, 2]), torch.tensor([0, 0, 0]), 4))
    assert iou[[0, 2]].tolist() == pytest.approx([2 / 3, 0])
    assert iou[[1, 3]].isnan().all()


def test_predictions_on_void_may_be_anything() -> None:
    assert confusion_matrix(torch.tensor([0, 99]), torch.tensor([0, 255]), 2).tolist() == [[1, 0], [0, 0]]


def test_nothing_known_has_no_value() -> None:
    metric = MeanIoU(num_classes=3)
    metric.update(torch.zeros(1, 2, 2, dtype=torch.long), torch.full((1, 2, 2), 255))
    with pytest.raises(MetricUndefinedError, match="needs pixels with a known class"):
        metric.compute()


def test_what_cannot_be_counted_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"got \(2, 2\) and \(2, 3\)"):
        confusion_matrix(torch.zeros(2, 2), torch.zeros(2, 3), 2)
    with pytest.raises(ValueError, match="target must hold classes 0 to 1; got 2"):
        confusion_matrix(torch.tensor([0, 1]), torch.tensor([0, 2]), 2)
    with pytest.raises(ValueError, match="pred_target must hold classes 0 to 1; got -1"):
        confusion_matrix(torch.tensor([-1, 1]), torch.tensor([0, 1]), 2)
    with pytest.raises(ConfigError, match="num_classes must be at least 1"):
        MeanIoU(num_classes=0)


@pytest.mark.parametrize("classes", [2, 19, 127, 128, 200, 253, 300])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_any_number_of_classes_and_any_type_of_labels_count_alike(classes: int, dtype: torch.dtype) -> None:
    if classes > torch.iinfo(dtype).max:
        pytest.skip("the type holds fewer classes")
    known = min(classes, 254)  # 254 and above are no classes of a target
    pred, target = torch.randint(known, (4000,)), torch.randint(known, (4000,))
    target[::7] = 255
    expected = torch.zeros(classes, classes, dtype=torch.long)
    for said, truth in zip(pred.tolist(), target.tolist(), strict=True):
        if truth < 254:
            expected[truth, said] += 1
    assert torch.equal(confusion_matrix(pred.to(dtype), target.to(dtype), classes), expected)


def test_predictions_do_not_matter_where_no_class_is_known_and_void_may_be_any_number_from_254() -> None:
    pred, target = torch.tensor([0, 1, 700, -1, 255]), torch.tensor([0, 0, 254, 255, 1000])
    assert confusion_matrix(pred, target, 2).tolist() == [[1, 1], [0, 0]]
    assert confusion_matrix(pred[:2].float(), target[:2], 2).tolist() == [[1, 1], [0, 0]]
    assert confusion_matrix(pred[:2].bool(), target[:2].bool(), 2).tolist() == [[1, 1], [0, 0]]
    assert confusion_matrix(pred[:0], target[:0], 2).tolist() == [[0, 0], [0, 0]]
    for wrong in (2, 253):
        with pytest.raises(ValueError, match=f"target must hold classes 0 to 1; got {wrong}"):
            confusion_matrix(pred[:2], torch.tensor([0, wrong]), 2)
