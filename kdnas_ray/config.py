"""What can be configured? The whole YAML as one strict model; unknown keys are errors."""

import copy
import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema

from kdnas_ray.hardware.devices import DeviceProfile, absolute, is_file
from kdnas_ray.hardware.lookup import find, own_names
from kdnas_ray.objectives import CONSTRAINABLE, OBJECTIVES, SIZES, full_name
from kdnas_ray.parsing import Choice, misspelt, plain, refusal, validated
from kdnas_ray.plain_yaml import load_yaml
from kdnas_ray.samplers import SAMPLERS
from kdnas_ray.samplers.base import several_objectives
from kdnas_ray.schedulers import SCHEDULERS
from kdnas_ray.stream_settings import StreamRecipes, StreamSettings, lighter
from kdnas_ray.tracking import TrackingSettings, shown_uri
from search_spaces import SPACES, KdnasError, first_line
from trainables.evaluators import EVALUATORS, Table
from trainables.proxies import PROXIES
from trainables.recipe import RECIPES, LabelsAlone, suited
from trainables.tasks import TASKS
from trainables.teachers import TEACHERS, check_order

INNER = {"task": (TASKS, "digits"), "teacher": (TEACHERS, "trained")}  # of a teacher that is wrapped around another
DEVICES = "devices"  # folder of a run with the profiles and models that the user gave as files
UNITS = {  # of numbers on a device: the unit's name, and a number in it
    "latency_ms": ("milliseconds", "0.5"),
    "memory_mb": ("megabytes", "0.02 for 20 kB"),
}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class BankSettings(_Section):
    """The knowledge bank: what the teachers say about the training data, computed once."""

    views: int = Field(strict=True, default=8, ge=1, le=1000)
    """Seeded augmented views kept; epoch e reads view e mod views; view 0 is not augmented."""
    pool: int | None = Field(strict=True, default=None, ge=1)
    """Feature maps are averaged down to at most so many places in height and width; null to keep them as they are."""
    top_k: int | None = Field(strict=True, default=None, ge=2)
    """Logits kept of each answer, for tasks with many classes; the others are rebuilt roughly; null to keep all."""
    max_bytes: int | None = Field(strict=True, default=None, ge=1)
    """Bytes of object store that the bank may take; null for no bound."""
    overflow: Literal["refuse", "online", "map"] = "refuse"
    """Above `max_bytes`: `refuse`, compute features `online` again and again, or `map` files that all workers read."""
    cache: Path | None = None
    """Folder for trained teachers and banks, shared by all runs (default: KDNAS_CACHE or ~/.cache/kdnas_ray)."""


class Bound(_Section):
    """A hard constraint, checked before any training; a bare number is its `max`."""

    WANTED: ClassVar[str] = (
        "give a number (the largest allowed), a share of the teacher's, {of_teacher: 0.1}, or, for a number on a "
        "device, {device: npu-small, max: 5}"  # for the refusal
    )
    max: float | None = Field(None, gt=0)
    """At most this number."""
    of_teacher: float | None = Field(None, gt=0)
    """At most this share of the teacher's number: 0.1 is a tenth."""
    device: str | None = None
    """Where latency_ms or memory_mb is meant; null for the first of `devices`."""

    @model_validator(mode="before")
    @classmethod
    def _number_is_max(cls, data: Any) -> Any:
        return {"max": data} if isinstance(data, (int, float)) and not isinstance(data, bool) else data

    @classmethod
    def __get_pydantic_json_schema__(cls, source: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, handler(source)]}

    @model_validator(mode="after")
    def _one_bound(self) -> "Bound":
        if self.max is None and self.of_teacher is None:
            raise ValueError("give `max` (a number) or `of_teacher` (a share of the teacher's)")
        return self


class Budget(_Section):
    """When the search ends: whichever comes first."""

    trials: int | None = Field(strict=True, default=40, ge=1)
    """Candidates to train; null for no bound."""
    wall_s: float | None = Field(None, gt=0)
    """Seconds the search phase may take; null for no bound."""

    @model_validator(mode="after")
    def _some_bound(self) -> "Budget":
        if self.trials is None and self.wall_s is None:
            raise ValueError("give `trials`, `wall_s` or both: without either the search never ends")
        return self


