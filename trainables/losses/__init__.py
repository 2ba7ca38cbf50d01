"""Every way a student can learn from a teacher; a new one is a function and one line here."""

import math

from search_spaces import KdnasError, Registry
from trainables.losses.base import Answer, Loss, Projector, Setting
from trainables.losses.features import (
    activation_boundary,
    attention,
    channel_wise,
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
    Variational,
)
from trainables.losses.logits import (
    dist,
    dkd,
    dtkd,
    kd,
    kd_standardised,
    label_free,
    label_smoothing,
    logits_mse,
    nkd,
    wsld,
)
from trainables.losses.relations import correlation, pkt, rkd_angle, rkd_distance, similarity
from trainables.losses.reuse import ReusedClassifier

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
    ("reused_classifier", Loss(ReusedClassifier, feature=True, learned=True, last=True)),
    ("attention", Loss(attention, feature=True, maps=True, weight=4.0)),
    ("nst", Loss(nst, feature=True, maps=True, weight=50.0)),
    ("rkd_distance", Loss(rkd_distance, feature=True, weight=25.0)),
    ("rkd_angle", Loss(rkd_angle, feature=True, weight=50.0)),
    ("similarity", Loss(similarity, feature=True, weight=3000.0)),
    ("correlation", Loss(correlation, feature=True, weight=0.02)),
    ("contrastive", Loss(Contrastive, feature=True, learned=True, weight=0.8)),
    ("pkt", Loss(pkt, feature=True, weight=30000.0)),
)

__all__ = ["LOSSES", "Answer", "Loss", "Projector", "Setting", "check_feature"]


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
    if loss.last and tap != "penultimate":
        raise KdnasError(
            f"the loss {name!r} reads the last features only",
            field="recipe.terms.tap",
            value=tap,
            remedy="name the tap penultimate",
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
