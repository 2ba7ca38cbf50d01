"""Which proxies ask how alike an untrained student and its teacher already are?

The paper compares a student with a teacher that is random too; here the teacher is the trained one, whose answers
lie in the bank, so nothing of it is computed again.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.proxies.base import Probe, copied, trunk_tap


def diswot(model: nn.Module, probe: Probe) -> float:
    """Similarity of student and teacher in semantics and in relations: the sum of the two.

    `diswot_semantic + diswot_relation`. In the paper the teacher is random as the student is; here it is trained.

    Source: Dong 2023, DisWOT: Student Architecture Search for Distillation WithOut Training, section 3.2.
    """
    return diswot_semantic(model, probe) + diswot_relation(model, probe)


def diswot_semantic(model: nn.Module, probe: Probe) -> float:
    """Similarity in semantics: do classes look at features in like relations to each other?

    `- || M(student) - M(teacher) ||_2`, `M = rows(G G^T)` `[K, K]` with rows of length 1. `G` `[K, features]` is the
    class activation of the batch as the authors' code has it, the gradient of the cross-entropy with respect to the
    classifier's weights: `G_k = mean_n (softmax(z_n)_k - [y_n = k]) f_n`, f `[B, features]` the pooled feature
    (`penultimate`, or the last tap averaged over its places). It needs logits and features only, so the teacher's
    come from the bank. The authors correlate features within each class, for which both must have equally many;
    here classes are correlated, so widths may differ. That is not the published score, and on
    NAS-Bench-201 it ranked the other way (`benchmarks/README.md`). In the paper the teacher is random; here trained.

    Source: Dong 2023, DisWOT: Student Architecture Search for Distillation WithOut Training, section 3.2.
    """
    assert probe.logits is not None
    own = "penultimate" if "penultimate" in _taps(model) else trunk_tap(_taps(model))
    theirs = "penultimate" if "penultimate" in probe.taps else trunk_tap(tuple(probe.taps))
    logits, feature = _answer(model, probe, own)
    student = _class_activation(logits, feature, probe.labels)
    teacher = _class_activation(probe.logits, probe.taps[theirs], probe.labels)
    return -float((_relations(student) - _relations(teacher)).norm())


def diswot_relation(model: nn.Module, probe: Probe) -> float:
    """Similarity in relations: do samples resemble each other in the student as they do in the teacher?

    `- || M(student) - M(teacher) ||_2`, `M = rows(f f^T)` `[B, B]` with rows of length 1, f `[B, …]` the last map
    before the pooling, flattened. In the paper the teacher is random; here it is trained.

    Source: Dong 2023, DisWOT: Student Architecture Search for Distillation WithOut Training, section 3.2; the
    matrix as in Tung and Mori 2019, Similarity-Preserving Knowledge Distillation, eqs. 2 and 3.
    """
    _, feature = _answer(model, probe, trunk_tap(_taps(model)))
    teacher = probe.taps[trunk_tap(tuple(probe.taps))]
    return -float((_relations(feature) - _relations(teacher)).norm())


def _taps(model: nn.Module) -> tuple[str, ...]:
    taps: tuple[str, ...] = getattr(model, "taps", ())
    return taps


def _answer(model: nn.Module, probe: Probe, tap: str) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        logits, seen = copied(model).forward_taps(probe.images, (tap,))  # type: ignore[operator]
    return logits, seen[tap]


def _class_activation(logits: Tensor, feature: Tensor, labels: Tensor) -> Tensor:
    """Gradient of the cross-entropy with respect to the classifier, `[K, features]`."""
    pooled = feature.flatten(2).mean(dim=2) if feature.dim() > 2 else feature
    error = logits.softmax(dim=1) - F.one_hot(labels, logits.shape[1])
    return error.T @ pooled / len(labels)


def _relations(rows: Tensor) -> Tensor:
    """Inner products of all rows with each other, each row of the result of length 1."""
    flat = rows.flatten(1).double()
    return F.normalize(flat @ flat.T, dim=1)
