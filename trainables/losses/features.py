"""Which losses teach through the teacher's inner features?"""

import torch.nn.functional as F
from torch import Tensor

from trainables.losses.base import Answer, check_shapes


def hint(student: Answer, teacher: Answer, labels: Tensor, temperature: float) -> Tensor:
    """Mean squared error between the student's projected feature and the teacher's; scalar.

    `mean((projector(s) - t)^2)`; the projector (1x1 convolution or linear) is created for the shapes at
    hand; maps of different size are averaged down to the smaller one.

    Source: Romero 2015, FitNets: Hints for Thin Deep Nets, eq. 3.

    Args:
        student: feature `[batch, C, h, w]` or `[batch, C]`, already projected to the teacher's C.
        teacher: feature of the same shape.
        labels: not used.
        temperature: not used.

    Raises:
        ValueError: the shapes differ.
    """
    check_shapes(student.feature, teacher.feature)
    return F.mse_loss(student.feature, teacher.feature.detach())
