"""Which losses teach through the teacher's logits?"""

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.losses.base import Answer, check_shapes

EPSILON = 1e-7


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
    return _softened_divergence(student.logits, teacher.logits.detach(), temperature)


def dkd(
    student: Answer, teacher: Answer, labels: Tensor, temperature: float, alpha: float = 1.0, beta: float = 8.0
) -> Tensor:
    """Decoupled KD: the divergence about the true class and that among the other classes, weighted apart; scalar.

    `T^2 * (alpha * KL(b_t || b_s) + beta * KL(q_t || q_s))` with `b = (p_true, 1 - p_true)` and `q` the softened
    probabilities of the other classes alone; mean over the batch. Plain KD ties beta to `1 - p_true` of the teacher,
    so that a sure teacher says nothing about the other classes.

    Source: Zhao 2022, Decoupled Knowledge Distillation, eq. 7.

    Args:
        student: logits `[batch, classes]`, at least two classes.
        teacher: logits `[batch, classes]`.
        labels: true classes `[batch]`.
        temperature: above 0; 4 in the paper.
        alpha: weight of the part about the true class.
        beta: weight of the part among the others; 8 for CIFAR-100, 0.5 for ImageNet in the paper.

    Raises:
        ValueError: the shapes differ.
    """
    check_shapes(student.logits, teacher.logits)
    true = F.one_hot(labels, student.logits.shape[1]).bool()
    target, others = [], []
    for logits in (student.logits, teacher.logits.detach()):
        log_p = F.log_softmax(logits / temperature, dim=1)
        rest = log_p.masked_fill(true, -torch.inf)
        rest_sum = rest.logsumexp(dim=1)
        target.append(torch.cat([log_p.gather(1, labels[:, None]), rest_sum[:, None]], dim=1))
        others.append((rest - rest_sum[:, None]).masked_fill(true, 0.0))
    target_part = _divergences(target[0], target[1]).mean()
    weights = others[1].exp().masked_fill(true, 0.0)
    others_part = (weights * (others[1] - others[0])).sum(dim=1).mean()
    return temperature**2 * (alpha * target_part + beta * others_part)


def dist(student: Answer, teacher: Answer, labels: Tensor, temperature: float) -> Tensor:
    """One minus the Pearson correlation with the teacher, across classes and across the batch; scalar.

    `mean_i(1 - r(s_i, t_i)) + mean_k(1 - r(s_:k, t_:k))` on the softened probabilities: a student may match the
    teacher's relations instead of its exact values, which a much smaller one cannot. Without the authors' factor T^2
    (they use T = 1): a correlation does not shrink with the temperature, so nothing is to be made up for.

    Source: Huang 2022, Knowledge Distillation from a Stronger Teacher, eqs. 8 to 10 (both weights 1).

    Args:
        student: logits `[batch, classes]`.
        teacher: logits `[batch, classes]`.
        labels: not used.
        temperature: above 0; 1 in the paper.

    Raises:
        ValueError: the shapes differ.
    """
    check_shapes(student.logits, teacher.logits)
    s, t = (F.softmax(logits / temperature, dim=1) for logits in (student.logits, teacher.logits.detach()))
    return (1 - _pearson(s, t)).mean() + (1 - _pearson(s.T, t.T)).mean()


def kd_standardised(student: Answer, teacher: Answer, labels: Tensor, temperature: float) -> Tensor:
    """KD on logits with mean 0 and deviation 1 a sample: the student need not match their range; scalar.

    `T^2 * KL(softmax(z(t) / T) || softmax(z(s) / T))` with `z(x) = (x - mean(x)) / std(x)` over the classes.

    Source: Sun 2024, Logit Standardization in Knowledge Distillation, algorithm 1.

    Args:
        student: logits `[batch, classes]`.
        teacher: logits `[batch, classes]`.
        labels: not used.
        temperature: above 0; 2 in the paper.

    Raises:
        ValueError: the shapes differ.
    """
    check_shapes(student.logits, teacher.logits)
    return _softened_divergence(_standardised(student.logits), _standardised(teacher.logits.detach()), temperature)


