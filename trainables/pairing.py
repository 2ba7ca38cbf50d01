"""How does a teacher of another task answer for ours? With what it says of a sample of its own, of the same class.

Shapes: N samples of our training split, M of the teacher's, B of a batch, K classes of the task.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from trainables.alignment import NO_ANSWER, UNKNOWN, Aligned, Alignment
from trainables.tasks.base import Split

Answers = Literal["partner", "class_mean"]
ASKED = 512  # samples at a time
LEAST = 1e-12  # probability of a class in a mean, so that its logarithm is finite


class Paired(Aligned):
    """A teacher that is asked about samples of its own: for each of ours about a partner of the same class.

    Partners are drawn anew for every view, seeded. A sample without label, or of a class that the teacher does not
    know, has no partner, and nothing is said of it. Our samples themselves are never shown to the teacher.

    Source: Gupta 2016, Cross Modal Distillation for Supervision Transfer (a model of one modality teaches one of
    another on pairs); Yun 2020, Regularizing Class-wise Predictions via Self-knowledge Distillation, section 2.1 (the
    other sample of a pair is any of the same class).

    Args:
        model: answers normalised inputs of its own task with logits `[B, J]`.
        alignment: of its classes to ours.
        split: its training split, M samples; those without label are nobody's partners.
        normalise: maps its inputs to what it reads.
        seed: of the partners.
        answers: `partner`: what it says of the partner; `class_mean`: the mean of its softened answers about all
            samples of the class, the same for all of ours (features are the partner's).
        temperature: of these softened answers, above 0.
    """

    judged: ClassVar[bool] = False

    def __init__(
        self,
        model: nn.Module,
        alignment: Alignment,
        split: Split,
        normalise: nn.Module,
        *,
        seed: int,
        answers: Answers = "partner",
        temperature: float = 3.0,
    ) -> None:
        super().__init__(model, alignment)
        self.normalise, self.seed, self.answers, self.temperature = normalise, seed, answers, temperature
        self._images = split.images
        self._pools = [np.flatnonzero(np.isin(split.labels, source)) for source in alignment.sources]
        self._means: Tensor | None = None

    def partners(self, labels: np.ndarray, view: int) -> np.ndarray:
        """Positions `[N]` int64 in the teacher's training split for our labels `[N]` in this view; -1 for none."""
        drawn = np.random.default_rng((self.seed, view)).random(len(labels))
        found = np.full(len(labels), -1, dtype=np.int64)
        for own, pool in enumerate(self._pools):
            mine = labels == own
            if len(pool):
                found[mine] = pool[(drawn[mine] * len(pool)).astype(np.int64)]
        return found

    def ask(self, partners: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits `[B, K]` and features for samples with these partners and labels, both `[B]`.

        A sample without partner gets the answer about another: nobody is to learn it.
        """
        if self.answers == "class_mean" and not names:
            return self._class_means()[labels], {}
        images = self.normalise(torch.from_numpy(self._images[partners.clip(min=0)]))
        logits, seen = super().forward_taps(images, names) if names else (super().forward(images), {})
        return (self._class_means()[labels] if self.answers == "class_mean" else logits), seen

    def forward(self, x: Tensor) -> Tensor:
        """Of inputs alone nothing is said: logits `[B, K]`, all `UNKNOWN`, as dear to compute as an answer."""
        return torch.full_like(super().forward(self._blank(x)), UNKNOWN)

    def forward_taps(self, x: Tensor, names: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits as `forward`, and features that are NaN, in the shapes of the teacher's."""
        logits, seen = super().forward_taps(self._blank(x), names)
        return torch.full_like(logits, UNKNOWN), {key: torch.full_like(x, torch.nan) for key, x in seen.items()}

    def _blank(self, x: Tensor) -> Tensor:
        return x.new_zeros((len(x), *self._images.shape[1:]))

    def _class_means(self) -> Tensor:
        """Logits `[K, K]`, a row a class, whose softmax at `temperature` is the mean of the softened answers."""
        if self._means is None:
            width = len(self._pools)
            rows = [self._mean(pool, width) for pool in self._pools]
            self._means = torch.stack(rows)
        return self._means

    def _mean(self, pool: np.ndarray, width: int) -> Tensor:
        total, unknown = torch.zeros(width), torch.ones(width, dtype=torch.bool)
        for start in range(0, len(pool), ASKED):
            images = torch.from_numpy(self._images[pool[start : start + ASKED]])
            logits = super().forward(self.normalise(images))
            unknown = (logits <= NO_ANSWER).all(dim=0)
            total += (logits / self.temperature).softmax(dim=1).sum(dim=0)
        mean = self.temperature * (total / max(len(pool), 1)).clamp_min(LEAST).log()
        # The bank keeps half precision, which a large constant would use up at a high temperature.
        return (mean - mean.masked_fill(unknown, -torch.inf).max()).masked_fill(unknown, UNKNOWN)
