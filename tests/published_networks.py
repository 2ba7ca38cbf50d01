"""Published networks, written down plainly: what counting is checked against."""

import torch
from torch import Tensor, nn

Shape3 = tuple[int, int, int]


def _conv(a: int, b: int, kernel: int, stride: int = 1, groups: int = 1, act: type[nn.Module] | None = nn.ReLU):
    layers: list[nn.Module] = [
        nn.Conv2d(a, b, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(b)
    ]  # fmt: skip
    return nn.Sequential(*layers, *([act()] if act else []))


class _Residual(nn.Module):
    def __init__(self, body: nn.Module, shortcut: nn.Module, act: nn.Module):
        super().__init__()
        self.body, self.shortcut, self.act = body, shortcut, act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.shortcut(x) + self.body(x))


def resnet(depths: tuple[int, ...], bottleneck: bool) -> nn.Module:
    """He 2016, table 1, with ImageNet's stem."""
    layers: list[nn.Module] = [_conv(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    width = 64
    for stage, depth in enumerate(depths):
        for block in range(depth):
            stride, mid = 2 if stage and not block else 1, 64 * 2**stage
            out = mid * 4 if bottleneck else mid
            if bottleneck:
                body = nn.Sequential(_conv(width, mid, 1), _conv(mid, mid, 3, stride), _conv(mid, out, 1, act=None))
            else:
                body = nn.Sequential(_conv(width, mid, 3, stride), _conv(mid, out, 3, act=None))
            same = stride == 1 and width == out
            shortcut = nn.Identity() if same else _conv(width, out, 1, stride, act=None)
            layers.append(_Residual(body, shortcut, nn.ReLU()))
            width = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 1000))


class _Squeeze(nn.Module):
    def __init__(self, width: int, mid: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(width, mid, 1), nn.Conv2d(mid, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.fc2(torch.relu(self.fc1(nn.functional.adaptive_avg_pool2d(x, 1))))
        return x * nn.functional.hardsigmoid(scale)


def mobilenet_v3_small() -> nn.Module:
    """Howard 2019, table 2."""
    rows = [  # kernel, expanded, out, squeeze, hard swish, stride
        (3, 16, 16, True, False, 2), (3, 72, 24, False, False, 2), (3, 88, 24, False, False, 1),
        (5, 96, 40, True, True, 2), (5, 240, 40, True, True, 1), (5, 240, 40, True, True, 1),
        (5, 120, 48, True, True, 1), (5, 144, 48, True, True, 1), (5, 288, 96, True, True, 2),
        (5, 576, 96, True, True, 1), (5, 576, 96, True, True, 1),
    ]  # fmt: skip
    layers: list[nn.Module] = [_conv(3, 16, 3, 2, act=nn.Hardswish)]
    width = 16
    for kernel, mid, out, squeeze, hard, stride in rows:
        act = nn.Hardswish if hard else nn.ReLU
        body = [_conv(width, mid, 1, act=act)] if mid != width else []
        body.append(_conv(mid, mid, kernel, stride, groups=mid, act=act))
        body += [_Squeeze(mid, (mid // 4 + 4) // 8 * 8)] if squeeze else []
        body.append(_conv(mid, out, 1, act=None))
        same = stride == 1 and width == out
        layers.append(_Residual(nn.Sequential(*body), nn.Identity(), nn.Identity()) if same else nn.Sequential(*body))
        width = out
    head = [nn.Linear(576, 1024), nn.Hardswish(), nn.Linear(1024, 1000)]
    return nn.Sequential(*layers, _conv(96, 576, 1, act=nn.Hardswish), nn.AdaptiveAvgPool2d(1), nn.Flatten(), *head)