def nkd(student: Answer, teacher: Answer, labels: Tensor, temperature: float, gamma: float = 1.5) -> Tensor:
    """Normalised KD: soft cross-entropy on the true class, and on the others after they are made to sum to 1; scalar.

    `-t_true log s_true - gamma * T^2 * sum_{k != true} q_k(t) log q_k(s)`, mean over the batch, with `q` the softened
    probabilities of the other classes alone. Never zero: it is a cross-entropy. Several teachers are mixed at T, also
    for the first part.

    Source: Yang 2023, From Knowledge Distillation to Self-Knowledge Distillation, eq. 6.

    Args:
        student: logits `[batch, classes]`, at least two classes.
        teacher: logits `[batch, classes]`.
        labels: true classes `[batch]`.
        temperature: of the part among the other classes, above 0; 1 in the paper.
        gamma: weight of that part.

    Raises:
        ValueError: the shapes differ.
    """
    check_shapes(student.logits, teacher.logits)
    t = teacher.logits.detach()
    true = F.one_hot(labels, t.shape[1]).bool()
    right = labels[:, None]
    target = -F.softmax(t, dim=1).gather(1, right) * F.log_softmax(student.logits, dim=1).gather(1, right)
    lowest = torch.finfo(t.dtype).min
    log_q = F.log_softmax((student.logits / temperature).masked_fill(true, lowest), dim=1).masked_fill(true, 0.0)
    q = F.softmax((t / temperature).masked_fill(true, lowest), dim=1)
    return target.mean() - gamma * temperature**2 * (q * log_q).sum(dim=1).mean()


def logits_mse(student: Answer, teacher: Answer, labels: Tensor, temperature: float) -> Tensor:
    """Mean squared error between the logits, each freed of its mean; scalar.

    `mean((s - mean(s) - t + mean(t))^2)`: softmax does not see the mean over the classes. The limit of KD as the
    temperature grows.

    Source: Ba and Caruana 2014, Do Deep Nets Really Need to be Deep?, eq. 1.

    Args:
        student: logits `[batch, classes]`.
        teacher: logits `[batch, classes]`.
        labels: not used.
        temperature: not used.

    Raises:
        ValueError: the shapes differ.
    """
    check_shapes(student.logits, teacher.logits)
    s, t = (x - x.mean(dim=1, keepdim=True) for x in (student.logits, teacher.logits.detach()))
    return F.mse_loss(s, t)


def label_free(student: Answer, teacher: Answer, labels: Tensor, temperature: float) -> Tensor:
    """Cross-entropy with the class that the teacher finds most likely, in place of the label; scalar.

    With alpha 1 no label is read at all: what an unlabelled training set can be used for.

    Source: Lee 2013, Pseudo-Label, eq. 15, with the teacher instead of the network itself.

    Args:
        student: logits `[batch, classes]`.
        teacher: logits `[batch, classes]`.
        labels: not used.
        temperature: not used.

    Raises:
        ValueError: the shapes differ.
    """
    check_shapes(student.logits, teacher.logits)
    return F.cross_entropy(student.logits, teacher.logits.detach().argmax(dim=1))


def label_smoothing(
    student: Answer, teacher: Answer, labels: Tensor, temperature: float, smoothing: float = 0.1
) -> Tensor:
    """Cross-entropy with the label and a little of every class: regularises like a teacher that knows nothing; scalar.

    `-sum_k q_k log s_k` with `q = (1 - smoothing) onehot + smoothing / classes`. The comparison for every distillation.

    Source: Szegedy 2016, Rethinking the Inception Architecture, section 7 (smoothing 0.1).

    Args:
        student: logits `[batch, classes]`.
        teacher: not used.
        labels: true classes `[batch]`.
        temperature: not used.
        smoothing: share that is spread over all classes.

    Raises:
        ValueError: the shapes differ.
    """
    check_shapes(student.logits, teacher.logits)
    return F.cross_entropy(student.logits, labels, label_smoothing=smoothing)


def wsld(student: Answer, teacher: Answer, labels: Tensor, temperature: float) -> Tensor:
    """KD with more weight on the samples that the student finds hard beside the teacher; scalar.

    `T^2 * mean_i (1 - exp(-CE(s_i) / CE(t_i))) KL(softmax(t_i / T) || softmax(s_i / T))`, no gradient through the
    weight: soft labels trade bias for variance, sample by sample.

    Source: Zhou 2021, Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance Tradeoff Perspective, eq. 9.

    Args:
        student: logits `[batch, classes]`.
        teacher: logits `[batch, classes]`.
        labels: true classes `[batch]`.
        temperature: above 0; 2 in the paper.

    Raises:
        ValueError: the shapes differ.
    """
    check_shapes(student.logits, teacher.logits)
    t = teacher.logits.detach()
    hard_s = F.cross_entropy(student.logits.detach(), labels, reduction="none")
    hard_t = F.cross_entropy(t, labels, reduction="none")
    weight = 1 - torch.exp(-hard_s / (hard_t + EPSILON))
    soft_s, soft_t = (F.log_softmax(x / temperature, dim=1) for x in (student.logits, t))
    return temperature**2 * (weight * _divergences(soft_s, soft_t)).mean()


