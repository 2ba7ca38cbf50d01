"""Can these teachers teach what the recipes, the bank and the evaluator of this search ask of them?"""

from collections.abc import Sequence

from torch import nn

from kdnas_ray.config import SearchConfig
from search_spaces import KdnasError
from trainables.alignment import Aligned, listed
from trainables.evaluators import EVALUATORS
from trainables.opaque import params_of
from trainables.pairing import Paired
from trainables.proxies import PROXIES
from trainables.teachers import TEACHERS, AssistantTeacher


def check_teachers(config: SearchConfig, models: Sequence[nn.Module], *, whole: bool) -> None:
    """Refuses teachers that know less than is asked of them.

    Args:
        config: the search.
        models: its teachers' networks.
        whole: whether every training sample has a label.

    Raises:
        KdnasError: names what asks for more, or the teacher.
    """
    _check_shares(config)
    _check_answers(config, models, whole)
    _check_pairs(config, models[0], whole)
    _check_size_known(config, models[0])


def _check_shares(config: SearchConfig) -> None:
    for shares in getattr(config.recipes, "teacher_shares", ()):
        if len(shares) != len(config.teachers):
            raise KdnasError(
                f"there are {len(config.teachers)} teachers",
                field="recipes.teacher_shares",
                value=list(shares),
                remedy="give each list a share for every teacher, 0 for one that is left out",
            )


def check_views(config: SearchConfig) -> None:
    """Stored answers are those to the images themselves: refuses whatever would ask about augmented ones."""
    for index, settings in enumerate(config.teachers):
        if getattr(settings, "answers_views", True):
            continue
        asking = [("bank.views", config.bank.views)]
        if index + 1 < len(config.teachers) and isinstance(config.teachers[index + 1], AssistantTeacher):
            asking.append((f"teachers.{index + 1}.views", config.teachers[index + 1].views))
        for field, views in asking:
            if views > 1:
                raise KdnasError(
                    f"teacher {index} is a file of stored answers, which knows no augmented views",
                    field=field,
                    value=views,
                    remedy=f"{field}=1, or a teacher that can be asked: module, onnx, huggingface or callable",
                )


def _check_answers(config: SearchConfig, models: Sequence[nn.Module], whole: bool) -> None:
    """Refuses teachers whose logits cannot be used as the recipes, the bank or the labels need them."""
    partial = [
        (index, model.alignment)
        for index, model in enumerate(models)
        if isinstance(model, Aligned) and (model.alignment.untaught or (isinstance(model, Paired) and not whole))
    ]
    if not partial:
        return
    index, alignment = partial[0]
    field = f"teachers.{index}"
    silent = [position for position, found in partial if not found.speaks]
    if config.bank.top_k is not None:
        about = listed(alignment.untaught) or "samples without label"
        raise KdnasError(
            f"{field} says nothing about {about}; the largest logits cannot tell that",
            field="bank.top_k",
            value=config.bank.top_k,
            remedy="bank.top_k=null keeps all logits",
        )
    if not silent:
        return
    value = TEACHERS.name_of(config.teachers[silent[0]])
    remedy = "say which of its classes is which of the task's: `classes` or `mapping` of the teacher"
    if silent[-1] > 0:  # features are read of the first teacher only
        raise KdnasError(
            "it knows none of the task's classes, so it has nothing to teach beside the first teacher",
            field=f"teachers.{silent[-1]}",
            value=value,
            remedy=remedy,
        )
    alone, hints = len(silent) == len(models), getattr(config.recipes, "hints", (False,))
    if not (all(hints) if alone else any(hints)):
        raise KdnasError(
            "it knows none of the task's classes, and there are recipes that learn from logits alone",
            field="teachers.0",
            value=value,
            remedy=f"{remedy}; or recipes.hints=[true], so that every student learns from its features",
        )
    if alone and not whole:
        share = config.labels < 1
        raise KdnasError(
            "the teacher knows none of the task's classes, so it cannot guess a label that is not there",
            field="labels" if share else "task.unlabelled",
            value=config.labels if share else str(getattr(config.task, "unlabelled", None)),
            remedy=f"{'labels=1' if share else 'leave it out'}, or {remedy}",
        )


def _check_pairs(config: SearchConfig, model: nn.Module, whole: bool) -> None:
    """Refuses what reads features of every sample where the first teacher has some of labelled, known classes only."""
    if not isinstance(model, Paired) or (whole and not model.alignment.untaught):
        return
    judges = [("objectives", name) for name in config.objectives]
    judges += [("prefilter.judge", config.prefilter.judge)] if config.prefilter else []
    reading = [found for found in judges if found[1] in PROXIES and "taps" in PROXIES[found[1]].needs]
    if reading or hasattr(config.evaluator, "needed_taps"):
        about = listed(model.alignment.untaught) or "samples without label"
        raise KdnasError(
            f"reads the teacher's features of every sample, and the paired teacher has none of {about}",
            field=reading[0][0] if reading else "evaluator",
            value=reading[0][1] if reading else EVALUATORS.name_of(config.evaluator),
            remedy="choose another, or labels=1 and a mapping of all classes (teachers.0.mapping)",
        )


def _check_size_known(config: SearchConfig, teacher: nn.Module) -> None:
    by_size = getattr(config.recipes, "alpha_by_size", (0.0, 0.0))
    if max(by_size) > 0 and params_of(teacher) is None:
        raise KdnasError(
            "how many parameters the teacher has is not known, so no student's size can be compared with it",
            field="recipes.alpha_by_size",
            value=list(by_size),
            remedy="recipes.alpha_by_size=0",
        )
