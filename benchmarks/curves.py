"""Which scheduler would have kept the best candidates, and for how many epochs? Recorded curves, replayed.

    kdnas search 'scheduler={name: full, max_epochs: 12}' sampler=random retrain.top=0 --out runs/curves
    python benchmarks/curves.py runs/curves [--orders 40] [--out curves.json]

The candidates of a run that stopped nobody are handed to the schedulers again, in random orders, two at a time. A
second table: how far a prediction of the end is off, from the first epochs alone, by families of curves fitted to them
and by what the other candidates gained (`kdnas_ray.extrapolation`), leaving each candidate out in turn.
"""

import argparse
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from record import tell
from scipy.optimize import least_squares

from kdnas_ray.extrapolation import LEAST_ERROR, forecast
from kdnas_ray.promotion import Ladder
from kdnas_ray.runs import read_jsonl
from kdnas_ray.schedulers import ASHA, Extrapolate, PromotingASHA

WORKERS = 2
TOP = 3

# Source: Domhan 2015, table 1 (pow3, exponential, log-power); positive parameters as their logarithms.
FAMILIES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "pow3": lambda x, p: p[0] - np.exp(p[1]) * x ** -np.exp(p[2]),
    "exp3": lambda x, p: p[0] - np.exp(p[1] - np.exp(p[2]) * x),
    "log power": lambda x, p: p[0] / (1 + (x / np.exp(p[1])) ** -np.exp(p[2])),
}


def recorded(run: Path) -> np.ndarray:
    """Validation accuracies of the complete candidates, `[candidates, epochs]`."""
    rows = [row for row in read_jsonl(run / "candidates.jsonl") if row["state"] == "complete"]
    rows.sort(key=lambda row: row["id"])
    return np.array([[point["val_accuracy"] for point in row["curve"]] for row in rows])


def replayed(curves: np.ndarray, settings: Any, seed: int) -> dict[str, float]:
    """What this scheduler would have spent and kept, the candidates coming in the seed's order."""
    rng, scheduler, rungs = random.Random(seed), settings.make(), settings.rungs()
    waiting, running, kept, spent = list(range(len(curves))), {}, [], 0
    rng.shuffle(waiting)
    while waiting or running:
        while waiting and len(running) < WORKERS:
            running[waiting.pop()] = 0
        chosen = rng.choice(list(running))  # whoever reaches the next rung first
        place = running[chosen]
        spent += rungs[place] - (rungs[place - 1] if place else 0)
        trial = Trial("none", trial_id=str(chosen), stub=True)
        if place == 0:
            scheduler.on_trial_add(None, trial)
        points = [{"epoch": e, "val_accuracy": a} for e, a in enumerate(curves[chosen][: rungs[place]], start=1)]
        result = {"epoch": rungs[place], "val_accuracy": points[-1]["val_accuracy"], "curve": points}
        running[chosen] += 1
        if rungs[place] == rungs[-1]:
            scheduler.on_trial_complete(None, trial, result)
            kept.append(chosen)
            del running[chosen]
        elif scheduler.on_trial_result(None, trial, result) == TrialScheduler.STOP:
            del running[chosen]
    return outcome(curves, kept, spent)


def promoted(curves: np.ndarray, settings: PromotingASHA, seed: int) -> dict[str, float]:
    """The same where candidates wait at rungs."""
    rng, rungs = random.Random(seed), settings.rungs()
    new, running, kept, spent = list(range(len(curves))), [], [], 0
    reached: dict[str, list[dict[str, float]]] = {}
    ladder = Ladder(rungs, settings.reduction_factor)
    rng.shuffle(new)
    while True:
        while len(running) < WORKERS:
            found = ladder.promotable()
            if not (found or new or running or kept):
                found = ladder.promotable(factor=1.0)  # as a search does that has nobody at the end
            if found:
                name = found[0][0]
                ladder.leave(name, reached[name])
            elif new:
                name = str(new.pop())
                reached[name] = []
            else:
                break
            running.append(name)
        if not running:
            return outcome(curves, kept, spent)
        name = running.pop(rng.randrange(len(running)))
        until = next(rung for rung in rungs if rung > len(reached[name]))
        spent += until - len(reached[name])
        reached[name] = [{"epoch": e, "val_accuracy": a} for e, a in enumerate(curves[int(name)][:until], start=1)]
        if until == rungs[-1]:
            kept.append(int(name))
        else:
            ladder.wait(name, reached[name])