class Resources(_Section):
    """What one trial gets."""

    cpu: float = Field(1, ge=0.1)
    """CPU cores a trial; also its number of threads."""
    gpu: float = Field(0, ge=0)
    """GPUs a trial; a share such as 0.25 lets several trials use one."""
    workers: int | None = Field(strict=True, default=None, ge=1)
    """Trials at once; null for as many as the machine or cluster holds."""
    rung_s: float | None = Field(default=None, gt=0)
    """Seconds that a worker may take from one rung to the next before it counts as hanging; null for no limit."""
    checkpoints: str | None = None
    """URL (s3://bucket/folder) where workers hand on unfinished candidates; null for RUN/trials, which all must see."""
    pack: Literal["auto", "always", "never"] = "auto"
    """Trainings of one architecture as one; auto measures if that is faster. Name one to repeat a search exactly."""
    layout: Literal["auto", "contiguous", "channels_last"] = "auto"
    """How activations lie in memory; auto measures once a run which is faster. Name one to repeat a search exactly."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """What students compute in while they train; auto measures once a run, and is float32 on GPUs."""

    @field_validator("checkpoints")
    @classmethod
    def _without_keys(cls, url: str | None) -> str | None:
        if url is not None and (shown_uri(url) != url or "://" not in url):
            raise ValueError("give a URL such as s3://bucket/folder, without keys: those come from the environment")
        return url


class Prefilter(_Section):
    """A cheap judge before any training: of so many proposals of the sampler only the best are trained."""

    judge: str = "synflow"
    """A zero-cost proxy (`kdnas list proxies`), `params` or `flops` (more is better), or `evaluator`: its own."""
    propose: int = Field(strict=True, default=20, ge=1)
    """Candidates drawn from the sampler at a time."""
    keep: int = Field(strict=True, default=4, ge=1)
    """How many of them are trained."""
    batch_size: int = Field(strict=True, default=64, ge=4)
    """Training samples on which a proxy scores."""

    @model_validator(mode="before")
    @classmethod
    def _name_is_judge(cls, data: Any) -> Any:
        return {"judge": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _possible(self) -> "Prefilter":
        known = [*PROXIES, *SIZES, "evaluator"]
        if self.judge not in known:
            raise misspelt("unknown judge", "prefilter.judge", self.judge, known)
        if self.keep > self.propose:
            raise KdnasError(
                "more than are proposed", field="prefilter.keep", value=self.keep, remedy=f"at most {self.propose}"
            )
        return self


class Retrain(_Section):
    """The finalists: trained in full from scratch, with and without KD, and scored on the sealed test split."""

    top: int = Field(strict=True, default=3, ge=0)
    """How many; 0 to leave it out."""
    epochs: int | None = Field(strict=True, default=None, ge=1)
    """Length of the full training; null for the scheduler's max_epochs."""
    seeds: int = Field(strict=True, default=3, ge=1, le=1000)
    """Trainings of each finalist with different seeds; results are given with their spread."""
    generations: int = Field(strict=True, default=1, ge=1, le=100)
    """Born-again: each further generation is trained anew, taught by the one before it instead of the teacher."""
    least_tau: float = Field(0.3, ge=-1, le=1)
    """A search warns where an earlier ranking (of five or more) agrees with a later one to a smaller Kendall tau."""


