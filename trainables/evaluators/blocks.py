"""How good is a network put together from blocks that were each distilled from a stage of the teacher?"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces import Architecture, KdnasError, Shape, Space, crossover, decode, mutate, sample, tap_shapes
from search_spaces.base import TappedModel
from trainables.candidate import build_model
from trainables.distill import Shared
from trainables.evaluators.base import Prepared, Workshop, check_options, load_state
from trainables.evaluators.steps import batches, normaliser, rate
from trainables.losses.base import Projector
from trainables.model_files import save_state
from trainables.optimizer import SGD, clip

FILE = "blocks.pt"
HELD_OUT = 0.1  # share of the training samples on which a block's loss is measured
DIVERGED = 1e6  # loss of a block that could not be trained
ASSEMBLED = 2000  # networks put together from the library, of which the best are proposed


@dataclass(frozen=True)
class Blocks:
    """A library of blocks, each distilled from the teacher's matching stage; networks are put together from it.

    A block reads the teacher's features before its stage (through a 1x1 convolution to its own width) and learns those
    after it (through another): no block waits for the one before. A network's score is the sum of its blocks' losses,
    each relative to the variance of the teacher's features. The best networks of the library are trained first, from
    their blocks' weights.

    Source: Li 2020, Block-Wisely Supervised Neural Architecture Search with Knowledge Distillation (DNA), eqs. 5 to 8;
    Moons 2021, Distilling Optimal Neural Networks (DONNA), section 3.2.

    Args:
        pool: random architectures whose blocks make the library.
        epochs: of each block's training.
        learning_rate: peak, decayed by a cosine.
        batch_size: samples a step.
        proposals: networks that become candidates, at most.
        taps: stages of teacher and student that bound the blocks, from input to output.
    """

    pool: int = 24
    epochs: int = 4
    learning_rate: float = 0.05
    batch_size: int = 64
    proposals: int = 10
    taps: tuple[str, ...] = ("stage1", "stage2", "stage3")

    judges: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_options(self, {"pool": 1, "epochs": 1, "batch_size": 2, "proposals": 1}, ("learning_rate",))
        if not self.taps or len(set(self.taps)) < len(self.taps):
            raise KdnasError(
                "one at least, none twice",
                field="evaluator.taps",
                value=list(self.taps),
                remedy="e.g. [stage1, stage2]",
            )

    def check(self, space: Space) -> None:
        """Refuses taps that the space's networks do not have."""
        for tap in self.taps:
            if tap not in space.taps():
                raise KdnasError(
                    "the students have no such tap",
                    field="evaluator.taps",
                    value=tap,
                    remedy=f"their taps: {', '.join(space.taps())}",
                )
        stages = tuple(tap for tap in space.taps() if tap in self.taps and tap not in ("penultimate", "logits"))
        if stages != self.taps:
            raise KdnasError(
                "stages only, from input to output",
                field="evaluator.taps",
                value=list(self.taps),
                remedy=f"for example [{', '.join(stages)}]",
            )
        with torch.device("meta"):
            split_at(space.build(sample(space, random.Random(0)), (1, 32, 32), 2), self.taps)

    def needed_taps(self) -> tuple[str, ...]:
        """Teacher taps that the bank has to hold."""
        return self.taps

    def prepare(self, workshop: Workshop) -> Prepared:
        """The library as start and judge, and the best networks put together from it."""
        path = workshop.folder / FILE
        shared, rng = workshop.shared, random.Random(workshop.seed)
        if path.exists():
            found = load_state(path)
        else:
            inputs = shared.bank.shape, shared.classes
            drawn = [sample(shared.space, rng) for _ in range(self.pool)]
            needed: dict[str, tuple[Architecture, int]] = {}
            for architecture in drawn:
                for index, key in enumerate(block_keys(shared.space, architecture, *inputs, self.taps)):
                    needed.setdefault(key, (architecture, index))
            workshop.say(f"Block library: distilling {len(needed)} blocks of {len(drawn)} architectures, side by side")
            jobs = [(workshop.reference, self, *block, workshop.seed) for block in needed.values()]
            trained = workshop.each(train_block, jobs)
            blocks = {key: {"loss": loss, "state": s} for key, (loss, s) in zip(needed, trained, strict=True)}
            found = {"blocks": blocks, "pool": [architecture.to_json() for architecture in drawn]}
            save_state(path, found)
        library = Library(shared, self.taps, found["blocks"])
        pool = [decode(shared.space, decisions) for decisions in found["pool"]]
        assembled = [a for a in library.assemble(pool, random.Random(workshop.seed)) if workshop.keeps(a)]
        assembled.sort(key=library.loss)
        workshop.say(f"Block library: {len(assembled):,} networks can be put together from it")
        return Prepared(
            start=library,
            proposals=tuple(assembled[: self.proposals]),
            judge=lambda architectures: [-library.loss(architecture) for architecture in architectures],
        )


