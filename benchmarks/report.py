"""How long does the page of a long search take to make, how big is it, and how soon does a browser show it?

A run folder of 10,000 candidates is written by the project's own adapter, study and journal, as a search writes it:
architectures and recipes of the default spaces, counted costs, nobody trained. Learning curves are made up (they rise
with size and near good learning rates, with noise); who goes on at a rung is decided as by ASHA. Then summary and
report are made from the folder, and the page is opened in headless Chromium. `first paint` is the browser's own
first-contentful-paint, `charts` the time until every chart was scrolled to and is drawn.

    python benchmarks/report.py --trials 1000 10000
    python benchmarks/report.py --run runs/mine          # a real run, without making one
"""

import argparse
import itertools
import json
import math
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from optuna.samplers import RandomSampler
from record import tell

from kdnas_ray.adapter import Stop, StudyAdapter
from kdnas_ray.config import read
from kdnas_ray.finalists import retrain_epochs, retraining_seed
from kdnas_ray.journal import Journal, Progress
from kdnas_ray.report import write_report
from kdnas_ray.results import write_summary
from kdnas_ray.runs import append_jsonl, read_jsonl, write_state
from kdnas_ray.session import planned
from kdnas_ray.study import directions, open_study
from trainables.candidate import Candidate

FINALISTS, SEEDS = 5, 3
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main() -> None:
    """Make or take a run, its report, and open it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[1000, 10000])
    parser.add_argument(
        "--run", type=Path, nargs="*", default=[], help="run folders to measure instead of made-up ones"
    )
    parser.add_argument("--keep", type=Path, help="folder for the made-up runs, kept; those that are there are used")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = chosen.run or [made_up(chosen.keep or Path(folder), trials) for trials in chosen.trials]
        tell([measured(run, chosen.repeats) for run in runs], chosen.out, repeats=chosen.repeats)


def measured(run: Path, repeats: int) -> dict[str, Any]:
    """Making time, size and times in the browser of one run's report; medians."""
    config = read(yaml.safe_load((run / "config.yaml").read_text()))
    plan = planned(config)
    summary_s, report_s = [], []
    for _ in range(repeats):
        summary_s.append(seconds(lambda: write_summary(run, plan)))
        report_s.append(seconds(lambda: write_report(run)))
    page = run / "report.html"
    shown = [opened(page) for _ in range(repeats)]
    return {
        "candidates": sum(row["state"] != "rejected" for row in read_jsonl(run / "candidates.jsonl")),
        "summary s": statistics.median(summary_s),
        "report s": statistics.median(report_s),
        "MB": page.stat().st_size / 1e6,
        "first paint s": statistics.median(paint for paint, _ in shown),
        "charts s": statistics.median(charts for _, charts in shown),
    }


