from __future__ import annotations

from collections.abc import Callable

import torch

from anomaly_suite.nn.deeplab import ASPP, DeepLabNetwork

Make = Callable[..., DeepLabNetwork]


def test_views_of_aspp_stand_in_order_with_the_image_mean_first() -> None:
    aspp = ASPP(6, width=2, rates=(12, 24, 36)).eval()
    convs = [aspp.img_conv[0], *(view[0] for view in aspp.features)]
    assert [conv.kernel_size[0] for conv in convs] == [1, 1, 3, 3, 3]
    assert [conv.dilation[0] for conv in convs] == [1, 1, 12, 24, 36]
    x = torch.rand(1, 6, 9, 7)
    whole = aspp(x)
    assert torch.equal(whole[:, :2].amin((2, 3)), whole[:, :2].amax((2, 3)))  # one value for the image
    for place, conv in enumerate(convs):
        with torch.no_grad():
            kept, conv.weight[:] = conv.weight.clone(), 0.0
            changed = (aspp(x) != whole).any(3).any(2).view(5, 2).any(1)
            conv.weight[:] = kept
        assert changed.tolist() == [number == place for number in range(5)]


def test_a_single_training_image_works_and_two_use_their_own_statistics(tiny: Make) -> None:
    network = tiny()
    image = torch.rand(2, 3, 32, 48)
    before = network.aspp.img_conv[1].running_mean.clone()
    network(image[:1]).sum().backward()
    assert torch.equal(network.aspp.img_conv[1].running_mean, before)
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in network.parameters())
    network(image)
    assert not torch.equal(network.aspp.img_conv[1].running_mean, before)
