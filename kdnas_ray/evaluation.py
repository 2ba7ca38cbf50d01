"""How is an evaluator prepared before the search: supernet, architecture weights, block library?"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayTaskError

from kdnas_ray.adapter import Stop
from kdnas_ray.config import Resources
from kdnas_ray.prepare import Plan
from search_spaces import KdnasError, RunError, first_line
from trainables.distill import Shared
from trainables.evaluators.base import Prepared, Workshop


def prepare_evaluator(
    run: Path, made: Plan, shared: Shared, reference: ray.ObjectRef, say: Callable[[str], None], stop: Stop
) -> Prepared:
    """What the evaluator gives to the search; computed on Ray's workers, once a run.

    Raises:
        RunError: it failed while computing.
    """

    workshop = Workshop(
        shared=shared,
        reference=reference,
        each=lambda function, arguments: _each(function, arguments, made.config.resources, stop),
        keeps=made.keeps,
        folder=run / "evaluator",
        seed=made.config.seed,
        say=say,
    )
    return made.config.evaluator.prepare(workshop)


def _each(function: Callable[..., Any], arguments: Sequence[tuple], resources: Resources, stop: Stop) -> list[Any]:
    remote = ray.remote(num_cpus=resources.cpu, num_gpus=resources.gpu, max_retries=2)(function)
    references = [remote.remote(*values) for values in arguments]
    waiting = list(references)
    try:
        while waiting and stop.reason != "interrupt":
            _, waiting = ray.wait(waiting, timeout=0.5)
        if waiting:
            raise KeyboardInterrupt
        return ray.get(references)
    except RayTaskError as error:
        cause = error.cause if isinstance(error.cause, Exception) else error
        if isinstance(cause, KdnasError):
            raise cause from error
        raise RunError(
            f"could not be prepared ({first_line(cause)})", field="evaluator", remedy="see search.log in the run folder"
        ) from error
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)
