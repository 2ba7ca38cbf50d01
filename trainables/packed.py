"""How do several students of one architecture train as one? Their channels side by side, in grouped convolutions.

Each keeps its own recipe, seed, order of samples, learning rate and optimiser, and ends as it would have alone, within
the rounding of floats. What a step of a small student costs is calls, not arithmetic: 8 of 1,710 parameters on 8x8
images take 0.35 of the time of 8 single ones (`benchmarks/packed.py`). Where arithmetic rules it is no gain, so a short
measurement decides (`pays`).
"""

import contextlib
import copy
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from search_spaces import first_line
from trainables.bank import Bank, Batch, fitting
from trainables.loop import (
    EVALUATION_BATCH,
    DivergedError,
    Normalise,
    Training,
    answers,
    device_of,
    epoch_batches,
    rate,
    read_taps,
    weighed,
)
from trainables.optimizer import clip
from trainables.recipe import Recipe
from trainables.tasks.base import Split, Task
from trainables.terms import together

TIMED_STEPS = 2
PROBE = 4  # images on which the pack must answer as its students do
CLOSE: Any = {"rtol": 1e-3, "atol": 1e-4, "equal_nan": True}


class UnpackableError(ValueError):
    """These students cannot train as one."""


@dataclass
class Pack:
    """Students side by side; their weights and gradients are views of its own.

    Args:
        model: of all of them; reads `[B, P C, H, W]`, student after student, and answers `[B, P K]`.
        trainings: of each.
        gradients: of all weights of `model`.
    """

    model: nn.Module
    trainings: Sequence[Training]
    gradients: list[Tensor]

    def part(self, x: Tensor, index: int) -> Tensor:
        """What student `index` has of a tensor of all, `[B, P C, …]` to `[B, C, …]`."""
        return x.unflatten(1, (len(self.trainings), -1))[:, index]

    def close(self) -> None:
        """Give each student weights of its own again."""
        counts = [module.num_batches_tracked for module in self.model.modules() if isinstance(module, _BatchNorm)]
        for training in self.trainings:
            norms = [module for module in training.model.modules() if isinstance(module, _BatchNorm)]
            for module, count in zip(norms, counts, strict=True):
                if count is not None and module.num_batches_tracked is not None:
                    module.num_batches_tracked.copy_(count)
            for parameter in training.model.parameters():
                parameter.grad = None
            for tensor in (*training.model.parameters(), *training.model.buffers()):
                tensor.data = tensor.data.clone(memory_format=torch.preserve_format)


def pack(trainings: Sequence[Training], normalise: Normalise, bank: Bank) -> Pack:
    """Put students of one architecture side by side; `close` ends it.

    Raises:
        UnpackableError: their recipes or parts are none that can share a step, or the pack answers otherwise.
    """
    first = trainings[0]
    for training in trainings:
        if not shares_steps(training.recipe):
            raise UnpackableError("mutual learning, training for int8 and learned weights have steps of their own")
        alike = (training.epoch, training.total_epochs, training.recipe.batch_size)
        if alike != (first.epoch, first.total_epochs, first.recipe.batch_size):
            raise UnpackableError("they differ in epochs or batch size")
    models = [training.model for training in trainings]
    with _refusing():
        expected = _answers(models, normalise, bank)
        model, gradients = _side_by_side(models)
    made = Pack(model, trainings, gradients)
    try:
        with _refusing():
            _check(made, expected, normalise, bank)
    except UnpackableError:
        made.close()
        raise
    return made


def shares_steps(recipe: Recipe) -> bool:
    """Whether a student with this recipe may be part of a pack."""
    return not (recipe.mutual or recipe.quantised or (recipe.weighting == "meta" and recipe.terms))


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """Whatever a network does that the code of a pack does not expect, it trains alone as well."""
    try:
        yield
    except UnpackableError:
        raise
    except Exception as error:
        raise UnpackableError(f"{type(error).__name__}: {first_line(error)}") from error


