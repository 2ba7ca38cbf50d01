"""Which architecture does gradient descent choose?"""

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from search_spaces import SPACES, Architecture, KdnasError, decode
from search_spaces.sharing import Mixed, SuperNet, check_shares
from trainables.bank import Batch
from trainables.distill import Shared
from trainables.evaluators.base import Prepared, Workshop, check_options, load_state
from trainables.evaluators.steps import batches, distillation, normaliser, rate
from trainables.evaluators.supernet import new_supernet
from trainables.model_files import save_state
from trainables.optimizer import SGD, clip

FILE = "gradient.pt"
METHODS = ("first_order", "second_order", "gumbel")


@dataclass(frozen=True)
class Gradient:
    """Architecture weights are learned by gradient beside shared weights; what they choose is trained first.

    All options of a place are mixed by a softmax of architecture weights. Shared weights learn on one half of the
    training samples, architecture weights on the other, both by distillation. `gumbel` takes one option a place at
    each step instead of the mixture. The architectures chosen after each epoch become candidates, the last one first;
    the sampler goes on from there. All train from fresh weights.

    Source: Liu 2019, DARTS: Differentiable Architecture Search, eqs. 3, 4 and 6 (`first_order`: xi = 0); Dong and Yang
    2019, Searching for a Robust Neural Architecture in Four GPU Hours, eqs. 3 to 6 (`gumbel`).

    Args:
        method: `first_order`, `second_order` (unrolled by one step, exact) or `gumbel`.
        epochs: passes over the half that shared weights learn on.
        learning_rate: of the shared weights, decayed by a cosine.
        weight_decay: of the shared weights.
        architecture_rate: learning rate of Adam for the architecture weights.
        batch_size: samples a step, of each half.
        flops: weight of the expected FLOPs, relative to their mean over all options, in the loss of the architecture.
        heat: temperature of the Gumbel softmax at the first step; 0.1 at the last.
        alpha: weight of the teacher.
        temperature: of the soft targets.
        proposals: architectures that become candidates, at most.
    """

    method: str = "first_order"
    epochs: int = 30
    learning_rate: float = 0.05
    weight_decay: float = 3e-4
    architecture_rate: float = 0.01
    batch_size: int = 64
    flops: float = 0.0
    heat: float = 5.0
    alpha: float = 0.7
    temperature: float = 3.0
    proposals: int = 5

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise KdnasError(
                "unknown method", field="evaluator.method", value=self.method, remedy=f"one of {', '.join(METHODS)}"
            )
        check_options(
            self,
            {"epochs": 1, "batch_size": 2, "proposals": 1, "flops": 0, "weight_decay": 0},
            ("learning_rate", "architecture_rate", "temperature", "heat"),
        )

    def check(self, space: Any) -> None:
        """Refuses a space that cannot be relaxed."""
        check_shares(space, SPACES, "space")

    def prepare(self, workshop: Workshop) -> Prepared:
        """The architectures that were chosen, the last first."""
        path = workshop.folder / FILE
        if path.exists():
            found = load_state(path)
        else:
            workshop.say("Gradient search: learning which operations to keep")
            chosen, told = workshop.each(learn_architecture, [(workshop.reference, self, workshop.seed)])[0]
            workshop.say(told)
            found = {"chosen": [architecture.to_json() for architecture in chosen]}
            save_state(path, found)
        space = workshop.shared.space
        kept = (decode(space, decisions) for decisions in reversed(found["chosen"]))
        distinct = [architecture for architecture in dict.fromkeys(kept) if workshop.keeps(architecture)]
        if not distinct:
            workshop.say("Gradient search: none of the chosen architectures keeps the constraints; see evaluator.flops")
        return Prepared(proposals=tuple(distinct[: self.proposals]))