class Library:
    """Trained blocks by their structure.

    Args:
        shared: what every trial reads; its space, shape and classes are kept.
        taps: that bound the blocks.
        blocks: key to `{"loss": float, "state": {name: Tensor}}`.
    """

    def __init__(self, shared: Shared, taps: Sequence[str], blocks: Mapping[str, Any]) -> None:
        self.space, self.taps, self.blocks = shared.space, tuple(taps), blocks
        self.shape, self.classes = shared.bank.shape, shared.classes
        self._worst = [
            max((block["loss"] for key, block in blocks.items() if key.startswith(f"{index} ")), default=1.0)
            for index in range(len(self.taps))
        ]

    def loss(self, architecture: Architecture) -> float:
        """Sum of the blocks' losses; a block that is not in the library counts as the worst of its stage."""
        found = (self.blocks.get(key) for key in self._keys(architecture))
        return sum(block["loss"] if block else worst for block, worst in zip(found, self._worst, strict=True))

    def inherit(self, architecture: Architecture, model: nn.Module) -> None:
        """Give the model its blocks' weights, as far as the library holds them."""
        assert isinstance(model, TappedModel)
        for parts, key in zip(split_at(model, self.taps), self._keys(architecture), strict=True):
            if key in self.blocks:
                parts.load_state_dict(self.blocks[key]["state"])

    def assemble(self, pool: Sequence[Architecture], rng: random.Random) -> list[Architecture]:
        """Distinct architectures whose blocks are all in the library, the pool's own first."""
        found = dict.fromkeys(pool)
        for _ in range(ASSEMBLED):
            child = crossover(self.space, rng.choice(pool), rng.choice(list(found)), rng)
            child = mutate(self.space, child, rng) if rng.random() < 0.3 else child
            if child not in found and all(key in self.blocks for key in self._keys(child)):
                found[child] = None
        return list(found)

    def _keys(self, architecture: Architecture) -> list[str]:
        return block_keys(self.space, architecture, self.shape, self.classes, self.taps)


def block_keys(space: Space, architecture: Architecture, shape: Shape, classes: int, taps: Sequence[str]) -> list[str]:
    """Text of each block's structure: equal for blocks whose weights can take each other's place."""
    with torch.device("meta"):
        model = space.build(architecture, shape, classes)
    return [f"{index} {parts}" for index, parts in enumerate(split_at(model, taps))]


def split_at(model: nn.Module, taps: Sequence[str]) -> list[nn.Sequential]:
    """The model's parts, each up to one of the taps; what comes after the last is left out.

    Raises:
        KdnasError: the model is no chain of named parts.
    """
    if not isinstance(model, TappedModel) or type(model).forward is not TappedModel.forward:
        raise KdnasError(
            "its networks are no chain of stages",
            field="space",
            remedy="choose a space whose networks are, such as resnet",
        )
    blocks: list[nn.Sequential] = []
    parts: list[nn.Module] = []
    for name, part in model.parts.items():
        parts.append(part)
        if name in taps:
            blocks.append(nn.Sequential(*parts))
            parts = []
    return blocks


def train_block(
    shared: Shared, settings: Blocks, architecture: Architecture, index: int, seed: int
) -> tuple[float, dict[str, Tensor]]:
    """Loss on held-out samples of one block of the architecture, relative to the teacher's variance, and its state."""
    torch.set_num_threads(shared.threads)
    model = build_model(shared.space, architecture, shared.bank.shape, shared.classes, seed)
    block = split_at(model, settings.taps)[index]
    before = settings.taps[index - 1] if index else None
    target = settings.taps[index]
    names = (target,) if before is None else (before, target)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        own_in = shared.bank.shape if before is None else tap_shapes(model, shared.bank.shape, [before])[before]
        entry = _entry(shared.bank.taps[before].shape[2:] if before else None, own_in)
        reads = _output_shape(block, own_in)
        leave = Projector(reads, tuple(shared.bank.taps[target].shape[2:]))
    parts = nn.ModuleDict({"entry": entry, "block": block, "leave": leave}).to(shared.device)
    optimizer = SGD(parts.parameters(), 1e-4)
    held = max(settings.batch_size, int(HELD_OUT * len(shared.bank)))
    steps = settings.epochs * max(1, (len(shared.bank) - held) // settings.batch_size)
    normalise = normaliser(shared)

    def error(batch: Any) -> Tensor:
        x = normalise(batch.images) if before is None else batch.taps[before]
        answer, goal = leave(block(_fitted(entry(x), own_in)), batch.taps[target])
        return F.mse_loss(answer, goal) / goal.var().clamp_min(1e-6)

    fresh = {name: tensor.clone() for name, tensor in block.state_dict().items()}
    parts.train()
    for step, batch in enumerate(batches(shared, settings.epochs, settings.batch_size, seed, slice(held, None), names)):
        loss = error(batch)
        optimizer.zero_grad()
        loss.backward()
        clip(optimizer.parameters)
        optimizer.step(rate(settings.learning_rate, step / steps))
    parts.eval()
    with torch.no_grad():
        losses = [float(error(batch)) for batch in batches(shared, 1, settings.batch_size, seed, slice(held), names)]
    mean = float(np.mean(losses))
    if not np.isfinite(mean):  # diverged: the worst block there is, and nobody inherits what it became
        return DIVERGED, fresh
    return mean, {name: tensor.cpu() for name, tensor in block.state_dict().items()}


def _entry(teacher: tuple[int, ...] | None, own: tuple[int, ...]) -> nn.Module:
    return nn.Identity() if teacher is None else nn.Conv2d(teacher[0], own[0], 1)


def _fitted(x: Tensor, own: tuple[int, ...]) -> Tensor:
    """The teacher's map at the resolution that the block reads."""
    if x.shape[2:] == torch.Size(own[1:]):
        return x
    if x.shape[2] >= own[1] and x.shape[3] >= own[2]:
        return F.adaptive_avg_pool2d(x, own[1:])  # type: ignore[arg-type]
    return F.interpolate(x, size=own[1:], mode="nearest")


def _output_shape(block: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    training = block.training
    block.eval()
    with torch.no_grad():
        found = tuple(block(torch.zeros(1, *shape)).shape[1:])
    block.train(training)
    return found
