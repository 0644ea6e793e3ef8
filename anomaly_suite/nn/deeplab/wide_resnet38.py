"""WideResNet38-A2: the wide trunk of driving-scene segmentation networks, of output stride 8 and without its classifier.

Paper: Wu, Shen and van den Hengel, "Wider or Deeper", 2016, arXiv:1611.10080; the thesis of Yu Tian writes "WideResnet34".
Tensors have the names of the released checkpoints, so that these load by name.

Axes: B batch, C channels, H and W pixels, h and w cells.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

STEM = 64
STAGES: dict[str, tuple[int, tuple[int, ...], int, int, float]] = {
    # blocks, channels inside a block, stride of the first block, dilation, dropout
    "mod2": (3, (128, 128), 1, 1, 0.0),
    "mod3": (3, (256, 256), 1, 1, 0.0),
    "mod4": (6, (512, 512), 2, 1, 0.0),
    "mod5": (3, (512, 1024), 1, 2, 0.0),
    "mod6": (1, (512, 1024, 2048), 1, 4, 0.3),
    "mod7": (1, (1024, 2048, 4096), 1, 4, 0.5),
}


class PreActivationBlock(nn.Module):
    """Normalise, rectify, convolve; the input is added and nothing follows the sum.

    Two ``channels`` are two 3x3 convolutions, three are 1x1, 3x3 and 1x1. Where stride or width change, the shortcut is a 1x1
    convolution of the normalised input, elsewhere the input as it came.

    Args:
        in_channels: C of the input.
        channels: C after each convolution.
        stride: Of the first convolution.
        dilation: Of the 3x3 convolutions.
        dropout: Share of whole channels dropped before the last convolution in training; 0 for none.
    """

    def __init__(
        self, in_channels: int, channels: Sequence[int], *, stride: int = 1, dilation: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        sides = (3, 3) if len(channels) == 2 else (1, 3, 1)
        self.bn1 = _norm_relu(in_channels)
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        before = in_channels
        for number, (width, side) in enumerate(zip(channels, sides, strict=True), start=1):
            if number > 1:
                parts[f"bn{number}"] = _norm_relu(before)
            if dropout and number == len(channels):
                parts["dropout"] = nn.Dropout2d(dropout)
            step, spread = stride if number == 1 else 1, dilation if side == 3 else 1
            padding = spread * (side // 2)
            parts[f"conv{number}"] = nn.Conv2d(before, width, side, step, padding, spread, bias=False)
            before = width
        self.convs = nn.Sequential(parts)
        same = stride == 1 and before == in_channels
        self.proj_conv = None if same else nn.Conv2d(in_channels, before, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, ``channels[-1]``, h / stride, w / stride)."""
        active = self.bn1(x)
        shortcut = x if self.proj_conv is None else self.proj_conv(active)
        out: Tensor = self.convs(active) + shortcut
        return out


class WideResNet38(nn.Module):
    """The trunk: standardised images to the maps of chosen stages, with random weights.

    Args:
        levels: Stages whose maps are wanted, in order: ``mod2`` (1/2 scale, 128 channels), ``mod3`` (1/4, 256), and ``mod4`` to
            ``mod7`` (1/8; 512, 1024, 2048, 4096).
    """

    def __init__(self, levels: Sequence[str] = ("mod2", "mod7")) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.channels = tuple(STAGES[level][1][-1] for level in levels)
        self.mod1 = nn.Sequential(OrderedDict(conv1=nn.Conv2d(3, STEM, 3, padding=1, bias=False)))
        self.pool = nn.MaxPool2d(3, 2, 1)  # before mod2 and mod3
        before = STEM
        for name, (count, channels, stride, dilation, dropout) in STAGES.items():
            blocks: OrderedDict[str, nn.Module] = OrderedDict()
            for number in range(1, count + 1):
                step = stride if number == 1 else 1
                blocks[f"block{number}"] = PreActivationBlock(
                    before, channels, stride=step, dilation=dilation, dropout=dropout
                )
                before = channels[-1]
            self.add_module(name, nn.Sequential(blocks))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to the maps of ``levels``, raw sums without a last normalisation."""
        maps = {}
        x = self.mod1(x)
        for name in STAGES:
            x = self.get_submodule(name)(self.pool(x) if name in ("mod2", "mod3") else x)
            maps[name] = x
        return [maps[level] for level in self.levels]


def _norm_relu(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