def learn_architecture(shared: Shared, settings: Gradient, seed: int) -> tuple[list[Architecture], str]:
    """The architecture chosen after each epoch, and a line about it."""
    torch.set_num_threads(shared.threads)
    begin = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = new_supernet(shared, seed).to(shared.device)
        raw = {place: nn.Parameter(1e-3 * torch.randn(len(names))) for place, names in net.places.items()}
        optimizer = SGD(net.parameters(), settings.weight_decay)
        chooser = torch.optim.Adam(raw.values(), settings.architecture_rate, betas=(0.5, 0.999), weight_decay=1e-3)
        prices = option_flops(net, shared) if settings.flops else {}
        half = len(shared.bank) // 2
        size, length = settings.batch_size, max(1, half // settings.batch_size)
        mine = batches(shared, settings.epochs, size, seed, slice(half))
        theirs = itertools.chain.from_iterable(
            batches(shared, settings.epochs, size, seed + again, slice(half, None)) for again in itertools.count()
        )
        chosen = []
        steps = settings.epochs * length
        for step, (own, other) in enumerate(zip(mine, theirs, strict=False)):
            progress = step / steps
            step_rate = rate(settings.learning_rate, progress)
            net.train()
            _learn_choice(net, raw, chooser, own, other, settings, shared, step_rate, progress, prices)
            net.weigh({place: weights.detach() for place, weights in mixture(raw, settings, progress).items()})
            optimizer.zero_grad()
            loss = _loss(net, own, settings, shared)
            loss.backward()
            if not bool(torch.isfinite(loss)):
                raise RuntimeError(f"the loss is not finite at step {step}; lower evaluator.learning_rate")
            clip(optimizer.parameters)
            optimizer.step(step_rate)
            if (step + 1) % length == 0:
                chosen.append(discretised(shared.space, net, raw))
    seconds = time.perf_counter() - begin
    return chosen, f"Gradient search: {seconds:.0f} s, {len(set(chosen))} architectures chosen on the way"


def mixture(raw: Mapping[str, Tensor], settings: Gradient, progress: float) -> dict[str, Tensor]:
    """Weights of the options at each place, `{place: [options]}`, sum 1; one-hot with the Gumbel method."""
    if settings.method != "gumbel":
        return {place: torch.softmax(weights, dim=0) for place, weights in raw.items()}
    heat = settings.heat + (0.1 - settings.heat) * progress
    return {place: nn.functional.gumbel_softmax(weights, tau=heat, hard=True) for place, weights in raw.items()}


def discretised(space: Any, net: SuperNet, raw: Mapping[str, Tensor]) -> Architecture:
    """The architecture that keeps what weighs most."""
    weights = {place: torch.softmax(raw[place].detach(), dim=0).tolist() for place in raw}
    return space.discretise({place: dict(zip(net.places[place], weights[place], strict=True)) for place in raw})


def option_flops(net: SuperNet, shared: Shared) -> dict[str, Tensor]:
    """FLOPs of each option at each place for one input, all cells together, `{place: [options]}`."""
    found = {place: torch.zeros(len(names)) for place, names in net.places.items()}

    def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, Mixed)
        for index, option in enumerate(module.options.values()):
            with FlopCounterMode(display=False) as counter:
                option(inputs[0])
            found[module.place][index] += counter.get_total_flops()

    mixed = [module for module in net.modules() if isinstance(module, Mixed)]
    hooks = [module.register_forward_pre_hook(count) for module in mixed]
    net.eval()
    with torch.no_grad():
        net(torch.zeros(1, *shared.bank.shape, device=shared.device))
    for hook in hooks:
        hook.remove()
    return found


def _loss(net: nn.Module, batch: Batch, settings: Gradient, shared: Shared) -> Tensor:
    return distillation(net(normaliser(shared)(batch.images)), batch, shared, settings.alpha, settings.temperature)


def _learn_choice(
    net: SuperNet,
    raw: Mapping[str, nn.Parameter],
    chooser: torch.optim.Optimizer,
    own: Batch,
    other: Batch,
    settings: Gradient,
    shared: Shared,
    step_rate: float,
    progress: float,
    prices: Mapping[str, Tensor],
) -> None:
    weights = mixture(raw, settings, progress)
    net.weigh(weights)
    parameters = dict(net.named_parameters())
    state: dict[str, Tensor] = {}
    if settings.method == "second_order":
        here = torch.autograd.grad(
            _loss(net, own, settings, shared), list(parameters.values()), create_graph=True, allow_unused=True
        )
        ahead: Sequence[Tensor] = [
            p if g is None else p - step_rate * g for p, g in zip(parameters.values(), here, strict=True)
        ]
        state = dict(zip(parameters, ahead, strict=True))
    buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}  # statistics stay as they are
    images = normaliser(shared)(other.images)
    logits = torch.func.functional_call(net, {**parameters, **state, **buffers}, (images,))
    loss = distillation(logits, other, shared, settings.alpha, settings.temperature)
    if prices:
        expected = torch.stack([(weights[place] * price).sum() for place, price in prices.items()]).sum()
        loss = loss + settings.flops * expected / sum(float(price.mean()) for price in prices.values())
    places = list(raw)
    found = torch.autograd.grad(loss, [raw[place] for place in places])
    for place, gradient in zip(places, found, strict=True):
        raw[place].grad = gradient
    chooser.step()
