"""Does every space, sampler, evaluator and judge carry a whole search on digits? One Ray for all of them."""

import pytest

from kdnas_ray import search
from kdnas_ray.config import read
from kdnas_ray.live import Narrator
from kdnas_ray.samplers import SAMPLERS
from search_spaces import SPACES

pytestmark = pytest.mark.pairs

SMALL = {
    "teachers": [{"name": "trained", "stem": 8, "widths": [8, 12, 16], "depths": [1, 1, 1], "epochs": 2}],
    "bank": {"views": 2},
    "recipes": {"learning_rate": [0.01, 0.05]},
    "scheduler": {"name": "asha", "max_epochs": 2, "grace_epochs": 1, "reduction_factor": 2},
    "constraints": {"params": 100_000},
    "budget": {"trials": 4},
    "retrain": {"top": 1, "epochs": 1, "seeds": 1},
    "tracking": {"enabled": False},
    "resources": {"workers": 2},
}
NARROW = {"nasbench_macro": {"name": "nasbench_macro", "stem_width": 4, "widths": [4, 6, 8], "head_width": 0}}
SHORT = {
    "supernet": {"name": "supernet", "epochs": 2},
    "gradient": {"name": "gradient", "epochs": 1, "proposals": 2},
    "blocks": {"name": "blocks", "pool": 3, "epochs": 1, "proposals": 2},
}
SHARING = [name for name, space in SPACES.items() if hasattr(space, "assemble")]
PAIRS = [
    *[{"space": NARROW.get(name, name)} for name, space in SPACES.items() if not hasattr(space, "answers")],
    *[{"sampler": name} for name in SAMPLERS],
    *[{"space": NARROW.get(name, name), "evaluator": SHORT[e]} for name in SHARING for e in ("supernet", "gradient")],
    *[{"space": name, "evaluator": SHORT["blocks"]} for name in ("resnet", "mobilenet", "vit_tiny", "nasbench201")],
    *[
        {"space": "nasbench201", "prefilter": {"judge": name, "propose": 4, "keep": 2}}
        for name in ("naswot", "diswot", "params")
    ],
    {
        "space": "nasbench201",
        "evaluator": SHORT["supernet"],
        "prefilter": {"judge": "evaluator", "propose": 4, "keep": 2},
    },
    {"evaluator": SHORT["blocks"], "prefilter": {"judge": "evaluator", "propose": 4, "keep": 2}},
    *[{"objectives": ["val_accuracy", "params"], "sampler": name} for name in ("nsga2", "nsga3", "evolution")],
    {"recipes": "labels"},
]


def named(pair: dict) -> str:
    parts = [value if isinstance(value, str) else value.get("name", value.get("judge")) if isinstance(value, dict)
             else "+".join(value) for value in pair.values()]  # fmt: skip
    return "-".join(parts)


@pytest.mark.parametrize("pair", PAIRS, ids=named)
def test_pair_carries_a_whole_search(pair, tmp_path, one_ray):
    result = search(read({**SMALL, **pair}), tmp_path / "run", Narrator())
    summary = result.summary
    assert summary["completed"] + summary["pruned"] == 4
    assert summary["failed"] == 0
    assert summary["best"]["test_accuracy"] is not None
