"""A run folder as after `kdnas retrain`, made without a search."""

import json
import random
from dataclasses import asdict
from pathlib import Path

import yaml

from kdnas_ray import tracking
from kdnas_ray.config import SearchConfig
from kdnas_ray.finalists import keep_best, kept_student
from kdnas_ray.runs import append_jsonl
from search_spaces import SPACES
from search_spaces.base import sample
from trainables import bank as banks
from trainables.candidate import Candidate, build_model
from trainables.loop import Normalise, start, train
from trainables.model_files import save_student
from trainables.recipe import Recipe


def finish(run: Path, config: SearchConfig, epochs: int = 3) -> None:
    """Writes `run`: c0001 best, c0000 second, c0002 not retrained."""
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump(config.resolved()))
    data, space = config.task.load(config.seed), config.space
    normalise = Normalise(data.mean, data.std)
    bank = banks.build(data.train, [], normalise, augmentation=config.task.augmentation, views=1, seed=0)
    recipe = Recipe().without_teacher()
    meta = {
        "space": {"name": SPACES.name_of(space), **asdict(space)}, "shape": list(data.shape),
        "classes": list(data.classes), "mean": list(data.mean), "std": list(data.std),
        "task": config.resolved()["task"]["name"],
    }  # fmt: skip
    rng = random.Random(0)
    for number, score in enumerate((0.8, 0.9, 0.7)):
        architecture = sample(space, rng)
        row = Candidate(f"c{number:04d}", architecture, recipe, number).to_json() | {
            "state": "complete", "epochs": 2, "val_accuracy": score, "params": 1000, "flops": 10**6, "curve": [],
            "train_s": 1.0,
        }  # fmt: skip
        append_jsonl(run / "candidates.jsonl", row)
        if number == 2:
            continue
        model = build_model(space, architecture, data.shape, len(data.classes), number)
        training = start(model, recipe, bank, seed=number, total_epochs=epochs)
        train(training, bank, data.validation, config.task, normalise, epochs)
        for with_kd in (True, False):
            append_jsonl(run / "retrained.jsonl", {
                "id": row["id"], "seed": 5, "repeat": 0, "with_kd": with_kd, "epochs": epochs, "val_accuracy": score,
                "test_accuracy": score, "train_s": 1.0, "curve": [],
            })  # fmt: skip
        folder, _ = kept_student(run, row["id"])
        save_student(folder, model, meta | {"architecture": architecture.to_json()})
    keep_best(run)
    (run / tracking.OUTBOX).unlink()
    facts = {"name": "trained", "digest": "0" * 16, "val_accuracy": 0.99, "accuracy": 0.98, "params": 9000}
    (run / "teacher.json").write_text(json.dumps(facts | {"flops": 10**8, "data": data.digest()}))
