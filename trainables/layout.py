"""Which memory layout and which number format train faster on this machine?"""

import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces import Shape

STEPS = 5
GAIN = 1.05  # below this the difference may be noise, and what is plain is kept
HOPELESS = 3.0  # so many times slower is no noise


class _OnFewerPixels(nn.Conv2d):
    """A convolution of one pixel with a stride, as one without on the pixels that it reads."""

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.stride
        return F.conv2d(x[..., ::rows, ::columns], self.weight, self.bias)


def to_channels_last(model: nn.Module) -> nn.Module:
    """The model with its weights in that layout, changed in place.

    oneDNN (torch 2.13, processors without AVX-512) writes beyond its buffers in the backward pass of a strided
    convolution of one pixel on few channels: "corrupted double-linked list", and the process is gone. Here it never
    meets one.
    """
    for part in model.modules():
        plain = type(part) is nn.Conv2d and part.kernel_size == (1, 1) and part.padding == (0, 0) and part.groups == 1
        if plain and part.stride != (1, 1):
            part.__class__ = _OnFewerPixels
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def channels_last_pays(build: Callable[[], nn.Module], shape: Shape, classes: int, batch_size: int) -> bool:
    """Whether training with channels last in memory is faster here, measured on one network.

    It is 1.3 to 1.7 times faster for small convolutional students on some CPUs and slower on others, so it
    is measured once a search; measured for each candidate it would make results depend on noise.

    Args:
        build: makes the network to try.
        shape: (channels, height, width) of one input.
        classes: number of classes.
        batch_size: samples a step.
    """
    with torch.random.fork_rng(devices=[]):
        plain, last = build().train(), to_channels_last(build().train())
        images, labels = torch.rand(batch_size, *shape), torch.zeros(batch_size, dtype=torch.long)
    return _second_is_faster([lambda: _pass(plain, images, labels), lambda: _pass(last, images, labels)])


def bfloat16_pays(
    build: Callable[[], nn.Module], shape: Shape, classes: int, batch_size: int, channels_last: bool
) -> bool:
    """Whether networks train faster here with activations in bfloat16 (autocast), measured as the layout is.

    Processors without instructions for it imitate them: 2.5 to 7 times slower on an AMD EPYC with AVX2 only
    (`benchmarks/loop_options.py`), so one pass decides there.
    """
    with torch.random.fork_rng(devices=[]):
        model = to_channels_last(build().train()) if channels_last else build().train()
        images, labels = torch.rand(batch_size, *shape), torch.zeros(batch_size, dtype=torch.long)

    def half() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            _pass(model, images, labels)

    return _second_is_faster([lambda: _pass(model, images, labels), half])


def _pass(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    F.cross_entropy(model(images).flatten(1).float(), labels).backward()  # of boxes too: any loss will do


def _second_is_faster(ways: Sequence[Callable[[], None]]) -> bool:
    seconds: tuple[list[float], list[float]] = ([], [])
    for step in range(STEPS + 1):
        for way, found in zip(ways, seconds, strict=True):
            begin = time.perf_counter()
            way()
            if step > 0:  # the first step allocates
                found.append(time.perf_counter() - begin)
        if step > 0 and seconds[1][-1] > HOPELESS * seconds[0][-1]:
            return False
    # The fastest of each: whatever else runs on the machine only ever adds time.
    return min(seconds[0]) > GAIN * min(seconds[1])
