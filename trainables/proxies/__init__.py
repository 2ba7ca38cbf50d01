"""Every score of an untrained model that may stand for its result; a new one is a function and one line here.

Parameters and FLOPs, which are proxies too, are counted by `kdnas_ray.hardware`.
"""

from search_spaces import Registry
from trainables.proxies.base import Need, Probe, Proxy
from trainables.proxies.diswot import diswot, diswot_relation, diswot_semantic
from trainables.proxies.kernels import jacob_cov, naswot
from trainables.proxies.saliency import fisher, grad_norm, grasp, snip, synflow, zico

PROXIES: Registry[Proxy] = Registry(
    "proxy",
    ("synflow", Proxy(synflow)),
    ("snip", Proxy(snip, ("images", "labels"))),
    ("grad_norm", Proxy(grad_norm, ("images", "labels"))),
    ("grasp", Proxy(grasp, ("images", "labels"))),
    ("fisher", Proxy(fisher, ("images", "labels"))),
    ("zico", Proxy(zico, ("images", "labels"))),
    ("jacob_cov", Proxy(jacob_cov, ("images",))),
    ("naswot", Proxy(naswot, ("images",))),
    ("diswot", Proxy(diswot, ("images", "labels", "logits", "taps"))),
    ("diswot_semantic", Proxy(diswot_semantic, ("images", "labels", "logits", "taps"))),
    ("diswot_relation", Proxy(diswot_relation, ("images", "taps"))),
)

__all__ = ["PROXIES", "Need", "Probe", "Proxy"]
