"""How do several teachers answer as one?

Shapes: T teachers, B samples of a batch, K classes. A policy weighs the teachers, sample by sample; the mixture of
their softened outputs is what the student learns from. For KD this is the weighted sum of the teachers' own losses
up to a constant: `sum_t w_t KL(p_t || q) = KL(sum_t w_t p_t || q) + const`. Of labels the probabilities are mixed one
by one, of values the outputs themselves.
"""

from collections.abc import Callable, Sequence

import numpy as np
import scipy.optimize
import torch
import torch.nn.functional as F
from torch import Tensor

from search_spaces import Registry
from trainables.alignment import agreeing
from trainables.tasks.base import Targets

Policy = Callable[[Tensor, Tensor, float, Tensor, Tensor], Tensor]
EPSILON = 1e-7
TOLERANCE = 0.6  # C of AEKD: how much one teacher may count


def average(logits: Tensor, labels: Tensor, temperature: float, shares: Tensor, student: Tensor) -> Tensor:
    """Every teacher counts alike.

    Source: You 2017, Learning from Multiple Teacher Networks, eq. 4 (AVER).

    Args:
        logits: `[T, B, K]`.
        labels: not used.
        temperature: not used.
        shares: not used.
        student: not used.

    Returns:
        Weights `[T, B]`, sum 1 over the teachers.
    """
    return logits.new_full(logits.shape[:2], 1 / len(logits))


def entropy(logits: Tensor, labels: Tensor, temperature: float, shares: Tensor, student: Tensor) -> Tensor:
    """The surer a teacher is of a sample, the more it counts: by the inverse entropy of its softened output.

    Source: Kwon 2020, Adaptive Knowledge Distillation Based on Entropy, eq. 4 (EBKD).

    Args:
        logits: `[T, B, K]`.
        labels: not used.
        temperature: above 0.
        shares: not used.
        student: not used.

    Returns:
        Weights `[T, B]`, sum 1 over the teachers.
    """
    log_p = F.log_softmax(logits / temperature, dim=2)
    inverse = 1 / (-(log_p.exp() * log_p).sum(dim=2)).clamp_min(EPSILON)
    return inverse / inverse.sum(dim=0)


def confidence(logits: Tensor, labels: Tensor, temperature: float, shares: Tensor, student: Tensor) -> Tensor:
    """A teacher that is wrong about a sample counts less: by its cross-entropy with the true label.

    `w_t = (1 - exp(CE_t) / sum_j exp(CE_j)) / (T - 1)`; with one teacher its weight is 1.

    Source: Zhang 2022, Confidence-Aware Multi-Teacher Knowledge Distillation, eq. 3 (CA-MKD).

    Args:
        logits: `[T, B, K]`.
        labels: true classes `[B]`.
        temperature: not used.
        shares: not used.
        student: not used.

    Returns:
        Weights `[T, B]`, sum 1 over the teachers.
    """
    teachers = len(logits)
    if teachers == 1:
        return torch.ones_like(logits[..., 0])
    losses = F.cross_entropy(logits.flatten(0, 1), labels.repeat(teachers), reduction="none").view(teachers, -1)
    return (1 - F.softmax(losses, dim=0)) / (teachers - 1)


def one_at_random(logits: Tensor, labels: Tensor, temperature: float, shares: Tensor, student: Tensor) -> Tensor:
    """One teacher a batch, drawn anew each time, by torch's own generator.

    Source: Fukuda 2017, Efficient Knowledge Distillation from an Ensemble of Teachers, section 3.2 (switched training).

    Args:
        logits: `[T, B, K]`.
        labels: not used.
        temperature: not used.
        shares: chances of the teachers, `[T]`, above 0.
        student: not used.

    Returns:
        Weights `[T, B]`: 1 for one teacher, 0 for the others.
    """
    weights = torch.zeros_like(logits[..., 0])
    weights[int(torch.multinomial(shares, 1))] = 1
    return weights


