"""Find the smallest network that keeps your teacher's accuracy: architecture and distillation searched together."""

from typing import TYPE_CHECKING, Any

from search_spaces.errors import KdnasError, RunError

if TYPE_CHECKING:
    from kdnas_ray.config import SearchConfig
    from kdnas_ray.driver import resume, search
    from kdnas_ray.results import SearchResult

__version__ = "0.1.0"
__all__ = ["KdnasError", "RunError", "SearchConfig", "SearchResult", "resume", "search"]

# Names are imported on first use: `kdnas --version` must not wait for Ray.
_HOMES = {
    "SearchConfig": "kdnas_ray.config",
    "SearchResult": "kdnas_ray.results",
    "resume": "kdnas_ray.driver",
    "search": "kdnas_ray.driver",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
