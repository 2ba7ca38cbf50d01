"""What can be named in a configuration? (`kdnas list …`)"""

from kdnas_ray.objectives import OBJECTIVES
from kdnas_ray.samplers import SAMPLERS
from kdnas_ray.schedulers import SCHEDULERS
from search_spaces import SPACES, Registry
from trainables.ensembles import ENSEMBLES
from trainables.evaluators import EVALUATORS
from trainables.losses import LOSSES
from trainables.matching import MATCHES
from trainables.recipe import RECIPES
from trainables.schedules import SCHEDULES
from trainables.tasks import TASKS
from trainables.teachers import TEACHERS
from trainables.weighting import ALPHAS, TEMPERATURES, WEIGHTINGS

CATALOGUE: Registry[Registry] = Registry(
    "kind of entry",
    ("spaces", SPACES),
    ("tasks", TASKS),
    ("teachers", TEACHERS),
    ("recipes", RECIPES),
    ("losses", LOSSES),
    ("matches", MATCHES),
    ("alpha", ALPHAS),
    ("temperature", TEMPERATURES),
    ("ensembles", ENSEMBLES),
    ("samplers", SAMPLERS),
    ("schedulers", SCHEDULERS),
    ("evaluators", EVALUATORS),
    ("objectives", OBJECTIVES),
)


def catalogue(kind: str) -> list[dict[str, str]]:
    """Name, summary and source of every entry of this kind.

    Raises:
        KdnasError: unknown kind; lists the known ones.
    """
    rows = CATALOGUE[kind].describe()
    if kind == "alpha":  # three keys take these names
        return [row | {"key": f"recipes.{_alpha_key(row['name'])}"} for row in rows]
    return rows


def _alpha_key(name: str) -> str:
    return "alpha_schedules" if name in SCHEDULES else "weightings" if name in WEIGHTINGS else "alpha_by_size"
