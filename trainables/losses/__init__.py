"""Every way a student can learn from a teacher; a new one is a function and one line here."""

import math

from search_spaces import KdnasError, Registry
from trainables.losses.base import Answer, Loss, Projector, Setting
from trainables.losses.features import (
    activation_boundary,
    attention,
    channel_wise,
    class_maps,
    hint,
    margin_relu,
    normalised_hint,
    nst,
    pearson_features,
)
from trainables.losses.learned import (
    ClassSimilarity,
    Contrastive,
    CrossLayer,
    FactorTransfer,
    FlowMatrices,
    MaskedGeneration,
    Review,
    SharedSpace,
    Variational,
)
from trainables.losses.logits import (
    binary_kd,
    dist,
    dkd,
    dtkd,
    kd,
    kd_standardised,
    label_free,
    label_smoothing,
    logits_mse,
    nkd,
    output_bounded,
    output_mse,
    wsld,
)
from trainables.losses.relations import correlation, pkt, rkd_angle, rkd_distance, similarity
from trainables.losses.reuse import ReusedClassifier
from trainables.tasks.base import Targets

LOSSES: Registry[Loss] = Registry(
    "loss",
    ("kd", Loss(kd, by_sample=True)),
    ("dkd", Loss(dkd, by_sample=True)),
    ("dist", Loss(dist, weight=2.0)),
    ("kd_standardised", Loss(kd_standardised, by_sample=True, weight=9.0)),
    ("nkd", Loss(nkd, by_sample=True)),
    ("dtkd", Loss(dtkd, by_sample=True)),
    ("wsld", Loss(wsld, by_sample=True, weight=2.5)),
    ("logits_mse", Loss(logits_mse, by_sample=True)),
    ("label_free", Loss(label_free, by_sample=True)),
    ("label_smoothing", Loss(label_smoothing, by_sample=True)),
    ("binary_kd", Loss(binary_kd, by_sample=True, targets=("labels",))),
    ("output_mse", Loss(output_mse, by_sample=True, targets=("values",))),
    ("output_bounded", Loss(output_bounded, by_sample=True, targets=("values",))),
    ("class_similarity", Loss(ClassSimilarity, learned=True)),
    ("hint", Loss(hint, feature=True, projected=True)),
    ("normalised_hint", Loss(normalised_hint, feature=True, projected=True)),
    ("pearson_features", Loss(pearson_features, feature=True, projected=True)),
    ("channel_wise", Loss(channel_wise, feature=True, projected=True, maps=True)),
    ("margin_relu", Loss(margin_relu, feature=True, projected=True, weight=1e-3)),
    ("activation_boundary", Loss(activation_boundary, feature=True, projected=True)),
    ("variational", Loss(Variational, feature=True, projected=True, learned=True)),
    ("masked_generation", Loss(MaskedGeneration, feature=True, projected=True, learned=True, maps=True)),
    ("factor_transfer", Loss(FactorTransfer, feature=True, learned=True, maps=True, weight=200.0)),
    ("flow_matrices", Loss(FlowMatrices, several=True, learned=True)),
    ("review", Loss(Review, several=True, learned=True)),
    ("cross_layer", Loss(CrossLayer, several=True, learned=True)),
    ("reused_classifier", Loss(ReusedClassifier, feature=True, learned=True, at="penultimate")),
    ("attention", Loss(attention, feature=True, maps=True, weight=4.0)),
    ("nst", Loss(nst, feature=True, maps=True, weight=50.0)),
    ("rkd_distance", Loss(rkd_distance, feature=True, weight=25.0)),
    ("rkd_angle", Loss(rkd_angle, feature=True, weight=50.0)),
    ("similarity", Loss(similarity, feature=True, weight=3000.0)),
    ("correlation", Loss(correlation, feature=True, weight=0.02)),
    ("contrastive", Loss(Contrastive, feature=True, learned=True, weight=0.8, targets=("classes",))),
    ("shared_space", Loss(SharedSpace, feature=True, learned=True, targets=("classes",))),
    ("pkt", Loss(pkt, feature=True, weight=30000.0)),
    ("class_maps", Loss(class_maps, feature=True, maps=True, at="class_map", targets=("boxes",))),
)

# What plain KD is where targets are of this kind: `kd` in a recipe stands for it.
KD: dict[Targets, str] = {"classes": "kd", "labels": "binary_kd", "values": "output_mse", "boxes": "class_maps"}

__all__ = ["KD", "LOSSES", "Answer", "Loss", "Projector", "Setting", "check_feature", "check_targets", "named"]


def named(name: str, targets: Targets) -> str:
    """Name of the loss that a recipe means: `kd` is the task's own plain KD."""
    return KD[targets] if name == "kd" else name


def check_targets(name: str, loss: Loss, targets: Targets) -> None:
    """Refuses a loss that means nothing for such targets.

    Raises:
        KdnasError: names the losses that do, of those that read the same.
    """
    if not loss.suits(targets):
        fit = [other for other, its in LOSSES.items() if its.reads == loss.reads and its.suits(targets)]
        fit = [*dict.fromkeys(["kd", *fit] if loss.reads == "logits" else fit)]
        raise KdnasError(
            f"the loss {name!r} is not for a task whose targets are {targets}",
            field="recipe.terms.loss",
            value=name,
            remedy=f"choose among {', '.join(fit)}",
        )


def check_feature(name: str, tap: str, student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    """Refuses a tap whose features the loss `name` cannot compare.

    Args:
        name: of the loss.
        tap: for the message.
        student: shape of the student's feature without the batch, `(c, h, w)` or `(c,)`.
        teacher: of the teacher's.

    Raises:
        KdnasError: a projector cannot match a map with a vector, or the loss reads maps only.
    """
    loss = LOSSES[name]
    if loss.at is not None and tap != loss.at:
        raise KdnasError(
            f"the loss {name!r} reads one tap only",
            field="recipe.terms.tap",
            value=tap,
            remedy=f"name the tap {loss.at}, or none",
        )
    if loss.projected and len(student) != len(teacher):
        raise KdnasError(
            f"the student's feature has shape {student}, the teacher's {teacher}: one is a map, one a vector",
            field="recipe.terms.tap",
            value=tap,
            remedy="match a tap where both are maps [C, H, W] or both are vectors [C]",
        )
    # Compared at the smaller height and width of the two; one row of several frames is a map too.
    places = math.prod(map(min, student[1:], teacher[1:]))
    if loss.maps and (len(student) != 3 or len(teacher) != 3 or places < 2):
        raise KdnasError(
            f"the loss {name!r} compares maps of several places; student and teacher have {student} and {teacher}",
            field="recipe.terms.tap",
            value=tap,
            remedy="name a tap before the pooling, such as stage1",
        )