def outcome(curves: np.ndarray, kept: Sequence[int], spent: int) -> dict[str, float]:
    """What was spent, and how good those are that were trained in full."""
    ends = curves[:, -1]
    best, bar = ends[kept].max(), np.sort(ends)[-TOP]
    return {
        "epochs": spent / curves.size,
        "rank": 1 + float((ends > best).sum()),
        "regret": float(ends.max() - best),
        "top kept": float((ends[kept] >= bar).sum() / (ends >= bar).sum()),
        "whole": len(kept),
    }


def fitted(curve: Sequence[float], last: int) -> dict[str, float]:
    """The end of the curve by each family, and by all, weighted by how well they fit."""
    x, y = np.arange(1.0, len(curve) + 1), np.array(curve)
    ends, weights = {}, []
    for name, family in FAMILIES.items():

        def off(p: np.ndarray, family: Callable = family) -> np.ndarray:
            return np.append(family(x, p) - y, 0.01 * p[1:])  # held lightly: there may be fewer epochs than parameters

        bounds = ([0, -6, -4], [1, 6, 3])
        found = least_squares(off, [min(max(y[-1], 0.01), 0.99), 0.5, 0.0], bounds=bounds, max_nfev=100).x
        ends[name] = float(family(np.array([float(last)]), found)[0])
        weights.append(1 / (np.mean((family(x, found) - y) ** 2) + 1e-4))
    return ends | {"all three": float(np.average(list(ends.values()), weights=weights))}


def prediction_errors(curves: np.ndarray, epoch: int) -> dict[str, float]:
    """Mean distance from the final accuracy, in points, of predictions after this epoch."""
    off: dict[str, list[float]] = {}
    for index, curve in enumerate(curves):
        others = [list(other) for number, other in enumerate(curves) if number != index]
        median, _, _ = forecast(list(curve[:epoch]), others)
        ends = fitted(curve[:epoch], len(curve)) | {"other candidates": 1 + LEAST_ERROR - math.exp(median)}
        for name, end in ends.items():
            off.setdefault(name, []).append(100 * abs(end - curve[-1]))
    return {name: float(np.mean(distances)) for name, distances in off.items()}


def main() -> None:
    """Read the words, replay, tell."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--orders", type=int, default=40)
    parser.add_argument("--out", type=Path)
    words = parser.parse_args()
    rows, errors = [], []
    for run in words.runs:
        curves = recorded(run)
        epochs = curves.shape[1]
        choices = {
            "asha, grace 1": ASHA(epochs, 1),
            "asha, grace 3": ASHA(epochs, 3),
            "asha, grace 3, factor 2": ASHA(epochs, 3, 2),
            "asha, grace 6, factor 2": ASHA(epochs, 6, 2),
            "asha-promote, grace 1": PromotingASHA(epochs, 1),
            "asha-promote, grace 3": PromotingASHA(epochs, 3),
            "asha-promote, grace 3, factor 2": PromotingASHA(epochs, 3, 2),
            "asha-promote, grace 6, factor 2": PromotingASHA(epochs, 6, 2),
            "extrapolate": Extrapolate(epochs),
            "extrapolate, every epoch": Extrapolate(epochs, every_epochs=1),
            "extrapolate, every epoch, confidence 0.2": Extrapolate(epochs, every_epochs=1, confidence=0.2),
            "extrapolate, every epoch, top 1": Extrapolate(epochs, every_epochs=1, top=1),
        }
        for name, settings in choices.items():
            replay = promoted if isinstance(settings, PromotingASHA) else replayed
            found = [replay(curves, settings, seed) for seed in range(words.orders)]
            means = {key: float(np.mean([one[key] for one in found])) for key in found[0]}
            rows.append({"run": run.name, "scheduler": name, **means, "worst rank": max(one["rank"] for one in found)})
        errors += [
            {"run": run.name, "after epoch": epoch, **prediction_errors(curves, epoch)} for epoch in range(3, epochs, 3)
        ]
    tell(rows, words.out, errors=errors)
    print()
    tell(errors, None)


if __name__ == "__main__":
    main()