def seconds(work: Any) -> float:
    """How long it takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def opened(page: Path) -> tuple[float, float]:
    """Seconds to the first contentful paint, and until every chart is drawn when each is scrolled to."""
    from playwright.sync_api import sync_playwright

    browser_path = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        begin = time.perf_counter()
        tab.goto(page.resolve().as_uri())
        tab.wait_for_function("performance.getEntriesByName('first-contentful-paint').length > 0")
        paint = tab.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000")
        for chart in tab.query_selector_all("[data-chart]"):
            chart.scroll_into_view_if_needed()
        tab.wait_for_function(
            "[...document.querySelectorAll('[data-chart]')].every(chart => chart.dataset.drawn === 'yes')"
        )
        charts = time.perf_counter() - begin
        browser.close()
    return paint, charts


def made_up(folder: Path, trials: int) -> Path:
    """A finished run folder of so many candidates."""
    run = folder / f"report-{trials}"
    if run.exists():
        return run
    run.mkdir(parents=True)
    config = read(
        {
            "budget": {"trials": trials},
            "constraints": {"params": 50_000},
            "sampler": "random",
            "tracking": {"enabled": False},
        }
    )
    (run / "config.yaml").write_text(yaml.safe_dump(config.resolved()))
    plan = planned(config)
    search(run, config, plan, trials)
    rows = [row for row in read_jsonl(run / "candidates.jsonl") if row["state"] == "complete"]
    best = sorted(rows, key=lambda row: -row["val_accuracy"])[:FINALISTS]
    for row, repeat, with_kd in itertools.product(best, range(SEEDS), (True, False)):
        noise = random.Random(f"{row['id']} {repeat} {with_kd}")
        score = row["val_accuracy"] - 0.01 * (not with_kd) + noise.gauss(0, 0.004)
        seed = retraining_seed(Candidate.from_json(row), repeat)
        line = {"id": row["id"], "seed": seed, "repeat": repeat, "with_kd": with_kd, "epochs": retrain_epochs(config)}
        append_jsonl(run / "retrained.jsonl", {**line, "val_accuracy": min(score, 1.0), "train_s": 1.0, "curve": [],
                                               "test_accuracy": min(score - 0.005, 1.0)})  # fmt: skip
    facts = {"name": "trained", "digest": "0" * 16, "val_accuracy": 0.99, "accuracy": 0.985, **plan.teacher_costs}
    (run / "teacher.json").write_text(json.dumps(facts))
    return run


def search(run: Path, config: Any, plan: Any, trials: int) -> None:
    """Candidates are proposed, written down and stopped as in a search; nobody is trained."""
    rungs = config.rungs()
    study = open_study(run, RandomSampler(config.seed), config.objectives, directions(config.objectives))
    journal = Journal(run, Progress(budget=trials, rungs=rungs))
    adapter = StudyAdapter(
        study, space=config.space, recipes=config.recipe_space, costs=plan.costs, bounds=plan.bounds,
        objectives=config.objectives, journal=journal, rungs=rungs, trials=trials, seed=config.seed, stop=Stop(),
        identity=plan.identity,
    )  # fmt: skip
    reached: dict[int, list[float]] = {rung: [] for rung in rungs}
    for number in range(trials):
        given = adapter.suggest(str(number))
        if not isinstance(given, dict):
            break
        candidate = Candidate.from_json(given["candidate"])
        curve = learning(candidate, plan.costs(candidate.architecture)["params"], rungs[-1])
        for rung in rungs:
            score = curve[rung - 1]["val_accuracy"]
            reached[rung].append(score)
            ahead = sum(other > score for other in reached[rung])
            told = {"curve": curve[:rung], "train_s": 0.02 * rung, "epoch": rung, "val_accuracy": score}
            if rung == rungs[-1] or ahead >= max(1, len(reached[rung]) / config.scheduler.reduction_factor):
                adapter.on_trial_complete(str(number), told)
                break
            adapter.on_trial_result(str(number), told)
    journal.save_time()
    write_state(run, {**json.loads((run / "state.json").read_text()), "workers": 1, "wall_s": journal.search_s(),
                      "status": "finished", "command": f"kdnas search budget.trials={trials}"})  # fmt: skip


def learning(candidate: Candidate, params: float, epochs: int) -> list[dict[str, float]]:
    """A made-up learning curve: better with size and near a learning rate of 0.1, noisy."""
    noise = random.Random(candidate.seed)
    rate = math.log10(candidate.recipe.learning_rate) + 1
    end = 0.98 - 0.4 * math.exp(-math.log10(params)) - 0.05 * rate**2 + noise.gauss(0, 0.01)
    speed, points = noise.uniform(2, 6), []
    for epoch in range(1, epochs + 1):
        score = min(max(end * (1 - math.exp(-epoch / speed)) + noise.gauss(0, 0.01), 0.0), 1.0)
        point = {"train_loss": 2.0 / epoch, "val_loss": 3.0 / epoch, "val_accuracy": round(score, 4)}
        points.append({"epoch": epoch, **point})
    return points


if __name__ == "__main__":
    main()
