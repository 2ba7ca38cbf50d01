"""Which losses teach through the teacher's inner features, sample by sample?"""

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.alignment import NO_ANSWER
from trainables.losses.base import Answer, check_shapes, same_resolution

EPSILON = 1e-7


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


def normalised_hint(student: Answer, teacher: Answer, labels: Tensor, temperature: float) -> Tensor:
    """Squared distance between the features scaled to length 1: their direction counts, not their size; scalar.

    `mean_i ||s_i / |s_i| - t_i / |t_i| ||^2`, over flattened features.

    Source: Tian 2020, Contrastive Representation Distillation, section 3.1 (unit-norm representations), with the
    squared error of Romero 2015.

    Args:
        student: feature `[batch, C, h, w]` or `[batch, C]`, already projected to the teacher's C.
        teacher: feature of the same shape.
        labels: not used.
        temperature: not used.

    Raises:
        ValueError: the shapes differ.
    """
    check_shapes(student.feature, teacher.feature)
    s, t = (F.normalize(feature.flatten(1), dim=1) for feature in (student.feature, teacher.feature.detach()))
    return (s - t).square().sum(dim=1).mean()


def attention(student: Answer, teacher: Answer, labels: Tensor, temperature: float) -> Tensor:
    """Squared distance between attention maps: where the feature is strong, whatever the channels; scalar.

    `mean_i |a(s_i) - a(t_i)|^2` with `a(x)` the mean over channels of `x^2`, flattened and scaled to length 1. Summed
    over places, not averaged as toolboxes do, so that its weight does not depend on the resolution.

    Source: Zagoruyko 2017, Paying More Attention to Attention, eq. 2 (p = 2).

    Args:
        student: feature `[batch, c, h, w]`.
        teacher: feature `[batch, C, H, W]`; the larger map is averaged down to the smaller.
        labels: not used.
        temperature: not used.

    Raises:
        ValueError: a feature is no map.
    """
    s, t = same_resolution(student.feature, teacher.feature.detach())
    a, b = (F.normalize(feature.square().mean(dim=1).flatten(1), dim=1) for feature in (s, t))
    return (a - b).square().sum(dim=1).mean()


def nst(student: Answer, teacher: Answer, labels: Tensor, temperature: float) -> Tensor:
    """Maximum mean discrepancy between the channels' activation patterns; scalar.

    `mean K(t, t) + mean K(s, s) - 2 mean K(s, t)` with `K(x, y) = (x . y)^2` over the channels' maps scaled to
    length 1; mean over the batch.

    Source: Huang and Wang 2017, Like What You Like: Knowledge Distill via Neuron Selectivity Transfer, eq. 6.

    Args:
        student: feature `[batch, c, h, w]`.
        teacher: feature `[batch, C, H, W]`; the larger map is averaged down to the smaller.
        labels: not used.
        temperature: not used.

    Raises:
        ValueError: a feature is no map.
    """
    s, t = (F.normalize(x.flatten(2), dim=2) for x in same_resolution(student.feature, teacher.feature.detach()))
    kernel = [(a @ b.transpose(1, 2)).square().mean() for a, b in ((t, t), (s, s), (s, t))]
    return kernel[0] + kernel[1] - 2 * kernel[2]


def channel_wise(student: Answer, teacher: Answer, labels: Tensor, temperature: float) -> Tensor:
    """Divergence of each channel's map as a distribution over places, times the temperature squared; scalar.

    `T^2 / C * sum_c KL(softmax(t_c / T) || softmax(s_c / T))` over the places of channel c, mean over the batch.

    Source: Shu 2021, Channel-wise Knowledge Distillation for Dense Prediction, eq. 4.

    Args:
        student: feature `[batch, C, h, w]`, already projected to the teacher's C.
        teacher: feature of the same shape.
        labels: not used.
        temperature: above 0; 1 to 4 in the paper.

    Raises:
        ValueError: the shapes differ, or the features are no maps.
    """
    check_shapes(student.feature, teacher.feature)
    same_resolution(student.feature, teacher.feature)
    s, t = (
        F.log_softmax(x.flatten(2) / temperature, dim=2).flatten(0, 1)
        for x in (student.feature, teacher.feature.detach())
    )
    return F.kl_div(s, t, reduction="batchmean", log_target=True) * temperature**2


def pearson_features(student: Answer, teacher: Answer, labels: Tensor, temperature: float) -> Tensor:
    """Mean squared error between features standardised a channel: one minus their Pearson correlation; scalar.

    `mean((z(s) - z(t))^2) / 2` with `z` to mean 0 and deviation 1 over batch and places of each channel.

    Source: Cao 2022, PKD: General Distillation Framework for Object Detectors via Pearson Correlation Coefficient,
    eq. 4.

    Args:
        student: feature `[batch, C, h, w]` or `[batch, C]`, already projected to the teacher's C.
        teacher: feature of the same shape.
        labels: not used.
        temperature: not used.

    Raises:
        ValueError: the shapes differ.
    """
    check_shapes(student.feature, teacher.feature)
    s, t = (_channels_standardised(x) for x in (student.feature, teacher.feature.detach()))
    return F.mse_loss(s, t) / 2


