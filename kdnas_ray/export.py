"""How is a run's student taken away: as ONNX, torch.export or safetensors, checked against PyTorch, with a model card?

Everything is written beside its place first and gets its name only when the file answers as the student does.
"""

import difflib
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdnas_ray import onnx_files, photo_to_boxes, tracking, wav_to_pixels
from kdnas_ray.config import SearchConfig
from kdnas_ray.environment import versions
from kdnas_ray.finalists import finalists, kept_student, read_retrained
from kdnas_ray.hardware.counting import count_model
from kdnas_ray.kept_config import run_config
from kdnas_ray.model_card import config_digest, model_card
from kdnas_ray.prepare import load_data
from kdnas_ray.runs import check_creatable, read_jsonl, read_summary, read_teacher_facts, require_run
from search_spaces import Architecture, KdnasError, RunError
from search_spaces.notation import notation
from trainables.boxes import CANDIDATES, MOST, SAME
from trainables.files import whole_folder
from trainables.model_files import complete, load_student, save_student
from trainables.sound import LogMel
from trainables.tasks import DetectionTask, SpeechTask
from trainables.tasks.base import Data, Split, Task

FORMATS = ("onnx", "torch-export", "safetensors")
NEEDED = ("onnx", "onnxruntime", "onnxscript")  # packages of the extra
CALIBRATION = 512  # training samples from which int8 ranges are taken
COMPARED = 2048  # validation samples at most on which a file is compared with PyTorch
TOLERANCE = 1e-3  # of the largest logit (of 1, where all are smaller)
AGREEMENT = 0.999  # share of equal predictions
POINTS = 2.0  # of validation accuracy that int8 may lose
FLOAT, INT8 = "student.onnx", "student-int8.onnx"
THRESHOLD = 0.3  # least score of a box that is shown; the metric counts far lower ones too


