"""What does `kdnas init` write? Every default, with the comment that its docstring gives it."""

import dataclasses
import inspect
import re
from typing import Any

import yaml
from pydantic import BaseModel

from kdnas_ray.catalogue import CATALOGUE
from kdnas_ray.config import SearchConfig

TOP = {
    "task": "What is learned.",
    "teachers": "Who teaches: exactly one.",
    "bank": "What the teacher says about the training data, computed once.",
    "space": "Which students may be built.",
    "recipes": "How they may learn from the teacher.",
    "evaluator": "Where a candidate's weights start.",
    "sampler": "How candidates are proposed.",
    "scheduler": "Who is stopped early.",
    "objectives": "What is optimised: [val_accuracy], or with params and flops for a Pareto search.",
    "constraints": "Hard bounds, checked before training: {params: {max: 20000}, flops: {of_teacher: 0.1}}.",
    "budget": "When the search ends: whichever comes first.",
    "resources": "What one trial gets.",
    "retrain": "The finalists: trained in full, with and without KD, scored on the test split.",
    "tracking": "MLflow.",
    "seed": "Everything random derives from it.",
}
LISTED = {
    "task": "tasks", "teachers": "teachers", "space": "spaces", "recipes": "recipes", "evaluator": "evaluators",
    "sampler": "samplers", "scheduler": "schedulers",
}  # fmt: skip


def commented_yaml() -> str:
    """A configuration file with every default, commented."""
    config = SearchConfig()
    resolved = config.resolved()
    blocks = ["# kdnas configuration. Every key may be left out: these are the defaults."]
    for key, value in resolved.items():
        names = f" Known: {', '.join(CATALOGUE[LISTED[key]])}." if key in LISTED else ""
        owner = getattr(config, key)
        owner = owner[0] if key == "teachers" else owner
        text = yaml.safe_dump({key: value}, sort_keys=False, default_flow_style=None, width=100)
        blocks.append(f"# {TOP[key]}{names}\n" + _commented(text, _comments(owner)))
    return "\n".join(blocks)


def _commented(text: str, comments: dict[str, str]) -> str:
    lines = []
    for row in text.splitlines():
        key = re.match(r"[- ]+(\w+):", row)
        comment = comments.get(key.group(1)) if key else None
        lines.append(f"{row}  # {comment}" if comment else row)
    return "\n".join(lines) + "\n"


def _comments(owner: Any) -> dict[str, str]:
    if isinstance(owner, BaseModel):
        return {name: field.description or "" for name, field in type(owner).model_fields.items()}
    if not dataclasses.is_dataclass(owner):
        return {}
    found: dict[str, str] = {}
    _, _, arguments = (inspect.getdoc(type(owner)) or "").partition("Args:\n")
    for match in re.finditer(r"^    (\w+): (.*(?:\n {8,}.*)*)", arguments, re.MULTILINE):
        found[match.group(1)] = " ".join(match.group(2).split())
    return found
