"""What the tests of the report share: the files of a run that was never searched, and what they are filled with."""

import itertools
import json
import random
from pathlib import Path

import yaml
from optuna.samplers import RandomSampler

from kdnas_ray.analysis.correlation import kendall_tau, rung_taus
from kdnas_ray.config import read
from kdnas_ray.finalists import finalists
from kdnas_ray.runs import append_jsonl, read_jsonl, write_state
from kdnas_ray.study import directions, open_study
from trainables.candidate import Candidate

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&lt;{{ 7*7 }}"
TEACHER = {"name": "trained", "val_accuracy": 0.99, "accuracy": 0.98, "params": 500_000, "flops": 50_000_000}


def retrained(name: str, seed: int, with_kd: bool, val: float, test: float) -> dict:
    return {"id": name, "seed": seed, "repeat": seed, "with_kd": with_kd, "epochs": 9, "val_accuracy": val,
            "test_accuracy": test, "train_s": 1.0, "curve": []}  # fmt: skip


def summarise(run: Path, **changed) -> None:
    """summary.json, as `results.write_summary` would make it."""
    rows, lines = read_jsonl(run / "candidates.jsonl"), read_jsonl(run / "retrained.jsonl")
    found = finalists(run)
    by_id = {row["id"]: row for row in rows}
    best = None
    if found:
        kept = {name: by_id[found[0]["id"]][name] for name in ("id", "architecture", "recipe", "params", "flops")}
        best = {**found[0], **kept}
    summary = {
        "status": "finished", "trials": len(rows), "completed": 3, "pruned": 2, "failed": 1, "rejected": 0,
        "wall_s": 200.0, "search_wall_s": 50.0, "workers": 2, "utilisation": 0.9, "teacher": TEACHER, "best": best,
        "finalists": found, "rungs": [1, 3, 9], "rung_kendall_tau": rung_taus(rows, (1, 3, 9), lines),
        "kendall_tau": kendall_tau([r["search_val_accuracy"] for r in found], [r["val_accuracy"] for r in found]),
        "kendall_tau_n": len(found), "objectives": ["val_accuracy"], "constraints": {"params": 5000}, "seed": 7,
        "task": "digits", "space": "resnet", "versions": {"torch": "9.9"}, "command": "kdnas search c.yaml",
    } | changed  # fmt: skip
    (run / "summary.json").write_text(json.dumps(summary))


def wide_run(run: Path, candidates: int = 40) -> None:
    """A finished run of so many candidates that differ in every decision, with a study, finalists and explanation."""
    config = read({"scheduler": {"max_epochs": 9, "grace_epochs": 1}})
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump(config.resolved()))
    draw, rungs = random.Random(0), config.rungs()
    study = open_study(run, RandomSampler(seed=0), config.objectives, directions(config.objectives))
    for number in range(candidates):
        trial = study.ask()
        candidate = Candidate(f"c{number:04d}", config.space.suggest(trial), config.recipe_space.suggest(trial), number)
        whole, last = number % 2 == 0, 0.7 + draw.random() / 4
        epochs = rungs[-1] if whole else draw.choice(rungs[:-1])
        curve = [{"epoch": epoch, "train_loss": 1.0, "val_loss": 1.0, "val_accuracy": last * epoch / (epoch + 1)}
                 for epoch in range(1, epochs + 1)]  # fmt: skip
        trial.set_user_attr("curve", curve)
        study.tell(trial, curve[-1]["val_accuracy"])
        row = {
            "state": "complete" if whole else "pruned", "epochs": epochs, "val_accuracy": curve[-1]["val_accuracy"],
            "params": 1000 + 137 * number, "flops": 10**5 * (number + 1), "curve": curve, "reason": None,
            "train_s": 1.0, "started_s": float(number), "ended_s": number + 1.0,
        }  # fmt: skip
        append_jsonl(run / "candidates.jsonl", candidate.to_json() | row)
    for number, seed, with_kd in itertools.product((0, 2, 4), range(3), (True, False)):
        score = 0.9 + 0.01 * number + 0.002 * seed * number + 0.01 * with_kd
        append_jsonl(run / "retrained.jsonl", retrained(f"c{number:04d}", seed, with_kd, score, score))
    (run / "teacher.json").write_text(json.dumps(TEACHER))
    spent = {"data": 1.0, "teacher": 20.0, "bank": 3.0, "closing": 2.0}
    write_state(run, {"wall_s": 90.0, "search_wall_s": 40.0, "workers": 2, "spent": spent, "work": {"steps_s": 45.0}})
    (run / "explain").mkdir()
    figure = {"data": [{"type": "bar", "x": [1, 2], "y": [3, 4]}], "layout": {}}
    part = {
        "title": "Feature reuse",
        "sentences": ["Stage 2 resembles the teacher's."],
        "figure": figure,
        "words": "Two bars",
    }
    (run / "explain" / "1_cka.json").write_text(json.dumps(part))
    (run / "explain" / "2_page.html").write_text("<p>Words alone</p>")
    summarise(run)