class SearchConfig(_Section):
    """A whole search. Every key has a default that works on a laptop."""

    task: Annotated[Any, Choice(TASKS, "task", "digits")] = Field(default="digits", validate_default=True)
    labels: float = Field(1.0, gt=0, le=1)
    """Share of the training labels that is kept, of each class; the rest is learned from the teacher alone."""
    stream: StreamSettings | None = None
    """Classes that come in groups, one after the other (class-incremental learning); null where all are there."""
    teachers: list[Annotated[Any, Choice(TEACHERS, "teachers", "trained", INNER)]] = Field(
        default=["trained"], validate_default=True
    )
    """The first is the one that students are compared with, and whose inner features they may learn from."""
    bank: BankSettings = BankSettings()
    space: Annotated[Any, Choice(SPACES, "space", "resnet")] = Field(default="resnet", validate_default=True)
    recipes: Annotated[Any, Choice(RECIPES, "recipes", "simple")] = Field(default="simple", validate_default=True)
    evaluator: Annotated[Any, Choice(EVALUATORS, "evaluator", "scratch")] = Field(
        default="scratch", validate_default=True
    )
    prefilter: Prefilter | None = None
    """A cheap judge before any training; null to train all that is proposed."""
    sampler: Annotated[Any, Choice(SAMPLERS, "sampler", "tpe")] = Field(default="tpe", validate_default=True)
    recipes_each: int = Field(strict=True, default=1, ge=1, le=64)
    """Recipes tried with each architecture that is proposed; a worker trains these candidates as one where it pays."""
    scheduler: Annotated[Any, Choice(SCHEDULERS, "scheduler", "asha")] = Field(default="asha", validate_default=True)
    objectives: list[str] = ["val_accuracy"]
    """What is optimised, e.g. [val_accuracy] or [val_accuracy, params]; the first must be val_accuracy.

    Possible are params, flops, latency_ms and memory_mb on the first of `devices` or, as latency_ms/NAME, on another
    (less is better), and zero-cost proxies (more is better), see `kdnas list objectives`.
    """
    devices: list[str] = []
    """What candidates are to run on: names of `kdnas device list`, or profiles and models in files (YAML, JSON).

    For each, latency and memory of every candidate are modelled; those that a constraint names come by themselves.
    """
    constraints: dict[str, Bound] = {"params": Bound(of_teacher=0.01)}
    """Hard bounds on numbers known before training: params, flops, latency_ms, memory_mb.

    On a device, e.g. {latency_ms: {device: npu-small, max: 5}}, also operators that it lacks are refused.
    """
    budget: Budget = Budget()
    resources: Resources = Resources()
    retrain: Retrain = Retrain()
    tracking: TrackingSettings = TrackingSettings()
    seed: int = Field(strict=True, default=0, ge=0, lt=2**31)

    @field_validator("constraints", mode="before")
    @classmethod
    def _readable_bounds(cls, data: Any) -> Any:
        for name, bound in data.items() if isinstance(data, Mapping) else ():
            _check_bound(str(name), bound)
        return data

    @model_validator(mode="after")
    def _known_numbers(self) -> "SearchConfig":
        if len(self.teachers) == 1 and len(getattr(self.recipes, "ensembles", ())) > 1:
            # One teacher alone answers the same under every policy: no decision for the sampler.
            object.__setattr__(self, "recipes", dataclasses.replace(self.recipes, ensembles=("average",)))
        object.__setattr__(self, "recipes", suited(self.recipes, self.task.targets))
        if self.stream is not None:
            self._only_the_stream(self.stream)
        elif isinstance(self.evaluator, Table):
            self._only_the_table()
        elif not self.teachers:
            raise KdnasError("there is none", field="teachers", value=[], remedy="list at least one teacher")
        else:
            check_order(self.teachers)
        if self.recipes_each > 1 and (self.stream is not None or isinstance(self.evaluator, Table)):
            why = "a stream trains each candidate by itself" if self.stream is not None else "a table knows no recipes"
            raise KdnasError(why, field="recipes_each", value=self.recipes_each, remedy="leave it out")
        self._name_in_full()
        self._check_objectives()
        return self

    def _name_in_full(self) -> None:
        """Numbers on a device get its name, and every device is listed."""
        numbers = [*self.constraints, *self.objectives]
        mentioned = [bound.device or "" for bound in self.constraints.values()]
        mentioned += [name.partition("/")[2] for name in numbers]
        own = own_names([*self.devices, *filter(is_file, mentioned)])
        listed = {name: absolute(text) for text, name in own.items()}

        def full(name: str, device: str | None, bound: Mapping[str, float] | None = None) -> str:
            plain, slash, text = name.partition("/")
            named = plain + slash + own.get(text, text)
            return full_name(named, device and own.get(device, device), [*listed], bound)

        bounds: dict[str, Bound] = {}
        for name, bound in self.constraints.items():
            if name.partition("/")[0] not in CONSTRAINABLE:
                raise misspelt("cannot be constrained", "constraints", name, CONSTRAINABLE)
            named = full(name, bound.device, bound.model_dump(include={"max", "of_teacher"}, exclude_none=True))
            if named in bounds:
                raise KdnasError(
                    "bounded twice", field=f"constraints.{name}", value=named, remedy="keep the tighter of the two"
                )
            bounds[named] = bound.model_copy(update={"device": named.partition("/")[2] or None})
        objectives = [full(name, None) for name in self.objectives if self._known(name)]
        for name in (*bounds, *objectives):
            if "/" in name:
                listed.setdefault(own_name := name.partition("/")[2], own_name)
        formats: set[str] = set()
        for name, text in listed.items():
            if isinstance(self.evaluator, Table) and not is_file(text):
                continue  # a table has devices of its own: the plan looks there
            place = find(text)
            if isinstance(place, DeviceProfile):
                formats.add(place.dtype)
            elif f"memory_mb/{name}" in (*bounds, *objectives):
                raise KdnasError(
                    "a device that is known by measured latencies only",
                    field=f"memory_mb/{name}",
                    value=text,
                    remedy="bound memory on a device that has a profile (`kdnas device list`)",
                )
        if getattr(self.recipes, "quantised", False) is None:
            recipes = dataclasses.replace(self.recipes, quantised="int8" in formats)
            object.__setattr__(self, "recipes", recipes)
        found = {"constraints": bounds, "objectives": objectives, "devices": [*listed.values()]}
        for field, value in found.items():
            object.__setattr__(self, field, value)

    def _known(self, name: str) -> bool:
        if name.partition("/")[0] not in OBJECTIVES:
            raise misspelt("unknown objective", "objectives", name, list(OBJECTIVES))
        return True

    def _only_the_stream(self, stream: StreamSettings) -> None:
        """A student of a stream is its own teacher: the defaults that need another one are left out."""
        for name, nothing in (("teachers", []), ("constraints", {})):
            if name not in self.model_fields_set:
                object.__setattr__(self, name, nothing)
        object.__setattr__(self, "recipes", lighter(self.recipes))
        if self.teachers:
            raise KdnasError(
                "a student of a stream is taught by its own earlier self",
                field="teachers",
                value="set",
                remedy="leave teachers out",
            )
        stream.rungs(self.scheduler.rungs())

    @property
    def recipe_space(self) -> Any:
        """What recipes are drawn from: `recipes`, with the decisions of the stream where there is one."""
        return self.recipes if self.stream is None else StreamRecipes(self.recipes, self.stream)

    def rungs(self) -> tuple[int, ...]:
        """Epochs at which a trial reports: the scheduler's, in a stream each at the end of a group."""
        found = self.scheduler.rungs()
        return found if self.stream is None else self.stream.rungs(found)

    def _only_the_table(self) -> None:
        """A table knows neither teachers nor recipes: those that were not asked for are left out."""
        published = getattr(type(self.space), "PUBLISHED", {})
        if (
            published and self.space == type(self.space)()
        ):  # a table's sizes are those of the networks that its benchmark trained
            object.__setattr__(self, "space", type(self.space)(**published))
        for name, nothing in (("recipes", LabelsAlone()), ("teachers", []), ("constraints", {})):
            if name not in self.model_fields_set:
                object.__setattr__(self, name, nothing)
        for name, wrong in (("teachers", self.teachers), ("recipes", not isinstance(self.recipes, LabelsAlone))):
            if wrong:
                raise KdnasError(
                    "a table of results knows none",
                    field=name,
                    value="set",
                    remedy=f"leave {name} out, or train candidates with evaluator=scratch",
                )

    def _check_objectives(self) -> None:
        if self.objectives[:1] != ["val_accuracy"] or len(set(self.objectives)) < len(self.objectives):
            raise KdnasError(
                "val_accuracy comes first and nothing comes twice",
                field="objectives",
                value=self.objectives,
                remedy="for example [val_accuracy] or [val_accuracy, params]",
            )
        if "forgetting" in self.objectives and self.stream is None:
            raise KdnasError(
                "nothing is forgotten where all classes are there from the start",
                field="objectives",
                value="forgetting",
                remedy="add a stream, such as stream.groups=5",
            )
        proxies = [name for name in self.objectives if name in PROXIES]
        if proxies and isinstance(self.evaluator, Table):
            raise KdnasError(
                "a table has no samples to score networks on",
                field="objectives",
                value=proxies[0],
                remedy=f"choose {' or '.join(SIZES)} beside val_accuracy",
            )
        if len(self.objectives) > 1 and not getattr(self.sampler, "several_objectives", True):
            raise several_objectives(SAMPLERS.name_of(self.sampler))

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise refusal(error, SearchConfig, "") from error

    def resolved(self) -> dict[str, Any]:
        """Plain nested dictionary with every default filled in, paths absolute; `read` takes it back."""
        return plain(self.model_dump())


