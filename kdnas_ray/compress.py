"""How does a big residual network become a small one, in one command?"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdnas_ray.config import SearchConfig, read
from search_spaces import KdnasError
from search_spaces.resnet import FAMILY, resnet_point
from trainables.model_files import load_student

MAGNITUDES = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}
TAPS = ("stage2", "stage3", "stage4")  # of a student, and of a teacher of the family
DEPTHS = (1, 2, 3)  # blocks a stage of a student, up to ResNet-34's usual depth


def compression(
    teacher: str,
    data: str,
    *,
    width: int = 64,
    params: str | None = None,
    latency_ms: float | None = None,
    device: str | None = None,
    trials: int = 24,
    epochs: int = 27,
    overrides: tuple[str, ...] = (),
) -> SearchConfig:
    """A search for the smallest residual network that keeps the teacher's accuracy within a bound.

    The teacher is one of the ResNet family, trained first, or a folder as `kdnas teacher train` writes it. Students
    are residual networks of basic blocks with half to the full width and one to three blocks a stage, from below
    ResNet-10 to nearly ResNet-34 in shape.

    Source: He 2016, Deep Residual Learning for Image Recognition, table 1 (the family).

    Args:
        teacher: name in the family, such as `resnet152`, or a folder.
        data: `digits`, or a Parquet file or folder of images.
        width: channels of the family's first stage, 64 as published; students take theirs from it.
        params: largest number of the student's parameters, such as `11M`.
        latency_ms: largest latency on the device.
        device: name or file of a device profile.
        trials: candidates to train.
        epochs: length of a full training.
        overrides: further `key=value`.

    Raises:
        KdnasError: unknown teacher, no bound, or a bound that cannot be read.
    """
    constraints: dict[str, Any] = {}
    if params is not None:
        constraints["params"] = {"max": amount(params, "--target-params")}
    if latency_ms is not None:
        constraints["latency_ms"] = {"max": latency_ms}
        if device is None:
            raise KdnasError("on which device?", field="--device", value=None, remedy="see `kdnas device list`")
    if not constraints:
        raise KdnasError(
            "how small?",
            field="--target-params",
            value=None,
            remedy="--target-params 11M, or --latency-ms 5 --device …",
        )
    constraints.setdefault("params", {"of_teacher": 1.0})  # whatever else is bounded, a student is smaller
    known = FAMILY.get(teacher)
    return read(
        {
            "task": data if data == "digits" else {"name": "images", "path": data},
            "teachers": [_family_teacher(teacher, width) if known else _folder_teacher(teacher)],
            "space": {
                "name": "resnet",
                "stages": 4,
                "stem_widths": sorted({max(1, width // 2), width}),
                "widths": sorted({max(1, round(share * width)) for share in (0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8)}),
                "depths": list(DEPTHS),
                "kernels": [3],
                "blocks": ["basic"],
            },
            "recipes": {"name": "simple", **({"taps": list(TAPS)} if known else _hints(Path(teacher)))},
            "devices": [device] if device else [],
            "constraints": constraints,
            "scheduler": {"name": "asha", "max_epochs": epochs},
            "budget": {"trials": trials},
        },
        overrides,
    )


def amount(text: str, field: str) -> float:
    """The number that a text such as `11M`, `250k` or `11000000` means.

    Raises:
        KdnasError: it means none, or none above 0.
    """
    found = re.fullmatch(r"\s*([0-9][0-9_,]*(?:\.[0-9]+)?)\s*([kmg]?)\s*", text.lower())
    value = float(re.sub("[_,]", "", found[1])) * MAGNITUDES[found[2]] if found else 0.0
    if value <= 0:
        raise KdnasError("is no number of parameters", field=field, value=text, remedy="for example 11M or 250k")
    return value


def _family_teacher(name: str, width: int) -> Mapping[str, Any]:
    point = resnet_point(name, width)
    block, depths = FAMILY[name]
    widths = [point[f"stage{stage}.width"] for stage in range(1, len(depths) + 1)]
    return {"name": "trained", "stem": width, "widths": widths, "depths": list(depths), "block": block}


def _folder_teacher(text: str) -> Mapping[str, Any]:
    if not Path(text).is_dir():
        raise KdnasError(
            "neither a network of the family nor a folder",
            field="--teacher",
            value=text,
            remedy=f"known: {', '.join(FAMILY)}; `kdnas teacher train` writes a folder",
        )
    return {"name": "folder", "path": text}


def _hints(folder: Path) -> Mapping[str, Any]:
    """At which taps students learn from the features of a teacher in a folder, which may have fewer stages."""
    try:
        model, _ = load_student(folder)
    except KdnasError as error:
        raise KdnasError(error.problem, field="--teacher", value=str(folder), remedy=error.remedy) from error
    taps = [tap for tap in TAPS if tap in getattr(model, "taps", ())]
    return {"taps": taps} if taps else {"hints": [False]}