def dtkd(student: Answer, teacher: Answer, labels: Tensor, temperature: float) -> Tensor:
    """KD where each sample softens the sharper of the two models more, so that both are alike sharp; scalar.

    `mean_i T_t T_s KL(softmax(t_i / T_t) || softmax(s_i / T_s))` with `T_t = 2 T x / (x + y)`, `T_s = 2 T y / (x + y)`,
    `x`, `y` the log-sum-exp of the logits less their mean (no gradient through the temperatures).

    Source: Wei 2024, Dynamic Temperature Knowledge Distillation, eqs. 7 to 9.

    Args:
        student: logits `[batch, classes]`.
        teacher: logits `[batch, classes]`.
        labels: not used.
        temperature: the mean of the two temperatures, above 0; 4 in the paper.

    Raises:
        ValueError: the shapes differ.
    """
    check_shapes(student.logits, teacher.logits)
    t = teacher.logits.detach()
    sharp_t, sharp_s = (
        (x - x.mean(dim=1, keepdim=True)).logsumexp(dim=1, keepdim=True) for x in (t, student.logits.detach())
    )
    both = sharp_t + sharp_s
    heat_t, heat_s = 2 * temperature * sharp_t / both, 2 * temperature * sharp_s / both
    soft_s, soft_t = F.log_softmax(student.logits / heat_s, dim=1), F.log_softmax(t / heat_t, dim=1)
    return ((heat_t * heat_s).squeeze(1) * _divergences(soft_s, soft_t)).mean()


def binary_kd(student: Answer, teacher: Answer, labels: Tensor, temperature: float) -> Tensor:
    """KD for tasks with any number of labels a sample: each label's probability is matched alone; scalar.

    `T^2 * sum_k KL(b(t_k / T) || b(s_k / T))` with `b(x) = (sigmoid(x), 1 - sigmoid(x))`, mean over the batch; summed
    over the labels as the loss on the true ones. A softmax would make labels compete that may hold together.

    Source: Yang 2023, Multi-Label Knowledge Distillation, section 3.2 (MLD, there at T = 1); T as in Hinton 2015.

    Args:
        student: logits `[batch, labels]`.
        teacher: logits `[batch, labels]`.
        labels: not used.
        temperature: above 0.

    Raises:
        ValueError: the shapes differ.
    """
    check_shapes(student.logits, teacher.logits)
    s, t = student.logits / temperature, teacher.logits.detach() / temperature
    on, off = F.logsigmoid(t), F.logsigmoid(-t)
    divergence = on.exp() * (on - F.logsigmoid(s)) + off.exp() * (off - F.logsigmoid(-s))
    return temperature**2 * divergence.sum(dim=1).mean()


def output_mse(student: Answer, teacher: Answer, labels: Tensor, temperature: float) -> Tensor:
    """KD for tasks whose targets are numbers: mean squared error to the teacher's output; scalar.

    Source: Saputra 2019, Distilling Knowledge From a Deep Pose Regressor Network (the plain imitation loss).

    Args:
        student: outputs `[batch, targets]`.
        teacher: outputs `[batch, targets]`.
        labels: not used.
        temperature: not used.

    Raises:
        ValueError: the shapes differ.
    """
    check_shapes(student.logits, teacher.logits)
    return F.mse_loss(student.logits, teacher.logits.detach())


def output_bounded(student: Answer, teacher: Answer, labels: Tensor, temperature: float) -> Tensor:
    """Squared error to the truth of those samples where the student is worse than its teacher, else nothing; scalar.

    The teacher's error is a bound that the student is to keep, its output is no target: it may be any number. Mean over
    the batch; samples without label count as 0.

    Source: Chen 2017, Learning Efficient Object Detection Models with Knowledge Distillation, section 3.3 (margin 0).

    Args:
        student: outputs `[batch, targets]`.
        teacher: outputs `[batch, targets]`.
        labels: the numbers `[batch, targets]`, NaN where there are none.
        temperature: not used.

    Raises:
        ValueError: the shapes differ.
    """
    check_shapes(student.logits, teacher.logits)
    there = labels == labels  # NaN alone differs from itself
    truth = torch.where(there, labels, 0.0)
    own, other = ((x - truth).square() * there for x in (student.logits, teacher.logits.detach()))
    worse = own.mean(dim=1) > other.mean(dim=1)
    return (own.mean(dim=1) * worse).mean()


def _softened_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    soft_student, soft_teacher = (F.log_softmax(logits / temperature, dim=1) for logits in (student, teacher))
    return _divergences(soft_student, soft_teacher).mean() * temperature**2


def _divergences(log_student: Tensor, log_teacher: Tensor) -> Tensor:
    """KL(teacher || student) of each row, `[batch]`; torch's own kl_div cannot be mapped over samples."""
    return (log_teacher.exp() * (log_teacher - log_student)).sum(dim=1)


def _standardised(logits: Tensor) -> Tensor:
    return (logits - logits.mean(dim=1, keepdim=True)) / (logits.std(dim=1, keepdim=True) + EPSILON)


def _pearson(a: Tensor, b: Tensor) -> Tensor:
    """Correlation of each row of a with that of b, `[rows]`."""
    return F.cosine_similarity(a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True), dim=1, eps=EPSILON)
