"""How are candidates proposed? Always by an Optuna sampler."""

from kdnas_ray.samplers.advised import Advised
from kdnas_ray.samplers.base import Around, Constraints, Row
from kdnas_ray.samplers.cmaes import CMAES
from kdnas_ray.samplers.evolution import Evolution
from kdnas_ray.samplers.gp import GP
from kdnas_ray.samplers.local import Local
from kdnas_ray.samplers.nsga2 import NSGA2
from kdnas_ray.samplers.nsga3 import NSGA3
from kdnas_ray.samplers.predictor import Predictor
from kdnas_ray.samplers.random_search import Random
from kdnas_ray.samplers.reinforce import Reinforce
from kdnas_ray.samplers.tpe import TPE
from search_spaces import Registry

__all__ = ["SAMPLERS", "Around", "Constraints", "Row"]

SAMPLERS: Registry[type] = Registry(
    "sampler",
    ("tpe", TPE),
    ("random", Random),
    ("gp", GP),
    ("nsga2", NSGA2),
    ("nsga3", NSGA3),
    ("cmaes", CMAES),
    ("evolution", Evolution),
    ("local", Local),
    ("reinforce", Reinforce),
    ("predictor", Predictor),
    ("advised", Advised),
    needs=("make",),
)
