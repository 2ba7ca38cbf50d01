"""How much sooner is our search done than the one a user would first write, on the same candidates?

1. Ours: `kdnas search` in a process of its own, from an empty bank cache. The teacher is trained beforehand and its
   time is left out on both sides; everything else counts, from the start of the process (imports, bank, Ray, MLflow).
2. Naive: the candidates that ours trained, in the same order and with the same seeds, recipes, students, optimiser,
   augmentation and ASHA rungs, as a Ray Tune function trainable: the teacher runs beside the student on every batch,
   every trial gets a fresh actor, every epoch is reported, `MLflowLoggerCallback` writes to SQLite. It is spared the
   proposing and the checking of constraints.

The figure: the time at which ours had first completed a candidate at least as good (validation accuracy) as the best
of the naive search, divided by the naive search's whole wall time.

    python benchmarks/baseline_naive.py digits
    python benchmarks/baseline_naive.py digits-short
    python benchmarks/baseline_naive.py cifar10 --data FOLDER   # holds train.parquet
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

Setting = list[str]
MEDIUM = "teachers=[{name: trained, stem: 48, widths: [48, 96, 192], epochs: 10}]"
SETTINGS: dict[str, Setting] = {
    "digits": [],
    "digits-short": [MEDIUM, "scheduler.grace_epochs=1", "scheduler.max_epochs=9", "budget.trials=80"],
    "cifar10": [
        "task.name=images",
        "task.subset=2000",
        "teachers=[{name: trained, stem: 48, widths: [48, 96, 192], epochs: 5, views: 5}]",
        "bank.views=4",
        "space.stem_strides=[1, 2]",
        "constraints={flops: {of_teacher: 0.004}}",
        "scheduler.grace_epochs=1",
        "scheduler.max_epochs=9",
        "budget.trials=24",
    ],
}


def main() -> None:
    """Run both searches, print a row for the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setting", choices=SETTINGS)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/cifar10"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="*", default=[], help="further overrides")
    parser.add_argument("--naive", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    overrides = [*SETTINGS[chosen.setting], f"seed={chosen.seed}", *chosen.set]
    if chosen.setting == "cifar10":
        if not (chosen.data / "train.parquet").exists():
            sys.exit(f"skipped: no train.parquet in {chosen.data}")
        overrides.append(f"task.path={chosen.data.resolve() / 'train.parquet'}")
    if chosen.naive is not None:
        naive_search(overrides, chosen.naive)
        return
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        os.environ["KDNAS_CACHE"] = str(work / "cache")
        os.environ["OMP_NUM_THREADS"] = str(os.cpu_count())
        train_teacher(overrides)
        ended, ours_s = run_ours(overrides, work)
        begin = time.perf_counter()
        command = [sys.executable, __file__, chosen.setting, "--seed", str(chosen.seed), "--data", str(chosen.data)]
        subprocess.run([*command, "--set", *chosen.set, "--naive", str(work)], check=True)
        naive_s = time.perf_counter() - begin
        naive_best = max(json.loads((work / "naive.json").read_text())["complete"], default=0.0)
        reached = next((seconds for seconds, accuracy in ended if accuracy >= naive_best), None)
        row = {
            "setting": chosen.setting,
            "seed": chosen.seed,
            "naive_s": round(naive_s, 1),
            "naive_best": round(naive_best, 4),
            "ours_whole_s": round(ours_s, 1),
            "ours_best": round(max(accuracy for _, accuracy in ended), 4),
            "ours_reached_s": None if reached is None else round(reached, 1),
            "ratio": None if reached is None else round(reached / naive_s, 3),
            "ratio_whole": round(ours_s / naive_s, 3),
        }
        print("| " + " | ".join(row) + " |")
        print("| " + " | ".join(str(value) for value in row.values()) + " |", flush=True)


def train_teacher(overrides: Setting) -> None:
    """Put the trained teacher into the cache, but no bank."""
    from kdnas_ray.config import read
    from kdnas_ray.environment import cache_folder
    from trainables.teachers import obtain

    config = read({}, overrides)
    data = config.task.load(config.seed)
    obtain(config.teachers[0], data, config.task, seed=config.seed, cache=cache_folder(None), say=lambda text: None)


def run_ours(overrides: Setting, work: Path) -> tuple[list[tuple[float, float]], float]:
    """Seconds from the start of the process and accuracy of each complete candidate; seconds in all."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "kdnas_ray", "search", *overrides, "retrain.top=0", "--out", "run"]
    process = subprocess.Popen(command, cwd=work, stdout=subprocess.DEVNULL)
    log, seen, ended = work / "run" / "candidates.jsonl", 0, []
    while True:
        running = process.poll() is None
        rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        seconds = time.perf_counter() - begin
        ended += [(seconds, row["val_accuracy"]) for row in rows[seen:] if row["state"] == "complete"]
        seen = len(rows)
        if not running:
            break
        time.sleep(0.05)
    if process.returncode:
        sys.exit(f"kdnas search failed with {process.returncode}")
    return ended, time.perf_counter() - begin


def naive_search(overrides: Setting, work: Path) -> None:
    """The search as a user would first write it; runs in a process of its own."""
    import ray
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.tune.schedulers import ASHAScheduler

    from kdnas_ray.config import read
    from kdnas_ray.environment import cache_folder
    from trainables.teachers import obtain

    config = read({}, overrides)
    data = config.task.load(config.seed)
    teacher = obtain(config.teachers[0], data, config.task, seed=config.seed, cache=cache_folder(None), say=print)
    rows = [json.loads(line) for line in (work / "run" / "candidates.jsonl").read_text().splitlines()]
    candidates = sorted((row for row in rows if row["state"] != "rejected"), key=lambda row: row["id"])
    ray.init(num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False)
    scheduler = ASHAScheduler(
        time_attr="epoch",
        max_t=config.scheduler.max_epochs,
        grace_period=config.scheduler.grace_epochs,
        reduction_factor=config.scheduler.reduction_factor,
    )
    shared = {"data": data, "teacher": teacher.model, "space": config.space, "task": config.task}
    tracking = MLflowLoggerCallback(tracking_uri=f"sqlite:///{work / 'naive.db'}", experiment_name="naive")
    tuner = tune.Tuner(
        tune.with_parameters(naive_trainable, shared=ray.put(shared), epochs=config.scheduler.max_epochs),
        param_space={"candidate": tune.grid_search([json.dumps(row) for row in candidates])},
        tune_config=tune.TuneConfig(scheduler=scheduler, metric="val_accuracy", mode="max"),
        run_config=tune.RunConfig(storage_path=str(work / "naive"), callbacks=[tracking], verbose=0),
    )
    results = tuner.fit()
    last = [result.metrics for result in results if result.metrics and "val_accuracy" in result.metrics]
    complete = [m["val_accuracy"] for m in last if m["epoch"] == config.scheduler.max_epochs]
    (work / "naive.json").write_text(json.dumps({"complete": complete, "trials": len(last)}))


def naive_trainable(config: dict[str, Any], shared: Any, epochs: int) -> None:
    """One candidate: the teacher answers beside the student on every batch."""
    import numpy as np
    import ray
    import torch
    from ray import tune
    from torch.utils.data import DataLoader, TensorDataset

    from trainables.augment import apply, draw
    from trainables.candidate import Candidate, build_model
    from trainables.loop import Normalise, _rate
    from trainables.losses import LOSSES, Answer, Projector

    torch.set_num_threads(1)
    shared = ray.get(shared)
    data, teacher, task = shared["data"], shared["teacher"].eval(), shared["task"]
    candidate = Candidate.from_json(json.loads(config["candidate"]))
    recipe = candidate.recipe
    model = build_model(shared["space"], candidate.architecture, data.shape, len(data.classes), candidate.seed)
    normalise = Normalise(data.mean, data.std)
    taps = [term.tap for term in recipe.terms if term.tap]
    example = torch.zeros(2, *data.shape)
    ours, theirs = model.forward_taps(example, taps)[1], teacher.forward_taps(example, taps)[1]
    projectors = torch.nn.ModuleDict({tap: Projector(ours[tap].shape[1:], theirs[tap].shape[1:]) for tap in taps})
    optimizer = torch.optim.SGD(
        [*model.parameters(), *projectors.parameters()],
        lr=recipe.learning_rate,
        momentum=0.9,
        nesterov=True,
        weight_decay=recipe.weight_decay,
    )

    def tensors(split: Any) -> TensorDataset:
        return TensorDataset(torch.from_numpy(np.array(split.images)), torch.from_numpy(np.array(split.labels)))

    loader = DataLoader(tensors(data.train), batch_size=recipe.batch_size, shuffle=True, drop_last=True)
    validation = DataLoader(tensors(data.validation), batch_size=256)
    step, steps = 0, epochs * len(loader)
    for epoch in range(1, epochs + 1):
        model.train()
        for images, labels in loader:
            view = draw(task.augmentation, len(images), *data.shape[1:], candidate.seed, step + 1)
            inputs = normalise(apply(images, view))
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * _rate(step / steps)
            with torch.no_grad():
                teacher_logits, teacher_taps = teacher.forward_taps(inputs, taps)
            logits, seen = model.forward_taps(inputs, taps)
            soft = torch.zeros(())
            for term in recipe.terms:
                pair = projectors[term.tap](seen[term.tap], teacher_taps[term.tap]) if term.tap else (logits, logits)
                student, target = Answer(logits, pair[0]), Answer(teacher_logits, pair[1])
                temperature = recipe.temperature.at(step / steps)
                soft = soft + term.weight * LOSSES[term.loss].function(student, target, labels, temperature)
            loss = recipe.alpha * soft + (1 - recipe.alpha) * task.loss(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
        model.eval()
        with torch.no_grad():
            right = sum(int((model(normalise(x)).argmax(1) == y).sum()) for x, y in validation)
        tune.report({"val_accuracy": right / len(data.validation), "epoch": epoch})


if __name__ == "__main__":
    main()
