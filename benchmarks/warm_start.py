"""Are recipes learned from earlier searches better than random ones, on a space that no search has seen?

Two searches with random candidates on digits, one over networks of basic blocks and one over separable blocks, are the
experience. Then architectures are drawn from a space of bottleneck blocks with 5x5 kernels and two stages, which
neither holds. Each is trained in full twice, from the same weights: with a random recipe, and with the recipe that the
model of `sampler: advised` finds best of 64 random ones; it learns nothing from the new trainings. The paired
difference of the validation accuracy, in points, with its standard error.

    python benchmarks/warm_start.py --trials 80 --architectures 40
"""

import argparse
import os
import random
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import tell

from kdnas_ray import search
from kdnas_ray.config import SearchConfig, read
from kdnas_ray.hardware.counting import count
from kdnas_ray.samplers.advised import RecipeModel, draw_recipes, read_searches
from search_spaces import ResNetSpace, sample
from trainables import bank as banks
from trainables.bank import Bank
from trainables.candidate import build_model
from trainables.loop import DivergedError, Normalise, start, train
from trainables.recipe import Recipe, StandardRecipes
from trainables.tasks.base import Data
from trainables.teachers import obtain

RECIPES = StandardRecipes()
NEW = ResNetSpace(stages=2, kernels=(5,), blocks=("bottleneck",))
SEEN = ("basic", "separable")
LIMIT = 0.01  # of the teacher's parameters, as in the default configuration


def main() -> None:
    """Search twice, train pairs, print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=80)
    parser.add_argument("--architectures", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=27)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        runs = [experience(block, chosen.trials, chosen.epochs, Path(folder)) for block in SEEN]
        model = RecipeModel(seed=0)
        model.fit(read_searches(runs))
        config = settings(SEEN[0], chosen.trials, chosen.epochs, Path(folder))
        data = config.task.load(config.seed)
        teacher = obtain(
            config.teachers[0], data, config.task, seed=0, cache=Path(folder) / "cache", say=lambda _: None
        )
    bank = banks.build(
        data.train,
        [teacher.model],
        Normalise(data.mean, data.std),
        augmentation=config.task.augmentation,
        views=8,
        seed=0,
        taps=RECIPES.needed_taps(),
    )
    jobs = pairs(model, data, bank, chosen.architectures, chosen.epochs)
    with ProcessPoolExecutor(
        os.cpu_count(), initializer=SHARED.append, initargs=((config, data, bank, chosen.epochs),)
    ) as pool:
        found = list(pool.map(train_one, [job for pair in jobs for job in pair]))
    scores = np.array(found).reshape(-1, 2)
    apart = 100 * (scores[:, 1] - scores[:, 0])
    row = {
        "experience (candidates)": model.rows,
        "architectures": len(scores),
        "random recipe": f"{100 * scores[:, 0].mean():.2f}",
        "advised recipe": f"{100 * scores[:, 1].mean():.2f}",
        "difference": f"{apart.mean():+.2f} ± {apart.std(ddof=1) / len(apart) ** 0.5:.2f}",
        "advised better": f"{(apart > 0).sum()}",
        "worse": f"{(apart < 0).sum()}",
    }
    tell([row], chosen.out, scores=scores.tolist())


def settings(block: str, trials: int, epochs: int, folder: Path) -> SearchConfig:
    """A search with random candidates over networks of one block type."""
    return read(
        {
            "space": {"name": "resnet", "blocks": [block], "kernels": [3]},
            "recipes": "standard",
            "sampler": "random",
            "budget": {"trials": trials},
            "scheduler": {"name": "asha", "max_epochs": epochs},
            "retrain": {"top": 0},
            "bank": {"cache": str(folder / "cache")},
            "tracking": {"enabled": False},
        }
    )


def experience(block: str, trials: int, epochs: int, folder: Path) -> Path:
    """Run folder of such a search."""
    print(f"Searching over {block} blocks", file=sys.stderr, flush=True)
    run = folder / block
    search(settings(block, trials, epochs, folder), run)
    return run


def pairs(model: RecipeModel, data: Data, bank: Bank, count_of: int, epochs: int) -> list[tuple[Any, Any]]:
    """For each architecture a job with a random and one with an advised recipe."""
    rng = random.Random(1)
    found: list[tuple[Any, Any]] = []
    classes = len(data.classes)
    while len(found) < count_of:
        architecture = sample(NEW, rng)
        costs = count(lambda chosen=architecture: NEW.build(chosen, data.shape, classes), data.shape)  # type: ignore[misc]
        if costs["params"] > LIMIT * bank.teacher_params[0]:
            continue
        seed = len(found)
        recipes = [fitting(recipe) for recipe, _ in draw_recipes(RECIPES, 64, seed)]
        best = recipes[int(model.predict(recipes, costs, epochs).argmax())]
        found.append(((architecture, recipes[0], seed), (architecture, best, seed)))
    return found


def fitting(recipe: Recipe) -> Recipe:
    """The recipe on a space of two stages: what reads the third reads the second."""
    terms = tuple(replace(term, tap="stage2") if term.tap == "stage3" else term for term in recipe.terms)
    return replace(recipe, terms=terms)


def train_one(job: tuple[Any, Recipe, int]) -> float:
    """Validation accuracy after a full training; 0 where it diverged."""
    torch.set_num_threads(1)
    architecture, recipe, seed = job
    config, data, bank, epochs = SHARED[0]
    model = build_model(NEW, architecture, data.shape, len(data.classes), seed)
    training = start(model, recipe, bank, seed=seed, total_epochs=epochs)
    try:
        return train(training, bank, data.validation, config.task, Normalise(data.mean, data.std), epochs)[-1][
            "val_accuracy"
        ]
    except DivergedError:
        return 0.0


SHARED: list[tuple[SearchConfig, Data, Bank, int]] = []  # of this worker process


if __name__ == "__main__":
    main()
