"""What do `kdnas init` and `kdnas device show` write? Every key, with the comment that its docstring gives it."""

import dataclasses
import inspect
import json
import re
import textwrap
from typing import Any

import yaml
from pydantic import BaseModel

from kdnas_ray.catalogue import CATALOGUE
from kdnas_ray.config import SearchConfig
from kdnas_ray.hardware.devices import DeviceProfile, write

TOP = {
    "task": "What is learned.",
    "labels": "Share of the training labels that is kept.",
    "stream": "Classes that come in groups, such as {groups: 5, memory: 200}: see docs/incremental.md.",
    "teachers": "Who teaches; the first is the reference.",
    "bank": "What the teacher says about the training data, computed once.",
    "space": "The students.",
    "recipes": "How they may learn from the teacher.",
    "evaluator": "Where a candidate's weights start.",
    "prefilter": "A cheap judge before any training, such as {judge: naswot, propose: 20, keep: 4}.",
    "sampler": "How candidates are proposed.",
    "recipes_each": "How many recipes are tried with each architecture.",
    "scheduler": "Who is stopped early.",
    "objectives": "What is optimised: [val_accuracy], or with params, latency_ms or proxies for a Pareto search.",
    "devices": "What candidates are to run on, such as [npu-small]: see `kdnas device list`.",
    "constraints": "Bounds, checked before training: {params: 20000, latency_ms: {device: npu-small, max: 5}}.",
    "budget": "When the search ends: whichever comes first.",
    "resources": "What one trial gets.",
    "retrain": "The finalists: trained in full, with and without KD, scored on the test split.",
    "study": "Where the Optuna study lies; in a database several searches can share one, see docs/cluster.md.",
    "tracking": "MLflow.",
    "seed": "Everything random derives from it.",
}
WIDTH = 118
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
        text = yaml.dump({key: value}, Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=WIDTH)
        says = textwrap.fill(TOP[key] + names, WIDTH, initial_indent="# ", subsequent_indent="# ")
        blocks.append(f"{says}\n" + _commented(text, _comments(owner)))
    return "\n".join(blocks)


def commented_profile(profile: DeviceProfile) -> str:
    """YAML of a device profile, above each key what it means and its default; `devices.parse` takes it back."""
    says, values = _comments(profile), yaml.safe_load(write(profile))
    blocks = ["# A device profile. Keys with a default may be left out."]
    for field in dataclasses.fields(profile):
        usual = {} if field.default_factory is not dataclasses.MISSING else field.default
        default = "required" if usual is dataclasses.MISSING else f"default {json.dumps(usual)}"
        comment = textwrap.fill(
            f"{says[field.name].rstrip('.')} ({default})", WIDTH, initial_indent="# ", subsequent_indent="# "
        )
        blocks.append(f"{comment}\n{yaml.safe_dump({field.name: values[field.name]})}".rstrip())
    return "\n".join(blocks) + "\n"


class _Dumper(yaml.SafeDumper):
    """A line a key, so that each can have its comment; lists of plain values stay in one line."""


def _dump_list(dumper: yaml.SafeDumper, items: list[Any]) -> yaml.Node:
    nested = any(isinstance(item, (dict, list)) for item in items)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=not nested)


_Dumper.add_representer(list, _dump_list)


def _commented(text: str, comments: dict[str, str]) -> str:
    lines = []
    for row in text.splitlines():
        key = re.match(r"([- ]+)(\w+):", row)
        comment = comments.get(key.group(2)) if key else None
        if key and comment and len(row) + len(comment) > WIDTH:
            lines += [f"{' ' * len(key.group(1))}# {comment}", row]
        else:
            lines.append(f"{row}  # {comment}" if comment else row)
    return "\n".join(lines) + "\n"


def _comments(owner: Any) -> dict[str, str]:
    """What each key says about itself, keys of parts included."""
    found: dict[str, str] = {}
    if isinstance(owner, BaseModel):
        found = {name: field.description or "" for name, field in type(owner).model_fields.items()}
    elif dataclasses.is_dataclass(owner):
        _, _, arguments = (inspect.getdoc(type(owner)) or "").partition("Args:\n")
        for match in re.finditer(r"^    (\w+): (.*(?:\n {8,}.*)*)", arguments, re.MULTILINE):
            found[match.group(1)] = " ".join(match.group(2).split())
    parts = owner.values() if isinstance(owner, dict) else [getattr(owner, name) for name in found]
    for part in parts:
        found = _comments(part) | found
    return found