def gradient(logits: Tensor, labels: Tensor, temperature: float, shares: Tensor, student: Tensor) -> Tensor:
    """Weights whose summed gradient is shortest: the direction that opposes no teacher, none above 0.6.

    `min_w |sum_t w_t g_t|^2` with `sum w = 1, 0 <= w_t <= C`, `g_t` the gradient of teacher t's KD loss by the
    student's logits, `softmax(s / T) - softmax(t / T)`; C at least `1 / T`.

    Source: Du 2020, Agree to Disagree: Adaptive Ensemble Knowledge Distillation in Gradient Space, eq. 6 (AEKD, C 0.6).

    Args:
        logits: `[T, B, K]`.
        labels: not used.
        temperature: above 0.
        shares: not used.
        student: the student's logits, `[B, K]`.

    Returns:
        Weights `[T, B]`, the same for all samples, sum 1 over the teachers.
    """
    teachers = len(logits)
    rows = (F.softmax(student / temperature, dim=1) - F.softmax(logits / temperature, dim=2)).flatten(1).double()
    gram = (rows @ rows.T).cpu().numpy()
    gram = gram / max(gram.trace(), EPSILON)  # the solver's tolerance is absolute
    found = scipy.optimize.minimize(
        lambda w: w @ gram @ w,
        np.full(teachers, 1 / teachers),
        jac=lambda w: 2 * gram @ w,
        bounds=[(0, max(TOLERANCE, 1 / teachers))] * teachers,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(teachers)},
        method="SLSQP",
        options={"ftol": 1e-10},
    )
    weights = torch.from_numpy(found.x.clip(0) / found.x.clip(0).sum()).to(logits.device)
    return weights.to(logits.dtype)[:, None].expand(logits.shape[:2])


ENSEMBLES: Registry[Policy] = Registry(
    "ensemble",
    ("average", average),
    ("entropy", entropy),
    ("confidence", confidence),
    ("gradient", gradient),
    ("random", one_at_random),
)
ANY_TARGETS = ("average", "random")  # the others read a softmax: they are for classes alone


def combine(
    logits: Tensor,
    labels: Tensor,
    temperature: float,
    policy: str = "average",
    shares: Sequence[float] = (),
    student: Tensor | None = None,
    targets: Targets = "classes",
) -> Tensor:
    """Logits `[B, K]` of one teacher that, softened at this temperature, answers with the mixture.

    Args:
        logits: of the teachers, `[T, B, K]`.
        labels: true classes `[B]`.
        temperature: at which the outputs are mixed, above 0.
        policy: name of an entry of `ENSEMBLES`.
        shares: how much each teacher counts beside the policy, `[T]`, not all 0; empty for all alike.
        student: the student's logits, `[B, K]`, for policies that read them and for classes that a teacher does not
            know; all 0 where left out.
        targets: of the task; labels and values know the policies of `ANY_TARGETS` only.
    """
    student = torch.zeros_like(logits[0]) if student is None else student
    if targets == "classes":  # of labels and values a teacher knows all
        logits = agreeing(logits, student, temperature)
    if len(logits) == 1:
        return logits[0]
    if shares:  # a policy never chooses whom the recipe leaves out
        part = [index for index, share in enumerate(shares) if share > 0]
        logits, shares = logits[part], [shares[index] for index in part]
    counts = torch.tensor(shares or [1.0] * len(logits), dtype=logits.dtype, device=logits.device)
    weights = ENSEMBLES[policy](logits, labels, temperature, counts, student)
    if shares and policy != "random":
        weights = weights * counts[:, None]
        weights = weights / weights.sum(dim=0).clamp_min(EPSILON)
    if targets == "values":
        return (weights[..., None] * logits).sum(dim=0)
    shares_log = weights.clamp_min(torch.finfo(weights.dtype).tiny).log()[..., None]
    if targets == "labels":
        on, off = ((F.logsigmoid(x / temperature) + shares_log).logsumexp(dim=0) for x in (logits, -logits))
        return temperature * (on - off)
    mixture = F.log_softmax(logits / temperature, dim=2) + shares_log
    return temperature * mixture.logsumexp(dim=0)
