"""Every way a student can learn from a teacher; a new one is a function and one line here."""

from search_spaces import KdnasError, Registry
from trainables.losses.base import Answer, Loss, Projector
from trainables.losses.features import attention, channel_wise, hint, normalised_hint, nst, pearson_features
from trainables.losses.logits import dist, dkd, kd, kd_standardised, nkd
from trainables.losses.relations import correlation, pkt, rkd_angle, rkd_distance, similarity

LOSSES: Registry[Loss] = Registry(
    "loss",
    ("kd", Loss(kd)),
    ("dkd", Loss(dkd)),
    ("dist", Loss(dist, weight=2.0)),
    ("kd_standardised", Loss(kd_standardised, weight=9.0)),
    ("nkd", Loss(nkd)),
    ("hint", Loss(hint, feature=True, projected=True)),
    ("normalised_hint", Loss(normalised_hint, feature=True, projected=True)),
    ("pearson_features", Loss(pearson_features, feature=True, projected=True)),
    ("channel_wise", Loss(channel_wise, feature=True, projected=True, maps=True)),
    ("attention", Loss(attention, feature=True, maps=True, weight=1000.0)),
    ("nst", Loss(nst, feature=True, maps=True, weight=50.0)),
    ("rkd_distance", Loss(rkd_distance, feature=True, weight=25.0)),
    ("rkd_angle", Loss(rkd_angle, feature=True, weight=50.0)),
    ("similarity", Loss(similarity, feature=True, weight=3000.0)),
    ("correlation", Loss(correlation, feature=True, weight=0.02)),
    ("pkt", Loss(pkt, feature=True, weight=30000.0)),
)

__all__ = ["LOSSES", "Answer", "Loss", "Projector", "check_feature"]


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
    if loss.projected and len(student) != len(teacher):
        raise KdnasError(
            f"the student's feature has shape {student}, the teacher's {teacher}: one is a map, one a vector",
            field="recipe.terms.tap",
            value=tap,
            remedy="match a tap where both are maps [C, H, W] or both are vectors [C]",
        )
    if loss.maps and (len(student) != 3 or len(teacher) != 3):
        raise KdnasError(
            f"the loss {name!r} compares maps [C, H, W]; student and teacher have {student} and {teacher}",
            field="recipe.terms.tap",
            value=tap,
            remedy="name a tap before the pooling, such as stage1",
        )
