"""How are candidates judged by weights that all of them share?"""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from search_spaces import SPACES, Architecture, sample
from search_spaces.sharing import Shares, SuperNet, check_shares, inherited
from trainables.distill import Shared
from trainables.evaluators.base import Prepared, Workshop, check_options, load_state
from trainables.evaluators.steps import batches, distillation, normaliser, rate, soft
from trainables.loop import device_of, evaluate
from trainables.model_files import save_state
from trainables.optimizer import SGD, clip

EXTREMES = 200  # architectures among which the biggest and the smallest are sought
CALIBRATION = 8  # batches from which batch norm is measured anew for each architecture
FILE = "supernet.pt"


@dataclass(frozen=True)
class OneShot:
    """One network with the weights of all architectures is trained first; candidates inherit theirs and train on.

    Each step trains the biggest architecture on labels and teacher, and the smallest and some random ones on the
    biggest one's answer (sandwich rule, in-place distillation). Shared weights also judge architectures before any
    is trained on its own, with batch norm measured anew for each: see `prefilter`.

    Source: Yu 2020, BigNAS, sections 3.1 and 3.2; Wang 2021, AlphaNet; Bender 2018, Understanding and Simplifying
    One-Shot Architecture Search.

    Args:
        epochs: of the supernet's training.
        paths: random architectures a step, beside the biggest and the smallest.
        learning_rate: peak, decayed by a cosine.
        weight_decay: L2 penalty.
        batch_size: samples a step.
        alpha: weight of the teacher for the biggest architecture.
        temperature: of the soft targets.
    """

    epochs: int = 30
    paths: int = 2
    learning_rate: float = 0.1
    weight_decay: float = 1e-4
    batch_size: int = 64
    alpha: float = 0.7
    temperature: float = 3.0

    judges: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_options(
            self, {"epochs": 1, "paths": 0, "batch_size": 2, "weight_decay": 0}, ("learning_rate", "temperature")
        )

    def check(self, space: Any) -> None:
        """Refuses a space whose architectures cannot share weights."""
        check_shares(space, SPACES, "space")

    def prepare(self, workshop: Workshop) -> Prepared:
        """The trained supernet, as start and judge."""
        path = workshop.folder / FILE
        net = new_supernet(workshop.shared, workshop.seed)
        if path.exists():
            net.load_state_dict(load_state(path))
            workshop.say("Supernet: trained in an earlier session")
        else:
            workshop.say(f"Supernet: training {sum(p.numel() for p in net.parameters()):,} shared parameters")
            state, told = workshop.each(train_supernet, [(workshop.reference, self, workshop.seed)])[0]
            net.load_state_dict(state)
            workshop.say(told)
            save_state(path, state)
        start = Inheritance(net)
        return Prepared(start=start, judge=lambda architectures: judged(workshop, start, architectures))


@dataclass(frozen=True)
class Inheritance:
    """Candidates begin with the supernet's weights."""

    net: SuperNet

    def inherit(self, architecture: Architecture, model: nn.Module) -> None:
        """Give the model of this architecture its share of the weights."""
        model.load_state_dict(inherited(self.net, architecture, model))


def new_supernet(shared: Shared, seed: int) -> SuperNet:
    """An untrained supernet, weights by the seed."""
    assert isinstance(shared.space, Shares)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SuperNet(shared.space, shared.bank.shape, shared.classes)


def train_supernet(shared: Shared, settings: OneShot, seed: int) -> tuple[dict[str, Tensor], str]:
    """State of the trained supernet, and a line about it."""
    torch.set_num_threads(shared.threads)
    begin = time.perf_counter()
    net = new_supernet(shared, seed).to(shared.device)
    biggest, smallest = extremes(shared, random.Random(seed))
    optimizer = SGD(net.parameters(), settings.weight_decay)
    steps = settings.epochs * max(1, len(shared.bank) // settings.batch_size)
    rng, normalise = random.Random(seed), normaliser(shared)
    for step, batch in enumerate(batches(shared, settings.epochs, settings.batch_size, seed)):
        optimizer.zero_grad()
        images = normalise(batch.images)
        net.train()
        net.set(biggest)
        answer = net(images)
        losses = [distillation(answer, batch, shared, settings.alpha, settings.temperature)]
        losses[0].backward()
        for architecture in (smallest, *(sample(shared.space, rng) for _ in range(settings.paths))):
            net.set(architecture)
            losses.append(soft(net(images), answer.detach(), settings.temperature, shared.task.targets))
            losses[-1].backward()
        for parameter in optimizer.parameters:
            if parameter.grad is not None:
                parameter.grad /= len(losses)
        clip(optimizer.parameters)
        optimizer.step(rate(settings.learning_rate, step / steps))
        if not all(bool(torch.isfinite(loss)) for loss in losses):
            raise RuntimeError(f"the supernet's loss is not finite at step {step}; lower evaluator.learning_rate")
    found = [score(shared, net, architecture) for architecture in (biggest, smallest)]
    text = f"Supernet: {time.perf_counter() - begin:.0f} s; shared weights reach {found[0]:.4f} in the biggest"
    return {name: tensor.cpu() for name, tensor in net.state_dict().items()}, f"{text}, {found[1]:.4f} in the smallest"


def judged(workshop: Workshop, start: Inheritance, architectures: Sequence[Architecture]) -> list[float]:
    """Validation accuracy of each architecture with shared weights."""
    return [score(workshop.shared, start.net, architecture) for architecture in architectures]


def score(shared: Shared, net: SuperNet, architecture: Architecture) -> float:
    """Validation accuracy of an architecture with shared weights, batch norm measured anew."""
    net.set(architecture)
    norms = [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    kept = [(norm.momentum, {name: value.clone() for name, value in norm.state_dict().items()}) for norm in norms]
    net.train()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
    with torch.no_grad():
        size = min(256, len(shared.bank))
        for _, batch in zip(range(CALIBRATION), batches(shared, CALIBRATION, size, seed=0), strict=False):
            net(normaliser(shared)(batch.images.to(device_of(net))))
    _, accuracy = evaluate(net, shared.validation, shared.task, normaliser(shared))
    for norm, (momentum, state) in zip(norms, kept, strict=True):
        norm.momentum = momentum
        norm.load_state_dict(state)
    return accuracy


def extremes(shared: Shared, rng: random.Random) -> tuple[Architecture, Architecture]:
    """The biggest and the smallest of many architectures by their parameters."""

    def params(architecture: Architecture) -> int:
        with torch.device("meta"):
            model = shared.space.build(architecture, shared.bank.shape, shared.classes)
        return sum(parameter.numel() for parameter in model.parameters())

    drawn = sorted((sample(shared.space, rng) for _ in range(EXTREMES)), key=params)
    return drawn[-1], drawn[0]