def _check_bound(name: str, bound: Any) -> None:
    """Refuses what one could take for a way to write a bound, where it can be said better than by its type alone."""
    plain, field = name.partition("/")[0], f"constraints.{name}"
    parts = bound if isinstance(bound, Mapping) else {"max": bound}
    if plain in UNITS and isinstance(parts.get("max"), str) and not _is_number(parts["max"]):
        unit, example = UNITS[plain]
        raise KdnasError(
            "is not a number",
            field=field if parts is not bound else f"{field}.max",
            value=parts["max"],
            remedy=f"give a number without a unit, which is part of the key's name: {unit}, {field}={example}",
        )
    keys = [str(key) for key in parts]
    known = [key for key in keys if difflib.get_close_matches(key, Bound.model_fields, n=1)]
    if plain in UNITS and (isinstance(bound, list) or (keys and not known)):
        several = f"'constraints={{{plain}/npu-small: 0.5, {plain}/cortex-m7: 3}}'"
        raise KdnasError("is no bound", field=field, value=bound, remedy=f"one for each of several devices: {several}")
    if parts is bound and "device" in keys and set(keys) <= {"device"}:
        remedy = "give `max` (a number) or `of_teacher` (a share of the teacher's) beside the device"
        raise KdnasError("is no bound", field=field, value=bound, remedy=remedy)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def read(data: Mapping[str, Any] | None = None, overrides: Sequence[str] = ()) -> SearchConfig:
    """Configuration from plain data and `key.path=value` overrides.

    Raises:
        KdnasError: names the key, the value and what would be valid.
    """
    merged: dict[str, Any] = copy.deepcopy(dict(data or {}))
    for override in overrides:
        _override(merged, override)
    for key in merged:
        if not isinstance(key, str):
            raise misspelt("unknown key", str(key), merged[key], list(SearchConfig.model_fields))
    return validated(SearchConfig, merged, "")


