"""Which losses teach through the teacher's logits?"""

import torch.nn.functional as F
from torch import Tensor

from trainables.losses.base import Answer, check_shapes


def kd(student: Answer, teacher: Answer, labels: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of the softened outputs, times the temperature squared; scalar.

    `T^2 * KL(softmax(t / T) || softmax(s / T))`, mean over the batch. The factor keeps the gradient's
    size independent of T.

    Source: Hinton 2015, Distilling the Knowledge in a Neural Network, section 2.

    Args:
        student: logits `[batch, classes]`.
        teacher: logits `[batch, classes]`.
        labels: not used.
        temperature: above 0.

    Raises:
        ValueError: the shapes differ.
    """
    check_shapes(student.logits, teacher.logits)
    soft_student = F.log_softmax(student.logits / temperature, dim=1)
    soft_teacher = F.log_softmax(teacher.logits.detach() / temperature, dim=1)
    return F.kl_div(soft_student, soft_teacher, reduction="batchmean", log_target=True) * temperature**2
