"""How small does `bank.top_k` make the bank, and what does it change in the KD loss?

Data: 1,000 classes, a Gaussian each, in 50 groups of 20 similar ones (64 numbers a sample). Teacher: a wide MLP trained
on it, whose logits are sharp and structured as those of an image classifier are: the group's classes high, the others
by likeness. Student: a narrow MLP of another seed, trained for two epochs. Both answer fresh samples. Printed for
each k and temperature: the full bank's size over the short one's (logits alone), and the KD loss against the short
bank relative to that against the full one. `even`: the same k, the rest's probability at temperature 1 spread evenly
(Wu 2022), for comparison. Goals with k = 20: 15 times smaller, under 2 % at temperatures 1 and 4.

    python benchmarks/bank_top_k.py
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from record import tell
from torch import Tensor, nn

from trainables.losses.base import Answer
from trainables.losses.logits import kd
from trainables.top_logits import compress, stacked, typical

CLASSES, GROUPS, NUMBERS = 1000, 50, 64
VIEWS = 8  # of a usual bank: what does not grow with the samples is spread over them
BATCH = 250


def main() -> None:
    """Train both, shorten the teacher's answers, print a row for each k and temperature."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=40_000)
    parser.add_argument("--smoothing", type=float, default=0.0, help="label smoothing of the teacher")
    parser.add_argument("--k", type=int, nargs="+", default=[20, 30])
    parser.add_argument("--out", type=Path, help="JSON file to write")
    chosen = parser.parse_args()
    draw = torch.Generator().manual_seed(0)
    groups = 0.7 * torch.randn(GROUPS, NUMBERS, generator=draw).repeat_interleave(CLASSES // GROUPS, dim=0)
    centres = groups + 0.5 * torch.randn(CLASSES, NUMBERS, generator=draw)
    known, asked = (_samples(centres, chosen.samples, draw) for _ in range(2))
    teacher, student = (
        _answers(_trained(width, epochs, smoothing, seed, *known), asked[0])
        for width, epochs, smoothing, seed in ((256, 4, chosen.smoothing, 1), (64, 2, 0.0, 2))
    )
    right = [round(float((x.argmax(dim=1) == asked[1]).float().mean()), 3) for x in (teacher, student)]
    rows = [row for k in chosen.k for row in measure(teacher, student, k)]
    tell(rows, chosen.out, samples=chosen.samples, smoothing=chosen.smoothing, accuracies=right)
    print(f"accuracy of teacher and student: {right}")


def measure(teacher: Tensor, student: Tensor, k: int) -> list[dict[str, float]]:
    """A row for each temperature."""
    full = teacher.half()
    habits = typical(full.numpy())
    short = stacked([[compress(full.numpy(), habits, k)]], habits[None])
    per_view = short.nbytes - short.typical.nbytes
    smaller = VIEWS * full.numpy().nbytes / (VIEWS * per_view + short.typical.nbytes)
    found = []
    for temperature in (1.0, 2.0, 4.0, 8.0):
        ours, even, exact = [], [], []
        for rows in torch.arange(len(full)).split(4000):
            own = student[rows]
            rebuilt = torch.from_numpy(short.rows(0, rows.numpy())[0])
            for kept, answer in ((exact, full[rows].float()), (ours, rebuilt), (even, _even(full[rows].float(), k))):
                kept.append(float(kd(Answer(own, own), Answer(answer, answer), rows, temperature)))
        truth = sum(exact)
        found.append(
            {
                "k": k,
                "times smaller": smaller,
                "T": temperature,
                "KD loss": truth / len(exact),
                "off %": 100 * (sum(ours) / truth - 1),
                "even: off %": 100 * (sum(even) / truth - 1),
            }
        )
    return found


def _even(z: Tensor, k: int) -> Tensor:
    top = z.topk(k, dim=1)
    rest = z.scatter(1, top.indices, -torch.inf).logsumexp(dim=1, keepdim=True)
    level = rest - torch.log(torch.tensor(float(z.shape[1] - k)))
    return level.expand(-1, z.shape[1]).scatter(1, top.indices, top.values)


def _samples(centres: Tensor, count: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    labels = torch.randint(CLASSES, (count,), generator=draw)
    return centres[labels] + torch.randn(count, NUMBERS, generator=draw), labels


def _trained(width: int, epochs: int, smoothing: float, seed: int, x: Tensor, labels: Tensor) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(NUMBERS, width), nn.ReLU(), nn.Linear(width, CLASSES))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), labels[rows], label_smoothing=smoothing).backward()
            optimizer.step()
    return model


def _answers(model: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat([model(part) for part in x.split(4000)])


if __name__ == "__main__":
    main()