@dataclass(frozen=True)
class Parity:
    """How far a file's answers are from PyTorch's on real samples.

    Args:
        samples: how many validation samples.
        difference: largest absolute one between two logits.
        largest_logit: of PyTorch, absolute.
        agreement: share of equal predictions.
    """

    samples: int
    difference: float
    largest_logit: float
    agreement: float

    @property
    def holds(self) -> bool:
        """Whether the file may stand for the student; NaN does not."""
        return self.difference <= TOLERANCE * max(1.0, self.largest_logit) and self.agreement >= AGREEMENT


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Args:
        folder: where.
        about: all that is known of the student, as `about.json` holds it.
        unsent: why MLflow does not have it yet, None where it has or was not asked to.
    """

    folder: Path
    about: dict[str, Any]
    unsent: str | None = None


def export(
    run: Path,
    form: str = "onnx",
    *,
    int8: bool = False,
    candidate: str | None = None,
    out: Path | None = None,
    most_points: float = POINTS,
    mlflow: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Exported:
    """Write the run's best student, or a finalist, for use elsewhere.

    Args:
        run: the run folder.
        form: of `FORMATS`.
        int8: beside the float ONNX file one in int8.
        candidate: a retrained finalist; None for the best.
        out: folder to create; `RUN/export/…` where None is given, which is replaced.
        most_points: of validation accuracy that int8 may lose.
        mlflow: log the ONNX model to the run's MLflow parent run.
        say: told what is being done.

    Raises:
        KdnasError: bad input, nothing was written.
        RunError: the file does not answer as the student does; nothing is left of it.
    """
    require_run(run)
    _check_form(form, int8, mlflow)
    name, source, row, training = _chosen(run, candidate)
    folder = out if out is not None else _default_folder(run, name, form, int8)
    _check_folder(folder, new=out is not None)
    config = run_config(run)
    if mlflow:
        _check_tracked(run, config)
    student, meta = load_student(source)
    data = load_data(config)
    _check_data(run, data, meta)
    model = complete(student, meta)
    about = _about(run, config, name, row, training, student, meta, data, form)
    about["input"]["preprocessing"] = _preprocessing(config)
    about["detection"] = _detection(config)
    about["data"]["test_speakers"] = _test_speakers(config)
    with whole_folder(folder) as draft:
        say(f"Exporting {name} as {form}")
        _write(draft, form, model, student, meta, about, data, config.task, say)
        if int8:
            say(f"Quantising to int8, calibrated on {about['data']['calibration']} training samples")
            _write_int8(draft, model, about, data, config, most_points, say)
        _write_about(draft, about)
    return Exported(folder, about, _tell_mlflow(run, config, folder, about) if mlflow else None)


def compare(expected: np.ndarray, found: np.ndarray, scale: Sequence[float] | str = "classes") -> Parity:
    """Parity of two sets of answers `[N, K]` or `[N, P, K + 5]`; `scale` as in `agreement`."""
    return Parity(
        len(expected),
        float(np.abs(expected - found).max()),
        float(np.abs(expected).max()),
        agreement(expected, found, scale),
    )


def agreement(expected: np.ndarray, found: np.ndarray, scale: Sequence[float] | str = "classes") -> float:
    """Share of equal predictions of two sets of logits `[N, K]`, of detectors `[N, P, K + 5]`.

    Args:
        expected: of one model.
        found: of the other.
        scale: `classes`: the largest logit counts; `labels`: each label's yes or no; `boxes`: at each place the yes or
            no of each class, and borders within a pixel; the deviations of values: equal is what differs by less than
            a hundredth of them.
    """
    if scale == "classes":
        return float((expected.argmax(axis=1) == found.argmax(axis=1)).mean())
    if scale == "labels":
        return float(((expected > 0) == (found > 0)).mean())
    if scale == "boxes":
        same = ((expected > 0) == (found > 0))[..., :-5].all(axis=2)
        near = np.abs(expected - found)[..., -5:-1].max(axis=2) < 1
        return float((same & near).mean())
    return float((np.abs(expected - found) <= 0.01 * np.asarray(scale)).mean())


def _check_form(form: str, int8: bool, mlflow: bool) -> None:
    if form not in FORMATS:
        close = difflib.get_close_matches(form, FORMATS, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise KdnasError("unknown format", field="--format", value=form, remedy=f"{hint}known: {', '.join(FORMATS)}")
    for asked, option in ((int8, "--int8"), (mlflow, "--mlflow")):
        if asked and form != "onnx":
            raise KdnasError(f"{form} has no such form here", field=option, remedy="choose --format onnx")
    missing = [package for package in NEEDED if form == "onnx" and importlib.util.find_spec(package) is None]
    if missing:
        raise KdnasError(
            f"needs {', '.join(missing)}, not installed here",
            field="--format",
            value=form,
            remedy='pip install "kdnas_ray[export]"',
        )


def _no_student(run: Path) -> KdnasError:
    problem = "it holds no best student (best/), because none was retrained in full"
    remedy = f"run `kdnas retrain {run}` first"
    if read_summary(run).get("evaluator") == "table":
        problem, remedy = "results were looked up in a table, so there are no weights", "search without the table"
    elif read_summary(run).get("status") not in ("finished", None):
        remedy = f"the search has not ended: run `kdnas resume {run}` first"
    return KdnasError(problem, field="RUN", value=str(run), remedy=remedy)


def _chosen(run: Path, candidate: str | None) -> tuple[str, Path, dict[str, Any], dict[str, Any]]:
    """Name, folder, line of candidates.jsonl and line of retrained.jsonl of the student that is exported."""
    ranked = [row["id"] for row in finalists(run)]
    kept = [name for name in ranked if kept_student(run, name)[0].is_dir()]
    rows = {row["id"]: row for row in read_jsonl(run / "candidates.jsonl")}
    if candidate is None:
        try:
            best = json.loads((run / "best" / "candidate.json").read_text(encoding="utf8"))
            return best["id"], run / "best", best, best["retrained"]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise _no_student(run) from error
    if candidate not in kept:
        known = "was not retrained in full" if candidate in rows else "no such candidate in this run"
        there = f"weights are kept of {', '.join(kept)}" if kept else "weights are kept of no candidate"
        raise KdnasError(
            known,
            field="--candidate",
            value=candidate,
            remedy=f"{there}; `kdnas retrain {run} --top N` retrains more of the best",
        )
    folder, training = kept_student(run, candidate)
    return candidate, folder, rows[candidate], training


def _default_folder(run: Path, name: str, form: str, int8: bool) -> Path:
    if Path(name).name != name:  # an altered run folder must not choose where this writes
        raise KdnasError("is no name of a candidate", field="RUN/best/candidate.json", value=name)
    return run / "export" / f"{name}-{form}{'-int8' if int8 else ''}"


def _check_folder(folder: Path, *, new: bool) -> None:
    if new and (folder.is_file() or (folder.exists() and any(folder.iterdir()))):
        raise KdnasError(
            "exists already and is not empty", field="--out", value=str(folder), remedy="choose another folder"
        )
    check_creatable(folder, "--out")


def _check_tracked(run: Path, config: SearchConfig) -> None:
    told = any(record["type"] == "search_started" for record in read_jsonl(run / tracking.OUTBOX))
    if not config.tracking.enabled or not told:
        raise KdnasError(
            "MLflow was not told of this run (tracking.enabled is false)",
            field="--mlflow",
            remedy="export without it, or search with tracking.enabled=true",
        )


def _check_data(run: Path, data: Data, meta: Mapping[str, Any]) -> None:
    known = read_summary(run).get("data") or read_teacher_facts(run).get("data")
    fits = list(data.shape) == list(meta["shape"]) and list(data.classes) == list(meta["classes"])
    if not fits or (known is not None and known != data.digest()):
        raise KdnasError(
            "the data are not those that the student learned from",
            field="RUN",
            value=str(run),
            remedy="put the data back where the run's config.yaml finds them: the file is checked on real samples",
        )


def _about(
    run: Path,
    config: SearchConfig,
    name: str,
    row: Mapping[str, Any],
    training: Mapping[str, Any],
    student: nn.Module,
    meta: Mapping[str, Any],
    data: Data,
    form: str,
) -> dict[str, Any]:
    found = next((row for row in finalists(run) if row["id"] == name), {})
    names = ("val_accuracy", "test_accuracy", "test_accuracy_without_kd")
    accuracy = {key: found.get(key) for name in names for key in (name, f"{name}_std")}
    accuracy["seeds"] = sum(row["id"] == name and row["with_kd"] for row in read_retrained(run))
    resolved, teacher = config.resolved(), read_teacher_facts(run)
    if "/" in str(teacher.get("name", "")):  # a path says more of this machine than of the teacher
        teacher["name"] = Path(teacher["name"]).name
    packages = {package: metadata.version(package) for package in NEEDED} if form == "onnx" else {}
    return {
        "name": name,
        "format": form,
        "task": meta.get("task", resolved["task"]["name"]),
        "classes": list(meta["classes"]),
        "input": {
            "name": onnx_files.PIXELS,
            "type": meta.get("dtype", "uint8"),
            "range": [0, 255] if meta.get("dtype", "uint8") == "uint8" else None,
            "shape": ["batch", *meta["shape"]],
            "seen": _seen(data),
            "source": getattr(config.task, "pixels", None),
        },
        "targets": config.task.targets,
        "metric": config.task.metric_name,
        "output": {"name": onnx_files.LOGITS, "type": "float32", "shape": ["batch", *_answer_shape(student, data)]},
        "normalisation": {"mean": meta["mean"], "std": meta["std"], "inside": form != "safetensors"},
        "space": meta["space"],
        "architecture": meta["architecture"],
        "notation": notation(config.space, Architecture.of(meta["architecture"])),
        "recipe": row["recipe"],
        **count_model(student, data.shape),
        "accuracy": accuracy,
        "teacher": teacher,
        "data": {
            "digest": data.digest(),
            "train": len(data.train),
            "validation": len(data.validation),
            "test": len(data.test),
            "labels": config.labels,
            "calibration": min(CALIBRATION, len(data.train)),
        },
        "searched": {key: value for key, value in row.items() if key.startswith(("latency", "memory")) and value},
        "seed": config.seed,
        "training_seed": training["seed"],
        "configuration": config_digest(resolved),
        "versions": {**versions(), **packages},
        "parity": {},
        "int8": None,
        "latency_ms": {},
        "bytes": {},
    }


def _answer_shape(student: nn.Module, data: Data) -> tuple[int, ...]:
    with torch.inference_mode():
        return tuple(student(torch.zeros(1, *data.shape)).shape[1:])


def _write(
    draft: Path,
    form: str,
    model: nn.Module,
    student: nn.Module,
    meta: dict[str, Any],
    about: dict[str, Any],
    data: Data,
    task: Task,
    say: Callable[[str], None],
) -> None:
    """Write the file in float and measure how it answers; both into `draft` and `about`."""
    images = data.validation.images[:COMPARED]
    with torch.inference_mode():
        expected = _run(model, images)
    if form == "onnx":
        path = draft / FLOAT
        dtype = torch.from_numpy(data.train.images[:0].copy()).dtype
        onnx_files.write_onnx(model, data.shape, path, onnx_files.as_metadata(about), dtype)
        found = onnx_files.answers(path, images)
        about["latency_ms"][FLOAT] = onnx_files.latency_ms(path, images[:1], say)
    elif form == "torch-export":
        path = draft / "student.pt2"
        _write_program(model, data, path, about)
        extra = {"about.json": ""}
        found = _run(torch.export.load(path, extra_files=extra).module(), images)
    else:
        path = draft / "weights.safetensors"
        save_student(draft, student, meta, onnx_files.as_metadata(about))
        again, its = load_student(draft)
        found = _run(complete(again, its), images)
    parity = compare(expected, found, _scale(task, data))
    if not parity.holds:
        raise RunError(
            f"the exported file does not answer as PyTorch does: largest difference of logits {parity.difference:.3g} "
            f"(allowed {TOLERANCE * max(1.0, parity.largest_logit):.3g}), {parity.agreement:.2%} equal predictions "
            f"on {parity.samples} samples (at least {AGREEMENT:.1%})",
            field="--format",
            value=form,
            remedy="nothing was kept; choose another format, and please report it",
        )
    about["parity"] = asdict(parity)
    about["bytes"][path.name] = path.stat().st_size
    with torch.inference_mode():
        about["accuracy"]["own_test_accuracy"] = _score(_run(model, data.test.images), data.test, task, data)


def _write_program(model: nn.Module, data: Data, path: Path, about: Mapping[str, Any]) -> None:
    example = (torch.zeros(2, *data.shape, dtype=torch.from_numpy(data.train.images[:0].copy()).dtype),)
    with onnx_files.quietly():
        try:
            program = torch.export.export(model, example, dynamic_shapes=({0: torch.export.Dim("batch")},))
        except Exception as error:  # torch and its compiler raise their own
            raise onnx_files.not_exportable(error, "torch-export") from error
        for module in program.graph_module.modules():
            for node in getattr(getattr(module, "graph", None), "nodes", ()):
                node.meta.pop("stack_trace", None)  # it names files of this machine
        torch.export.save(program, path, extra_files={"about.json": json.dumps(about)})


def _write_int8(
    draft: Path,
    model: nn.Module,
    about: dict[str, Any],
    data: Data,
    config: SearchConfig,
    most_points: float,
    say: Callable[[str], None],
) -> None:
    order = np.random.default_rng(config.seed).permutation(len(data.train))[:CALIBRATION]
    path = draft / INT8
    onnx_files.write_int8(draft / FLOAT, path, data.train.images[np.sort(order)], onnx_files.as_metadata(about))
    effect: dict[str, Any] = {"calibration_samples": len(order), "most_points": most_points}
    for name, split in (("validation", data.validation), ("test", data.test)):
        exact, rough = (onnx_files.answers(file, split.images) for file in (draft / FLOAT, path))
        effect[name] = {
            "samples": len(split),
            "float": _score(exact, split, config.task, data),
            "int8": _score(rough, split, config.task, data),
            "agreement": agreement(exact, rough, _scale(config.task, data)),
        }
    judged = effect["validation"]  # never the test split: it decides nothing
    lost = 100 * (judged["float"] - judged["int8"])
    if not lost <= most_points:
        raise RunError(
            f"int8 loses {lost:.2f} points of validation {config.task.metric_name} "
            f"({judged['float']:.2%} to {judged['int8']:.2%}, {judged['agreement']:.2%} equal predictions)",
            field="--most-points",
            value=most_points,
            remedy="nothing was kept; search with recipes.quantised=true, or allow more",
        )
    about["int8"] = effect
    about["latency_ms"][INT8] = onnx_files.latency_ms(path, data.validation.images[:1], say)
    about["bytes"][INT8] = path.stat().st_size


def _write_about(draft: Path, about: dict[str, Any]) -> None:
    """The card, and the same facts for machines; what was measured goes into the ONNX files too."""
    for name in (FLOAT, INT8):
        if (draft / name).exists():
            onnx_files.describe(draft / name, onnx_files.as_metadata(about))
    (draft / "about.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf8")
    (draft / "README.md").write_text(model_card(about), encoding="utf8")
    for module, needed in ((wav_to_pixels, about["input"]["preprocessing"]), (photo_to_boxes, about["detection"])):
        if not needed:
            continue
        source = Path(str(module.__file__))
        (draft / source.name).write_text(source.read_text(encoding="utf8"), encoding="utf8")


def _seen(data: Data) -> dict[str, list[float]]:
    """Least, mean and largest pixel of each channel of the training images: whoever feeds others is warned."""
    images = data.train.images
    return {
        "least": images.min(axis=(0, 2, 3)).tolist(),
        "mean": [round(255 * mean, 1) for mean in data.mean],
        "largest": images.max(axis=(0, 2, 3)).tolist(),
    }


def _preprocessing(config: SearchConfig) -> dict[str, Any] | None:
    """Numbers by which a recording becomes pixels, as `wav_to_pixels` reads them; None for other inputs."""
    make = getattr(config.task, "preprocessing", None)
    how = make(config.seed) if make is not None else None
    return asdict(how) if isinstance(how, LogMel) else None


def _detection(config: SearchConfig) -> dict[str, Any] | None:
    """Numbers by which a photo becomes pixels and answers boxes, as `photo_to_boxes` reads them; None for others."""
    if not isinstance(config.task, DetectionTask):  # another task of boxes may fit its images otherwise
        return None
    height, width = config.task.size
    return {
        "height": height,
        "width": width,
        "threshold": THRESHOLD,
        "iou": SAME,
        "candidates": CANDIDATES,
        "most": MOST,
    }


def _test_speakers(config: SearchConfig) -> list[str] | None:
    """Who speaks in the test split and in no other; None where that is not known, or nobody speaks."""
    speakers = config.task.speakers(config.seed) if isinstance(config.task, SpeechTask) else None
    return None if speakers is None else sorted(speakers[2])


def _tell_mlflow(run: Path, config: SearchConfig, folder: Path, about: Mapping[str, Any]) -> str | None:
    """Put the models into MLflow; what keeps it from them is returned, and `kdnas sync` tries again."""
    files = [name for name in (FLOAT, INT8) if (folder / name).exists()]
    place = str(folder.resolve())
    tracking.append(run, {"type": "exported", "folder": place, "files": files, "candidate": about["name"]})
    try:
        tracking.sync(run, config.tracking)
    except KdnasError as error:
        return f"{error.problem}; send it later: kdnas sync {run}"
    return None


def _run(model: Callable[[Tensor], Tensor], images: np.ndarray) -> np.ndarray:
    """Logits `[N, classes]` of a PyTorch model for images `[N, C, H, W]` uint8."""
    parts = [
        model(torch.from_numpy(np.array(images[start : start + 256]))).detach().numpy()
        for start in range(0, len(images), 256)
    ]
    return np.concatenate(parts)


def _score(answers: np.ndarray, split: Split, task: Task, data: Data) -> float:
    """The task's metric of answers `[N, K]`, values in their own units."""
    found = torch.from_numpy(answers)
    if data.target_std:
        found = (found - torch.tensor(data.target_mean)) / torch.tensor(data.target_std)
    return task.metric(found, torch.from_numpy(np.array(split.labels)))


def _scale(task: Task, data: Data) -> Sequence[float] | str:
    return data.target_std or task.targets