def train_packed(
    trainings: Sequence[Training], bank: Bank, validation: Split, task: Task, normalise: Normalise, until_epoch: int
) -> dict[int, DivergedError]:
    """Train all of them up to `until_epoch`, as `trainables.loop.train` does each.

    Returns:
        Those that diverged, by their place; each stopped at its last whole epoch.

    Raises:
        UnpackableError: see `pack`; nothing was trained.
    """
    failed: dict[int, DivergedError] = {}
    going = list(range(len(trainings)))
    while going and trainings[going[0]].epoch < until_epoch:
        made = pack([trainings[index] for index in going], normalise, bank)
        try:
            while made.trainings[0].epoch < until_epoch and not failed.keys() & set(going):
                begin = time.perf_counter()
                losses = _epoch(made, bank, task, normalise)
                scores = _evaluate(made, validation, task, normalise)
                seconds = (time.perf_counter() - begin) / len(going)
                for index, loss, (val_loss, accuracy) in zip(going, losses, scores, strict=True):
                    training = trainings[index]
                    training.train_s += seconds
                    epoch = training.epoch + 1
                    if not math.isfinite(loss):
                        failed[index] = DivergedError(f"loss is {loss} in epoch {epoch}")
                    elif math.isnan(val_loss):
                        failed[index] = DivergedError(f"validation loss is {val_loss} after epoch {epoch}")
                    else:
                        point = {"epoch": epoch, "train_loss": loss, "val_loss": val_loss, "val_accuracy": accuracy}
                        training.curve.append(point)
        finally:
            made.close()
        going = [index for index in going if index not in failed]
    return failed


def wanted(choice: str, training: Training, students: int, bank: Bank) -> bool:
    """Whether so many like this one train as one, where the user chose `always`, `never` or `auto`: if it pays."""
    return students > 1 and (choice == "always" or (choice == "auto" and pays(training, students, bank)))


def pays(training: Training, students: int, bank: Bank) -> bool:
    """Whether one step of a pack takes less time than the steps of its students one by one, measured here on copies.

    Loss and update are the same calls either way, so the networks alone are timed, forward and backward; the faster
    step of each counts, for the first allocates, and whatever else runs on the machine only ever adds time.

    Args:
        training: one of them.
        students: how many.
        bank: what they learn from.

    Raises:
        UnpackableError: see `pack`.
    """
    with _refusing():
        models = [copy.deepcopy(training.model).train() for _ in range(students)]
        single, device = copy.deepcopy(models[0]), device_of(models[0])
        beside, _ = _side_by_side(models)
        images = torch.rand(min(training.recipe.batch_size, len(bank)), *bank.shape, device=device)
        timed = {1: (single, images), students: (beside.train(), images.repeat(1, students, 1, 1))}
        best = dict.fromkeys(timed, math.inf)
        for _ in range(TIMED_STEPS):
            for many, (model, inputs) in timed.items():
                begin = time.perf_counter()
                model(inputs).square().mean().backward()
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                best[many] = min(best[many], time.perf_counter() - begin)
    return best[students] < students * best[1]


def _epoch(made: Pack, bank: Bank, task: Task, normalise: Normalise) -> list[float]:
    trainings, model, students = made.trainings, made.model, len(made.trainings)
    epoch = trainings[0].epoch
    view = epoch % bank.views
    transforms = bank.transforms(view)
    orders = zip(*(epoch_batches(training, bank) for training in trainings), strict=True)
    steps = [np.stack(indices, axis=1) for indices in orders]
    total_steps = trainings[0].total_epochs * len(steps)
    own, theirs = read_taps(read for training in trainings for read in training.reads)
    device = device_of(model)
    totals = torch.zeros(students, device=device)
    model.train()
    for index, indices in enumerate(steps):
        step = epoch * len(steps) + index
        batch = bank.batch(indices.reshape(-1), view, transforms, theirs).to(device)
        images = _beside(normalise(batch.images), students)
        logits, seen = answers(model, images, own, trainings[0].bfloat16)
        losses = []
        for place, training in enumerate(trainings):
            taps = {name: made.part(x, place) for name, x in seen.items()}
            mine, progress = _rows(batch, place, students), step / max(total_steps - 1, 1)
            parts = weighed(training, mine, made.part(logits, place), taps, task, progress)
            losses.append(together(parts, training.projectors))
        found = torch.stack(losses)
        torch._foreach_zero_(made.gradients)
        for training in trainings:
            training.projectors.zero_grad()
        found.sum().backward()
        for training in trainings:
            clip(training.optimizer.parameters)
            training.optimizer.step(training.recipe.learning_rate * rate(step / total_steps))
        totals += found.detach()
    return (totals / len(steps)).tolist()


