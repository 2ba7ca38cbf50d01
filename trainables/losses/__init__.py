"""Every way a student can learn from a teacher; a new one is a function and one line here."""

from search_spaces import Registry
from trainables.losses.base import Answer, Loss, Projector
from trainables.losses.features import hint
from trainables.losses.logits import kd

LOSSES: Registry[Loss] = Registry("loss", ("kd", Loss(kd)), ("hint", Loss(hint, feature=True)))

__all__ = ["LOSSES", "Answer", "Loss", "Projector"]
