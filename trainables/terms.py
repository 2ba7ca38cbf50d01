"""How do the terms of a recipe become one loss? Made ready for the shapes at hand, then computed batch by batch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from search_spaces import KdnasError, tap_shapes
from trainables.bank import Bank, Batch
from trainables.ensembles import combine
from trainables.losses import LOSSES, Answer, Loss, Projector, Setting, check_feature, check_targets, named
from trainables.losses.reuse import ReusedClassifier
from trainables.matching import MATCHES
from trainables.recipe import Recipe, Term
from trainables.tasks.base import Targets
from trainables.weighting import TEMPERATURES, WEIGHTINGS, sample_losses

# Names of modules beside the numbers of the terms.
WEIGHTING, TEMPERATURE, PEER = "weighting", "temperature", "peer"


@dataclass(frozen=True)
class Read:
    """What one term reads: taps of the student, and of the teacher as the bank names them."""

    term: Term
    loss: Loss
    student: tuple[str, ...] = ()
    teacher: tuple[str, ...] = ()


def make_ready(
    model: nn.Module, bank: Bank, recipe: Recipe, targets: Targets = "classes"
) -> tuple[tuple[Read, ...], nn.ModuleDict]:
    """What each term reads, and the modules that are trained beside the student and dropped afterwards.

    The modules: `0` the projector of term 0, `0_loss` its own weights, `weighting`, `temperature`.

    Raises:
        KdnasError: an unknown loss or one that is not for such targets, or taps that model, bank or loss do not have
            or cannot compare.
    """
    parts, reads = nn.ModuleDict(), []
    bank_shapes = {name: array.shape[2:] for name, array in bank.taps.items()}
    for index, given in enumerate(recipe.terms):
        term = replace(given, loss=named(given.loss, targets))
        loss = LOSSES[term.loss]
        check_targets(term.loss, loss, targets)
        term = term if loss.at is None else replace(term, tap=term.tap or loss.at)
        own = _student_shapes(model, bank, term) if loss.feature or loss.several else {}
        read = read_of(term, own, bank_shapes)
        reads.append(read)
        student, teacher = tuple(own[tap] for tap in read.student), tuple(bank_shapes[tap] for tap in read.teacher)
        if loss.projected:
            parts[str(index)] = Projector(student[0], teacher[0])
            student = teacher = ((teacher[0][0], *map(min, student[0][1:], teacher[0][1:])),)
        if loss.learned:
            setting = Setting(student, teacher, len(bank), bank.logits.shape[3])
            parts[f"{index}_loss"] = loss.function(setting)
            if loss.function is ReusedClassifier:
                known = bank.classifier
                parts[f"{index}_loss"].take_over(model, known and tuple(torch.tensor(part) for part in known))  # type: ignore[operator]
    policy = WEIGHTINGS[recipe.weighting]
    if isinstance(policy, type) and recipe.terms:
        parts[WEIGHTING] = policy(1 + len(recipe.terms))
    heat = TEMPERATURES[recipe.temperature.schedule]
    if isinstance(heat, type) and recipe.terms:
        parts[TEMPERATURE] = heat(recipe.temperature.start, recipe.temperature.end)
    return tuple(reads), parts


def distilled(
    hard: Tensor,
    logits: Tensor,
    seen: Mapping[str, Tensor],
    batch: Batch,
    recipe: Recipe,
    reads: tuple[Read, ...],
    parts: nn.ModuleDict,
    *,
    progress: float,
    size: float,
    targets: Targets = "classes",
) -> list[Tensor]:
    """The losses of one batch, each with its weight: on the labels first, then a term each; scalars.

    Args:
        hard: loss on the labels, a scalar.
        logits: the student's, `[B, K]`.
        seen: the student's taps.
        batch: with the teachers' answers to the same images.
        recipe: alpha, temperature and weights.
        reads: from `make_ready`.
        parts: from `make_ready`.
        progress: 0 at the first step, 1 at the last.
        size: parameters of the student over those of the teacher.
        targets: of the task.
    """
    start, end = recipe.temperature.start, recipe.temperature.end
    mixing = start if recipe.temperature.adapts else recipe.temperature.at(progress)
    answer = combine(
        batch.logits,
        batch.labels,
        mixing,
        recipe.ensemble,
        recipe.teacher_shares,
        student=logits.detach(),
        targets=targets,
    )
    temperature: float | Tensor = mixing
    if recipe.temperature.schedule == "per_sample":
        temperature = TEMPERATURES["per_sample"](answer, start, end)
    elif TEMPERATURE in parts:
        temperature = parts[TEMPERATURE](progress)
    weights = WEIGHTINGS["confidence"](answer, batch.labels) if recipe.weighting == "confidence" else None
    soft = []
    for index, read in enumerate(reads):
        value = _term(index, read, logits, answer, seen, batch, parts, temperature, weights)
        soft.append(read.term.weight * read.loss.weight * value)
    if recipe.weighting == "uncertainty":
        return [hard, *soft]
    alpha = recipe.alpha_at(progress, size)
    return [(1 - alpha) * hard, *(alpha * value for value in soft)]


def together(losses: list[Tensor], parts: nn.ModuleDict) -> Tensor:
    """The loss that is trained on, a scalar: the sum, or as the learned weighting has it."""
    return parts[WEIGHTING](losses) if WEIGHTING in parts else torch.stack(losses).sum()


def _term(
    index: int,
    read: Read,
    logits: Tensor,
    answer: Tensor,
    seen: Mapping[str, Tensor],
    batch: Batch,
    parts: nn.ModuleDict,
    temperature: float | Tensor,
    weights: Tensor | None,
) -> Tensor:
    loss = read.loss
    own, theirs = tuple(seen[tap] for tap in read.student), tuple(batch.taps[tap] for tap in read.teacher)
    labels, samples = batch.labels, batch.samples
    if theirs and bool((absent := _absent(theirs)).any()):
        if int((~absent).sum()) < 2:  # losses on features compare samples, and batch norm needs two
            return logits.sum() * 0
        logits, answer, labels, samples = (x[~absent] for x in (logits, answer, labels, samples))
        own, theirs = tuple(x[~absent] for x in own), tuple(x[~absent] for x in theirs)
        weights = None if weights is None else weights[~absent]
    if str(index) in parts:
        projected, target = parts[str(index)](own[0], theirs[0])
        own, theirs = (projected,), (target,)
    student = Answer(logits, own[0] if own else logits, own, samples)
    teacher = Answer(answer, theirs[0] if theirs else answer, theirs, samples)
    heat = temperature.mean() if isinstance(temperature, Tensor) else temperature
    if loss.by_sample and (weights is not None or (isinstance(temperature, Tensor) and temperature.dim())):
        heats = torch.as_tensor(temperature, device=logits.device).expand(len(logits))
        rows = sample_losses(loss, student, teacher, labels, heats)
        return rows.mean() if weights is None else (weights * rows).mean()
    function = parts[f"{index}_loss"] if loss.learned else loss.function
    value = function(student, teacher, labels, heat)
    return value if weights is None else weights.mean() * value


def _absent(features: tuple[Tensor, ...]) -> Tensor:
    """Which samples the teacher has no feature of, `[B]` bool: those whose numbers are NaN, so the first tells."""
    return torch.stack([feature.flatten(1)[:, 0].isnan() for feature in features]).any(dim=0)


def _student_shapes(model: nn.Module, bank: Bank, term: Term) -> dict[str, tuple[int, ...]]:
    taps: tuple[str, ...] = getattr(model, "taps", ())
    if term.tap is not None and term.tap not in taps:
        raise KdnasError(
            "the student has no such tap",
            field="recipe.terms.tap",
            value=term.tap,
            remedy=f"its taps: {', '.join(taps)}",
        )
    return tap_shapes(model, bank.shape, taps)


def read_of(term: Term, own: Mapping[str, tuple[int, ...]], bank: Mapping[str, tuple[int, ...]]) -> Read:
    """What the term reads of a student with taps of shapes `own` and a bank with those of `bank`.

    Raises:
        KdnasError: they do not have it, or it cannot be compared.
    """
    loss = LOSSES[term.loss]
    if loss.several:
        student, teacher = (tuple(name for name, shape in shapes.items() if len(shape) == 3) for shapes in (own, bank))
        if min(len(student), len(teacher)) < 2:
            raise KdnasError(
                f"the loss {term.loss!r} compares two maps or more; there are {len(student)} of the student, "
                f"{len(teacher)} of the teacher",
                field="recipe.terms.loss",
                value=term.loss,
                remedy=f"name at least two maps in recipes.taps, such as {', '.join(student) or 'stage1, stage2'}",
            )
        return Read(term, loss, student, teacher)
    if not loss.feature:
        if term.tap is not None:
            raise KdnasError(
                f"the loss {term.loss!r} reads no tap",
                field="recipe.terms.tap",
                value=term.tap,
                remedy="leave the tap out, or name a loss that reads one",
            )
        return Read(term, loss)
    if term.tap is None:
        raise KdnasError(
            f"the loss {term.loss!r} reads a tap",
            field="recipe.terms.tap",
            value=None,
            remedy=f"name one of {', '.join(own)}",
        )
    theirs = MATCHES[term.match](term.tap, tuple(own), own, bank)
    check_feature(term.loss, term.tap, own[term.tap], bank[theirs])
    return Read(term, loss, (term.tap,), (theirs,))
