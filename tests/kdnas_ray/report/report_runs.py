"""What the tests of the report share: the files of a run that was never searched, and what they are filled with."""

import json
from pathlib import Path

from kdnas_ray.analysis.correlation import kendall_tau, rung_taus
from kdnas_ray.finalists import finalists
from kdnas_ray.runs import read_jsonl

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
