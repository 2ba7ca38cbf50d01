"""Do task, space, teachers and recipes speak of one kind of target? What does not fit is refused before any work."""

import random
from collections.abc import Callable

import numpy as np

from kdnas_ray.config import SearchConfig
from search_spaces import KdnasError, sample
from trainables.evaluators import Scratch
from trainables.proxies import PROXIES
from trainables.recipe import check_terms
from trainables.tasks.base import Data

TRIED = 20  # recipes that are drawn to see what a space of them holds


def check_labels(config: SearchConfig, data: Data) -> None:
    """Refuses what a user's own task loads wrongly: labels that are not as its targets say.

    Raises:
        KdnasError: names the split.
    """
    targets, count = config.task.targets, len(data.classes)
    row = {"classes": ((), "[N] int64"), "boxes": ((5,), "[N, boxes, 5] float32")}
    wanted, kind = row.get(targets, ((count,), f"[N, {count}] float32"))
    for name in ("train", "validation", "test"):
        labels = getattr(data, name).labels
        axes = labels.shape[2:] if targets == "boxes" and labels.ndim == 3 else labels.shape[1:]
        if axes != wanted or (wanted and labels.dtype != np.float32):
            raise KdnasError(
                f"labels of the {name} split are {list(labels.shape)} {labels.dtype}",
                field="task",
                value=type(config.task).__name__,
                remedy=f"where targets are {targets}, labels are {kind}",
            )


def check_kind(config: SearchConfig) -> None:
    """Refuses a space, an evaluator or a setting that cannot work with the task's kind of target.

    Raises:
        KdnasError: names it and what can.
    """
    boxes = config.task.targets == "boxes"
    if (getattr(config.space, "answers", None) == "boxes") != boxes:
        raise KdnasError(
            "its networks answer with boxes" if not boxes else "its networks answer with no boxes",
            field="space",
            value=type(config.space).__name__,
            remedy="space=detector" if boxes else f"choose another space: the task's targets are {config.task.targets}",
        )
    if not boxes:
        return
    refused: dict[str, tuple[Callable[[], bool], str, str]] = {
        "evaluator": (
            lambda: not isinstance(config.evaluator, Scratch),
            "shares or judges classifiers",
            "evaluator=scratch",
        ),
        "teachers": (
            lambda: len(config.teachers) > 1,
            "class maps are read of the first teacher alone",
            "name one classifier",
        ),
        "retrain.generations": (
            lambda: config.retrain.generations > 1,
            "a detector is no classifier of places for the next one",
            "retrain.generations=1",
        ),
    }
    for field, (wrong, problem, remedy) in refused.items():
        if wrong():
            value = config.retrain.generations if "generations" in field else type(getattr(config, field)).__name__
            raise KdnasError(problem, field=field, value=value, remedy=remedy)


def check_targets(config: SearchConfig) -> None:
    """Refuses recipes, proxies and ways to keep logits that read a class a sample where targets are of another kind.

    Raises:
        KdnasError: names it.
    """
    targets = config.task.targets
    rng = random.Random(config.seed)
    for _ in range(TRIED):
        check_terms(sample(config.recipes, rng), targets)  # type: ignore[arg-type]
    if targets == "classes":
        return
    judges = [("objectives", name) for name in config.objectives]
    judges += [("prefilter.judge", config.prefilter.judge)] if config.prefilter else []
    for field, name in judges:
        if name in PROXIES and {"labels", "logits"} & set(PROXIES[name].needs):
            fit = [other for other, proxy in PROXIES.items() if not {"labels", "logits"} & set(proxy.needs)]
            raise KdnasError(
                f"this proxy reads classes, the task's targets are {targets}",
                field=field,
                value=name,
                remedy=f"choose among {', '.join(fit)}",
            )
    if config.bank.top_k is not None:
        raise KdnasError(
            f"the largest logits say little of the others where targets are {targets}",
            field="bank.top_k",
            value=config.bank.top_k,
            remedy="leave it out: all are kept",
        )
