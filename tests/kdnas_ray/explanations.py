"""Explanations made up by hand: trainings of two seeds or more, whose numbers are chosen."""

from typing import Any

from kdnas_ray.analysis.explained import effects

TAPS, TEACHER, STAGES = ("stage1", "stage2"), ("stage1", "stage2", "penultimate"), ("stem", "stage1", "classifier")


def training(
    variant: str,
    seed: int,
    accuracy: float = 0.9,
    similarity: float = 0.5,
    cosine: float = 0.4,
    probe: float = 0.8,
    likeness: float = 0.7,
    error: float = 0.05,
    agreement: float = 0.9,
    norms: tuple[float, ...] = (1.0, 2.0, 4.0),
) -> dict[str, Any]:
    """A line of `kdnas_ray.followed.follow`; the student's layers are most like the teacher's of the same name."""
    rows = {tap: {name: similarity if name == tap else similarity - 0.3 for name in TEACHER} for tap in TAPS}
    distillation = None
    if variant != "without":
        distillation = {"norms": list(norms), "cosines": [cosine] * 3, "depth": 2.0}
    gradients = {
        "stages": list(STAGES),
        "terms": ["labels"] if variant == "without" else ["labels", "kd"],
        "norms": [[2.0, 2.0, 2.0]] if variant == "without" else [[2.0, 2.0, 2.0], list(norms)],
        "cosines": [] if variant == "without" else [[cosine] * 3],
        "distillation": distillation,
        "depth": [3.0] if variant == "without" else [3.0, 2.0],
        "depth_together": 2.5,
    }
    end = {
        "accuracy": accuracy,
        "calibration_error": error,
        "probes": dict.fromkeys(TAPS, probe),
        "agreement": agreement,
        "likeness": likeness,
        "outputs": [[0.8, 0.15, 0.05], [0.1, 0.8, 0.1], [0.02, 0.08, 0.9]],
    }
    looks = [{"epoch": epoch, "gradients": gradients, "similarity": rows} for epoch in (0, 3)]
    curve = [{"epoch": epoch, "train_loss": 1.0, "val_loss": 1.0, "val_accuracy": accuracy} for epoch in (1, 2, 3)]
    line = {"variant": variant, "repeat": seed, "seed": seed, "epochs": 3, "train_s": 1.0}
    return line | {"curve": curve, "looks": looks, "end": end}


def explained(trainings: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """What `kdnas_ray.explain.explain` would find of these trainings, but for its sentences."""
    found = {
        "format": 1,
        "candidate": "c0007",
        "recipe": {"terms": [{"loss": "kd"}]},
        "metric": "accuracy",
        "targets": "classes",
        "seeds": len({line["seed"] for line in trainings}) or 1,
        "epochs": 3,
        "search": {"decisions": None, "rung": 3, "pairs": [], "gains": [], "gap": []},
        "teacher": {
            "taps": list(TEACHER), "classes": ["cat", "dog", "frog"], "temperature": 3.0, "teachers": 1,
            "accuracy": 0.95, "calibration_error": 0.01,
            "outputs": [[0.7, 0.2, 0.1], [0.1, 0.7, 0.2], [0.05, 0.1, 0.85]], "probes": dict.fromkeys(TEACHER, 0.9),
        },
        "trainings": trainings,
        "lacking": {},
        **changes,
    }  # fmt: skip
    return found | {"effects": effects(trainings)}
