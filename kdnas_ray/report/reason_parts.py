"""Which parts has the explanation of a candidate: title, sentences and pictures of each?"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from kdnas_ray.report.pictures import Picture
from kdnas_ray.report.reason_figures import (
    agreement_figure,
    closeness_figure,
    confusion_figure,
    decisions_figure,
    effects_figure,
    gap_figure,
    gradients_figure,
    probes_figure,
    shares_figure,
    similarity_figure,
    terms_groups,
)
from kdnas_ray.report.reasons import sentences
from kdnas_ray.runs import read_summary

FOLDER = "explain"
FORMAT = 1
Found = Mapping[str, Any]
Drawn = list[tuple[go.Figure | None, str]]  # a figure, and what it shows in words
SHORT = {
    "terms": "Distillation",
    "similarity": "Layers",
    "probes": "Probes",
    "gradients": "Gradients",
    "dark": "Dark knowledge",
    "decisions": "Decisions",
    "pairs": "Pairs",
    "gap": "Capacity",
}
TITLES = {
    "terms": "What distillation brought",
    "similarity": "Which layers came to resemble the teacher's",
    "probes": "Where the classes can be read",
    "gradients": "Where the losses pull",
    "dark": "What was inherited beside the class",
    "decisions": "Which decisions matter",
    "pairs": "Which decisions matter together",
    "gap": "Which architectures gain by distillation",
}
NOTES = {
    "terms": "Differences between trainings of the same network from the same seeds; bars are 95 % intervals.",
    "decisions": "Functional ANOVA over the whole space; bars are 95 % bootstrap intervals over candidates. The dashed "
    "line is what the largest share reaches in 95 % of forests whose accuracies were shuffled; grey bars do not "
    "clearly exceed it.",
    "pairs": "What two decisions explain beyond what each explains alone, among the most important ones.",
    "gap": "One mark an architecture; bars are 95 % intervals over seeds.",
    "similarity": "Linear CKA on validation samples, unbiased: 1 for features equal up to rotation and scale, about 0 "
    "for unrelated ones. Mean over seeds.",
    "probes": "Ridge regression on the features at each layer (maps averaged over their places), fitted on training "
    "samples. Bars span the seeds.",
    "gradients": "Gradients over four batches of the next epoch, each loss with its weight in the recipe, mean over "
    "seeds. Effective depth, a definition of ours, is the number of stages that would share the gradient evenly.",
    "dark": "Mean softened outputs for the samples of each class, each on its own scale, the diagonal left out; "
    "calibration error with 15 bins. The dashed line is the teacher's accuracy.",
}


def shown(run: Path) -> Path | None:
    """File of the explanation that the report shows: of the best candidate, else the latest; None without any."""
    best = (read_summary(run).get("best") or {}).get("id")
    files = sorted((run / FOLDER).glob("*.json"), key=lambda path: (path.stem == best, path.stat().st_mtime))
    return next((path for path in reversed(files) if read_explanation(path)), None)


def read_explanation(path: Path) -> dict[str, Any] | None:
    """What `kdnas explain` wrote; None where the file is something else, or of another version."""
    try:
        found = json.loads(path.read_text(encoding="utf8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("format") == FORMAT else None


def explained(found: Found) -> list[dict[str, Any]]:
    """Parts of an explanation: `name`, `title`, a `short` one, `sentences`, `pictures` and a `note` on these."""
    said = sentences(found)
    parts = []
    for name, title in TITLES.items():
        if not said.get(name):
            continue
        pictures = [
            Picture.of(f"explain-{name}-{index}", figure, words)
            for index, (figure, words) in enumerate(_figures(name, found))
            if figure is not None
        ]
        parts.append(
            {
                "name": name,
                "title": title,
                "short": SHORT[name],
                "sentences": said[name],
                "pictures": pictures,
                "note": NOTES[name] if pictures else "",
            }
        )
    return parts


def _figures(name: str, found: Found) -> Drawn:
    lines = [line for line in found["trainings"] if "failure" not in line]
    makers: dict[str, Callable[[Found, Sequence[Found]], Drawn]] = {
        "terms": _terms,
        "decisions": lambda found, _: _decisions(found, "decisions", "noise"),
        "pairs": lambda found, _: _decisions(found, "pairs", "noise_of_pairs"),
        "gap": _gap,
        "similarity": _similarity,
        "probes": _probes,
        "gradients": _gradients,
        "dark": _dark,
    }
    return makers[name](found, lines)


def _form(found: Found) -> str:
    return "+.3~f" if found["targets"] == "values" else "+.1~%"


def _terms(found: Found, lines: Sequence[Found]) -> Drawn:
    groups = terms_groups(found)
    if not groups:
        return []
    words = "Gain of distillation and of its terms, each with its interval"
    return [(effects_figure(groups, f"gain of validation {found['metric']}", _form(found)), words)]


def _decisions(found: Found, kind: str, noise: str) -> Drawn:
    shares = found["search"]["decisions"]
    if shares is None or not shares[kind]:
        return []
    first = ", ".join(f"{row['name']} {row['value']:.0%}" for row in shares[kind][:5])
    return [(decisions_figure(shares[kind], shares[noise]), f"Share of the variance of accuracy: {first}")]


def _gap(found: Found, lines: Sequence[Found]) -> Drawn:
    gains = found["search"]["gains"]
    if len(gains) < 2:
        return []
    return [(gap_figure(gains, _form(found)), f"Gain of distillation of {len(gains)} architectures against size")]


def _similarity(found: Found, lines: Sequence[Found]) -> Drawn:
    if found["effects"]["similarity"] is None:
        return []
    return [
        (
            similarity_figure(lines),
            "CKA of each layer of the student with each of the teacher",
        ),
        (closeness_figure(lines), "CKA of each layer with the teacher's closest layer over the training"),
    ]


def _probes(found: Found, lines: Sequence[Found]) -> Drawn:
    if not found["effects"]["probes"]:
        return []
    return [(probes_figure(lines, found["teacher"]), "Accuracy of a linear probe at each layer")]


def _gradients(found: Found, lines: Sequence[Found]) -> Drawn:
    effects = found["effects"]["gradients"]
    if effects is None:
        return []
    return [
        (gradients_figure(lines), "Cosine and norm of the gradient of each loss at each stage over the training"),
        (shares_figure(effects["stages"]), "Share of the squared gradient norm that falls to each stage"),
    ]


def _dark(found: Found, lines: Sequence[Found]) -> Drawn:
    if found["effects"]["dark"] is None:
        return []
    return [
        (confusion_figure(lines, found["teacher"]), "Which classes teacher and students confuse"),
        (agreement_figure(lines, found["teacher"]), "Agreement with the teacher against accuracy, a mark a seed"),
    ]