def margin_relu(student: Answer, teacher: Answer, labels: Tensor, temperature: float) -> Tensor:
    """Partial squared error against the teacher's feature after a ReLU with a margin below zero; scalar.

    `sum(d^2) / batch` with `d = s - max(t, m_c)`, left out where `s <= max(t, m_c) <= 0`: how far below zero a
    response lies does not matter. `m_c` is the mean of the negative responses of channel c in this batch, 0 where
    there are none (a tap after a ReLU).

    Source: Heo 2019, A Comprehensive Overhaul of Feature Distillation, eqs. 2 to 4.

    Args:
        student: feature `[batch, C, h, w]` or `[batch, C]`, already projected to the teacher's C.
        teacher: feature of the same shape.
        labels: not used.
        temperature: not used.

    Raises:
        ValueError: the shapes differ.
    """
    check_shapes(student.feature, teacher.feature)
    s, t = student.feature, teacher.feature.detach()
    rows = t.transpose(0, 1).flatten(1)
    margin = rows.clamp_max(0).sum(dim=1) / (rows < 0).sum(dim=1).clamp_min(1)
    t = torch.maximum(t, margin.view(1, -1, *[1] * (t.dim() - 2)))
    counts = ~((s <= t) & (t <= 0))
    return ((s - t).square() * counts).sum() / len(s)


def activation_boundary(student: Answer, teacher: Answer, labels: Tensor, temperature: float) -> Tensor:
    """Hinge on whether each neuron fires as the teacher's does, with a margin of 1; scalar.

    `mean(relu(1 - s)^2 where t > 0, relu(1 + s)^2 elsewhere)`: the boundary counts, not the strength.

    Source: Heo 2019, Knowledge Transfer via Distillation of Activation Boundaries, eq. 4 (margin 1).

    Args:
        student: feature `[batch, C, h, w]` or `[batch, C]`, already projected to the teacher's C.
        teacher: feature of the same shape.
        labels: not used.
        temperature: not used.

    Raises:
        ValueError: the shapes differ.
    """
    check_shapes(student.feature, teacher.feature)
    side = torch.where(teacher.feature.detach() > 0, 1.0, -1.0)
    return F.relu(1 - side * student.feature).square().mean()


def _channels_standardised(x: Tensor) -> Tensor:
    rows = x.transpose(0, 1).flatten(1)  # [C, batch * places]
    centred = rows - rows.mean(dim=1, keepdim=True)
    return centred / (centred.square().mean(dim=1, keepdim=True) + EPSILON).sqrt()


def class_maps(student: Answer, teacher: Answer, labels: Tensor, temperature: float) -> Tensor:
    """KD for detectors: at every place each class's probability is matched alone, where the two differ most; scalar.

    `T^2 * sum w KL(b(t / T) || b(s / T))` with `b(x) = (sigmoid(x), 1 - sigmoid(x))` and `w` the distance of the two
    probabilities, without gradient; by the sum over places of the teacher's greatest probability, at least 1, as the
    loss on the boxes is by the number of places on objects. The teacher's map is brought to the student's grid; classes
    that it does not know do not count.

    Source: Yang 2023, Bridging Cross-task Protocol Inconsistency for Distillation in Dense Object Detection, eqs. 4 to
    6 (there from a detector, at T = 1); Guo 2021, Distilling Image Classifiers in Object Detectors (from a classifier).

    Args:
        student: class logits as a map `[batch, K, h, w]`.
        teacher: class logits as a map `[batch, K, H, W]`.
        labels: not used.
        temperature: above 0.

    Raises:
        ValueError: one is no map, or they differ in classes.
    """
    s, t = student.feature, teacher.feature.detach()
    if s.dim() != 4 or t.dim() != 4:
        raise ValueError(f"student {tuple(s.shape)} and teacher {tuple(t.shape)} must be maps [N, C, h, w]")
    size, least = s.shape[2:], tuple(map(min, s.shape[2:], t.shape[2:]))
    t = F.adaptive_avg_pool2d(t, (least[0], least[1]))
    t = F.interpolate(t, size=size, mode="bilinear", align_corners=False) if least != size else t
    check_shapes(s, t)
    known = t > NO_ANSWER
    s, t = s / temperature, t / temperature
    on, off = F.logsigmoid(t), F.logsigmoid(-t)
    divergence = on.exp() * (on - F.logsigmoid(s)) + off.exp() * (off - F.logsigmoid(-s))
    apart = (on.exp() - s.detach().sigmoid()).abs()
    objects = (on.exp() * known).amax(dim=1).sum().clamp_min(1)
    return temperature**2 * (apart * divergence * known).sum() / objects