def read_file(path: Path, overrides: Sequence[str] = ()) -> SearchConfig:
    """Configuration from a YAML file.

    Raises:
        KdnasError: the file is missing, is not YAML, or holds something invalid.
    """
    try:
        data = load_yaml(path.read_text(encoding="utf8"))
    except (OSError, UnicodeDecodeError) as error:
        raise KdnasError(
            f"cannot be read ({first_line(error)})",
            field="CONFIG",
            value=str(path),
            remedy="`kdnas init` writes a configuration; an override is key=value",
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" in line {where.line + 1}" if where else ""
        problem = getattr(error, "problem", None)
        why = f" ({problem})" if problem else ""
        raise KdnasError(f"is not valid YAML{line}{why}", field="CONFIG", value=str(path)) from error
    if data is not None and not isinstance(data, Mapping):
        raise KdnasError("holds no keys", field="CONFIG", value=str(path), remedy="see `kdnas init`")
    return read(beside(path.parent, data or {}), overrides)


def beside(folder: Path, data: Mapping[str, Any]) -> dict[str, Any]:
    """Plain data whose `devices/FILE` are found in this folder: there a run keeps them, wherever it is moved."""
    devices = data.get("devices")
    if not isinstance(devices, list):
        return dict(data)

    def placed(text: Any) -> Any:
        inside = isinstance(text, str) and Path(text).parent == Path(DEVICES) and (folder / text).is_file()
        return str((folder / text).absolute()) if inside else text

    return {**data, "devices": [placed(text) for text in devices]}


def json_schema() -> dict[str, Any]:
    """JSON schema of the configuration."""
    return SearchConfig.model_json_schema()


def _override(data: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        remedy = "for example budget.trials=50"
        raise KdnasError("an override is key.path=value", field="override", value=override, remedy=remedy)
    try:
        value = load_yaml(text)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:  # ValueError: a date that does not exist
        raise KdnasError(
            "the value is not valid YAML", field=path, value=text, remedy="text with odd signs goes in quotes"
        ) from error
    here: Any = data
    for key, following in zip(keys, [*keys[1:], None], strict=True):
        step: Any = int(key) if isinstance(here, list) and key.isdecimal() else key
        if isinstance(here, list) and not isinstance(step, int):
            raise KdnasError("a list is addressed by numbers", field=path, value=key, remedy="for example teachers.0")
        if isinstance(step, int) and step > len(here):
            raise KdnasError("the list is not that long", field=path, value=step, remedy="override the whole list")
        if isinstance(step, int) and step == len(here):
            here.append({})
        if following is None:
            here[step] = value
            return
        child = here[step] if isinstance(step, int) else here.get(step)
        if key in CONSTRAINABLE and isinstance(child, (int, float)):  # `params: 5000` written short
            child = {"max": child}
        if key == "prefilter" and isinstance(child, str):
            child = {"judge": child}
        if isinstance(child, str):  # `space: resnet` written short: keep the name, add the option
            child = {"name": child}
        if not isinstance(child, (dict, list)):
            child = [] if following.isdecimal() else {}
        here[step] = child
        here = child