def _evaluate(made: Pack, split: Split, task: Task, normalise: Normalise) -> list[tuple[float, float]]:
    model, students = made.model, len(made.trainings)
    model.eval()
    answers = []
    with torch.inference_mode():
        size = max(1, fitting(EVALUATION_BATCH, split.images.shape[1:]) // students)
        for begin in range(0, len(split), size):
            images = normalise(torch.from_numpy(np.array(split.images[begin : begin + size])).to(device_of(model)))
            answers.append(model(images.repeat(1, students, *[1] * (images.dim() - 2))).cpu())
        logits, labels = torch.cat(answers), torch.from_numpy(np.array(split.labels))
        parts = [made.part(logits, place) for place in range(students)]
        return [(float(task.loss(part, labels)), task.metric(part, labels)) for part in parts]


def _rows(batch: Batch, place: int, students: int) -> Batch:
    """The samples of one student, of a batch that holds those of all in turn."""
    taps = {name: value[place::students] for name, value in batch.taps.items()}
    mine = slice(place, None, students)
    return Batch(batch.images[mine], batch.labels[mine], batch.logits[:, mine], taps, batch.samples[mine])


def _beside(images: Tensor, students: int) -> Tensor:
    """`[B P, C, H, W]`, student by student of each step's sample, to `[B, P C, H, W]`."""
    return images.unflatten(0, (-1, students)).flatten(1, 2)


def _side_by_side(models: Sequence[nn.Module]) -> tuple[nn.Module, list[Tensor]]:
    """A model of all, whose weights those of the models become views of, and its gradients."""
    if len([*models[0].parameters()]) != len([*models[0].named_parameters(remove_duplicate=False)]):
        raise UnpackableError("it uses a weight twice")
    packed = copy.deepcopy(models[0])
    layers: dict[str, tuple[nn.Module, list[nn.Module]]] = {}
    for name, module in models[0].named_modules():
        if not [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            if isinstance(module, _DropoutNd) and module.p > 0:
                raise UnpackableError("dropout draws other numbers for a pack")
            continue
        if not name:
            raise UnpackableError("it is one layer")
        parts = [model.get_submodule(name) for model in models]
        if len({type(part) for part in parts}) > 1:
            raise UnpackableError("their layers are of different kinds")
        layers[name] = _layer(parts), parts
    for name, (layer, parts) in layers.items():  # nothing refuses any more: from here on they share memory
        owner, _, last = name.rpartition(".")
        setattr(packed.get_submodule(owner), last, layer)
        _share(layer, parts)
    gradients = []
    for weight in packed.parameters():
        weight.grad = torch.zeros_like(weight, memory_format=torch.preserve_format)
        gradients.append(weight.grad)
    for name, weight in packed.named_parameters():
        assert weight.grad is not None
        for model, gradient in zip(models, weight.grad.chunk(len(models)), strict=True):
            model.get_parameter(name).grad = gradient
    return packed, gradients


def _share(layer: nn.Module, parts: Sequence[nn.Module]) -> None:
    """Copy the weights of the parts into the layer and make them views of its own."""
    for name, whole in (*layer.named_parameters(), *layer.named_buffers()):
        if whole.dim() == 0:  # how many batches a norm saw
            whole.copy_(getattr(parts[0], name))
            continue
        for part, view in zip(parts, whole.data.chunk(len(parts)), strict=True):
            tensor = getattr(part, name)
            view.copy_(tensor.data)
            tensor.data = view


class _Convolutions(nn.Module):
    """Convolutions side by side, each reading its own channels."""

    def __init__(self, parts: Sequence[nn.Conv2d]) -> None:
        super().__init__()
        one = parts[0]
        if one.padding_mode != "zeros" or isinstance(one.padding, str):
            raise UnpackableError("its convolutions pad otherwise than with zeros")
        self.weight = _room(one.weight, len(parts))
        self.bias = None if one.bias is None else _room(one.bias, len(parts))
        self.stride, self.padding, self.dilation = one.stride, one.padding, one.dilation
        self.groups = len(parts) * one.groups
        # As in `trainables.layout`: oneDNN must not meet a strided convolution of one pixel.
        self.skip = one.stride if one.kernel_size == (1, 1) and one.padding == (0, 0) else (1, 1)

    def forward(self, x: Tensor) -> Tensor:
        stride = self.stride
        if self.skip != (1, 1):
            x, stride = x[..., :: self.skip[0], :: self.skip[1]], (1, 1)
        return F.conv2d(x, self.weight, self.bias, stride, self.padding, self.dilation, self.groups)


class _Linears(nn.Module):
    """Linear layers side by side, as one batched matrix product."""

    def __init__(self, parts: Sequence[nn.Linear]) -> None:
        super().__init__()
        one, self.students = parts[0], len(parts)
        self.weight = _room(one.weight, len(parts))
        self.bias = None if one.bias is None else _room(one.bias, len(parts))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.unflatten(0, (self.students, -1)).transpose(1, 2)  # [P, in, out]
        y = torch.bmm(x.unflatten(1, (self.students, -1)).transpose(0, 1), weight).transpose(0, 1).flatten(1)
        return y if self.bias is None else y + self.bias


def _layer(parts: Sequence[nn.Module]) -> nn.Module:
    one = parts[0]
    if isinstance(one, nn.Conv2d):
        return _Convolutions(parts)  # type: ignore[arg-type]
    if type(one) is nn.Linear:
        return _Linears(parts)  # type: ignore[arg-type]
    if type(one) is nn.BatchNorm2d and one.momentum is not None:
        many = len(parts) * one.num_features
        device = next((tensor.device for tensor in (*one.parameters(), *one.buffers())), None)
        return nn.BatchNorm2d(many, one.eps, one.momentum, one.affine, one.track_running_stats, device)
    raise UnpackableError(f"there is no pack of {type(one).__name__}")


def _room(weight: Tensor, students: int) -> nn.Parameter:
    """An empty weight for so many students, laid out in memory as the one."""
    last = weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last and not weight.is_contiguous() else torch.contiguous_format
    shape = (students * weight.shape[0], *weight.shape[1:])
    return nn.Parameter(torch.empty(shape, dtype=weight.dtype, device=weight.device, memory_format=layout))


def _probe(bank: Bank, normalise: Normalise, place: int, device: torch.device) -> Tensor:
    begin = place * PROBE % max(len(bank) - PROBE, 1)
    return normalise(torch.from_numpy(np.array(bank.images[begin : begin + PROBE])).to(device))


def _answers(
    models: Sequence[nn.Module], normalise: Normalise, bank: Bank
) -> list[tuple[Tensor, Mapping[str, Tensor]]]:
    """What each student, in evaluation mode, says of a few samples of its own, its taps too."""
    found = []
    for place, model in enumerate(models):
        model.eval()
        images = _probe(bank, normalise, place, device_of(model))
        with torch.inference_mode():
            found.append(model.forward_taps(images, getattr(model, "taps", ())))  # type: ignore[operator]
    return found


def _check(
    made: Pack, expected: Sequence[tuple[Tensor, Mapping[str, Tensor]]], normalise: Normalise, bank: Bank
) -> None:
    """A forward pass of one's own (channels put together, shuffled, counted) may not survive side by side."""
    made.model.eval()
    images = torch.cat([_probe(bank, normalise, place, device_of(made.model)) for place in range(len(expected))], dim=1)
    with torch.inference_mode():
        logits, seen = made.model.forward_taps(images, list(expected[0][1]))  # type: ignore[operator]
        try:
            for place, (own, taps) in enumerate(expected):
                torch.testing.assert_close(made.part(logits, place), own, **CLOSE)
                for name, tap in taps.items():
                    torch.testing.assert_close(made.part(seen[name], place), tap, **CLOSE)
        except AssertionError as error:
            raise UnpackableError(f"side by side they answer otherwise ({error})") from error
