"""How does plain data become validated settings, and how is a mistake told?"""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args, get_origin

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, core_schema

from kdnas_ray.tracking import shown_uri
from search_spaces import KdnasError, Registry
from search_spaces.registry import missing

WANTED = {  # pydantic's name for a mistake: what to write instead
    "tuple_type": "give a list, such as [0.3, 0.9]",
    "list_type": "give a list, in brackets: [a, b]",
    "string_type": "give a text",
    "finite_number": "give a finite number",
    "int_type": "give a whole number",
    "int_parsing": "give a whole number",
    "int_from_float": "give a whole number",
    "float_type": "give a number",
    "float_parsing": "give a number",
    "bool_type": "give true or false",
    "bool_parsing": "give true or false",
    "greater_than": "choose more than {gt:g}",
    "greater_than_equal": "choose {ge:g} or more",
    "less_than": "choose less than {lt:g}",
    "less_than_equal": "choose {le:g} or less",
    "literal_error": "choose one of {expected}",
}
UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")  # pydantic's names for it


class Choice:
    """Annotation for `name` or `{name: …, option: …}`; the value is the entry's validated dataclass.

    Args:
        registry: what can be named.
        field: where it stands in the configuration.
        default: the name where only options are given.
        inner: options that are choices themselves: of which registry, and its default.
    """

    def __init__(
        self,
        registry: Registry[type],
        field: str,
        default: str,
        inner: Mapping[str, tuple[Registry[type], str]] = MappingProxyType({}),
    ) -> None:
        self._registry, self._field, self._default, self._inner = registry, field, default, inner

    def parse(self, value: Any) -> Any:
        """The entry that the value names, made with its options."""
        if type(value) in self._registry.values() or (self._registry.needs and _made(value, self._registry)):
            return value
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, Mapping):
            raise KdnasError(
                f"give a name or an object with `name` and options, not {type(value).__name__}",
                field=self._field,
                value=value,
                remedy=f"known names: {', '.join(self._registry)}",
            )
        options = dict(value)
        name = options.pop("name", self._default)
        if not isinstance(name, str) or not (name in self._registry or (self._registry.needs and ":" in name)):
            raise misspelt(f"unknown {self._registry.kind}", self._field, name, list(self._registry))
        try:
            entry = self._registry[name]
        except KdnasError as error:
            raise KdnasError(error.problem, field=self._field, value=name, remedy=error.remedy) from error
        self._check_keys(name, entry, options)
        for option, choice in self._inside(entry).items():
            if option in options:
                options[option] = choice.parse(options[option])
        return validated(entry, _listed(entry, options), self._field)

    def _check_keys(self, name: str, entry: type, options: Mapping[str, Any]) -> None:
        """Refuses an option that the entry lacks; `task.path=x` alone wants another task than the default."""
        known = _keys(entry)
        for option in options:
            if known and option not in known:
                path, others = f"{self._field}.{option}", [n for n, e in self._registry.items() if option in _keys(e)]
                close = difflib.get_close_matches(option, known, n=1, cutoff=0.8)
                if close or not others:
                    raise misspelt("unknown key", path, options[option], known, option)
                raise KdnasError(
                    f"unknown key of {name}",
                    field=path,
                    value=options[option],
                    remedy=f"known to {', '.join(others)} ({self._field}={others[0]}); to {name}: {', '.join(known)}",
                )

    def dump(self, value: Any) -> dict[str, Any]:
        """Name and options of the entry; `parse` takes it back."""
        inside = {option: choice.dump(getattr(value, option)) for option, choice in self._inside(type(value)).items()}
        return {"name": self._registry.name_of(value), **dataclasses.asdict(value), **inside}

    def _inside(self, entry: type) -> dict[str, "Choice"]:
        """The options of an entry that are choices themselves."""
        names = {field.name for field in dataclasses.fields(entry)} & set(self._inner)
        return {
            name: Choice(registry, f"{self._field}.{name}", default, self._inner)
            for name, (registry, default) in self._inner.items()
            if name in names
        }

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        dumped = core_schema.plain_serializer_function_ser_schema(self.dump)
        return core_schema.no_info_plain_validator_function(self.parse, serialization=dumped)

    def __get_pydantic_json_schema__(self, source: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schemas: list[dict[str, Any]] = [{"enum": list(self._registry)}]
        if self._registry.needs:  # a user's own, by import path
            path = {"type": "string", "pattern": r"^[\w.]+:[\w.]+$"}
            schemas += [path, {"type": "object", "properties": {"name": path}, "required": ["name"]}]
        for name, entry in self._registry.items():
            schema = _inlined(TypeAdapter(_strict(entry)).json_schema())
            schema["properties"] = {"name": {"const": name}, **schema.get("properties", {})}
            schemas.append(schema)
        return {"anyOf": schemas, "default": self._default}


def _made(value: Any, registry: Registry[type]) -> bool:
    """Whether the value is an instance of a user's own entry."""
    return not isinstance(value, (str, Mapping, type)) and not missing(type(value), registry.needs)


def validated(target: Any, value: Any, field: str) -> Any:
    """The value as this type.

    Raises:
        KdnasError: it is none of it; `field` is where it stands.
    """
    try:
        return TypeAdapter(_strict(target)).validate_python(value)
    except ValidationError as error:
        raise refusal(error, target, field) from error


def refusal(error: ValidationError, target: Any, field: str) -> KdnasError:
    """pydantic's error in our words: one field, its value and a remedy."""
    # A misspelt key comes first: it also leaves the right one missing.
    first = min(error.errors(), key=lambda found: found["type"] not in UNKNOWN_KEY)
    path = ".".join(part for part in (field, *map(str, first["loc"])) if part)
    if first["type"] in UNKNOWN_KEY:
        owner = _owner(target, first["loc"][:-1])
        return misspelt("unknown key", path, first["input"], _keys(owner), str(first["loc"][-1]))
    if first["type"] in ("missing", "missing_argument"):
        return KdnasError("is required", field=path, remedy="give it a value")
    wanted = WANTED.get(first["type"])
    message = wanted.format(**first.get("ctx", {})) if wanted else first["msg"].removeprefix("Value error, ")
    if first["type"] in ("model_type", "dataclass_type"):
        message = f"give an object with keys of: {', '.join(_keys(_owner(target, first['loc'])))}"
        message = getattr(_owner(target, first["loc"]), "WANTED", message)
    value = None if isinstance(first["input"], (dict, BaseModel)) else first["input"]
    value = shown_uri(value) if isinstance(value, str) else value
    return KdnasError("invalid value", field=path, value=value, remedy=message)


def _listed(entry: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with a single value where a list is meant: `alpha=0.5` fixes a range, `losses=dkd` a choice."""
    kinds = {field.name: field.type for field in dataclasses.fields(entry)}
    found = dict(options)
    for name, value in options.items():
        if get_origin(kinds.get(name)) is tuple and isinstance(value, (str, int, float)):
            parts = get_args(kinds[name])
            found[name] = [value] * (1 if Ellipsis in parts else len(parts))
    return found


def plain(value: Any) -> Any:
    """The value as YAML writes it: tuples as lists, paths absolute."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    # A run can be resumed from another folder.
    return str(value.expanduser().absolute()) if isinstance(value, Path) else value


def misspelt(problem: str, field: str, value: Any, known: Sequence[str], key: str | None = None) -> KdnasError:
    """The refusal of a name, with the closest known one and all others."""
    close = difflib.get_close_matches(key or str(value), known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return KdnasError(problem, field=field, value=value, remedy=f"{hint}known: {', '.join(known)}")


def _strict(target: Any) -> Any:
    """The target, its dataclasses refusing unknown keys."""
    if dataclasses.is_dataclass(target) and "__pydantic_config__" not in vars(target):
        setattr(target, "__pydantic_config__", {"extra": "forbid", "allow_inf_nan": False})  # noqa: B010 (not a field of the type)
        for field in dataclasses.fields(target):
            _strict(field.type)
    return target


def _owner(target: Any, path: Sequence[Any]) -> Any:
    for part in path:
        fields = target.model_fields if _is_model(target) else getattr(target, "__dataclass_fields__", {})
        if part in fields:
            found = fields[part]
            target = found.annotation if _is_model(target) else found.type
            target = next((part for part in get_args(target) if _is_model(part)), target)  # of `X | None`
        elif get_args(target):  # the values of a dictionary or list
            target = get_args(target)[-1]
    return target


def _keys(target: Any) -> list[str]:
    if _is_model(target):
        return list(target.model_fields)
    return [field.name for field in dataclasses.fields(target)] if dataclasses.is_dataclass(target) else []


def _is_model(target: Any) -> bool:
    return isinstance(target, type) and issubclass(target, BaseModel)


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema without `$defs`: references into it would point nowhere once it is part of another."""
    definitions = schema.pop("$defs", {})

    def resolve(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return resolve(definitions[node["$ref"].rsplit("/", 1)[-1]])
            return {key: resolve(value) for key, value in node.items()}
        return [resolve(item) for item in node] if isinstance(node, list) else node

    return resolve(schema)
