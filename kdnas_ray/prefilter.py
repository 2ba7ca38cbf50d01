"""What is known of a candidate before training beyond its size? Proxies, as judge of proposals and as objectives."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from kdnas_ray.adapter import Sieve
from kdnas_ray.config import Prefilter, SearchConfig
from kdnas_ray.objectives import SIZES
from kdnas_ray.prepare import Plan
from search_spaces import KdnasError
from trainables.candidate import Candidate, build_model
from trainables.distill import Shared
from trainables.evaluators.base import Prepared
from trainables.loop import Normalise
from trainables.proxies import PROXIES, Probe

Judge = Callable[[Sequence[Candidate]], list[float]]


def make_sieve(config: SearchConfig, made: Plan, shared: Shared | None, prepared: Prepared) -> Sieve | None:
    """The configured judge; None where all proposals are trained.

    Args:
        config: of the search.
        made: its plan.
        shared: what every trial reads; None in a search on a table.
        prepared: what the evaluator gives to the search.
    """
    settings = config.prefilter
    if settings is None:
        return None
    judge = make_judge(settings.judge, settings.batch_size, made, shared, prepared)
    return Sieve(settings.judge, settings.propose, settings.keep, lambda candidates: _scored(judge, candidates))


def make_judge(name: str, samples: int, made: Plan, shared: Shared | None, prepared: Prepared) -> Judge:
    """Scores candidates before training, more is better.

    Args:
        name: a proxy, a number known before training, or `evaluator`.
        samples: on which a proxy scores.
        made: the search's plan.
        shared: what every trial reads; None in a search on a table.
        prepared: what the evaluator gives to the search.
    """
    if name in SIZES:
        return lambda candidates: [float(made.costs(candidate.architecture)[name]) for candidate in candidates]
    if name == "evaluator":
        judge = prepared.judge
        assert judge is not None
        return lambda candidates: judge([candidate.architecture for candidate in candidates])
    assert shared is not None
    probe = make_probe(shared, samples, made.config.seed)
    return _proxy_judge(name, shared, probe)


def make_scores(config: SearchConfig, shared: Shared) -> Callable[[Candidate], dict[str, float]]:
    """Computes of a candidate the proxies that are objectives; none where none is."""
    names = [name for name in config.objectives if name in PROXIES]
    if not names:
        return lambda candidate: {}
    probe = make_probe(shared, (config.prefilter or Prefilter()).batch_size, config.seed)
    judges = {name: _proxy_judge(name, shared, probe) for name in names}
    return lambda candidate: {name: _scored(judge, [candidate])[0] for name, judge in judges.items()}


def _proxy_judge(name: str, shared: Shared, probe: Probe) -> Judge:
    return lambda candidates: [proxy_score(name, shared, candidate, probe) for candidate in candidates]


def _scored(judge: Judge, candidates: Sequence[Candidate]) -> list[float]:
    """A score each; the lowest there is for a network that the judge cannot see through (one without an activation)."""
    try:
        return judge(candidates)
    except KdnasError:
        if len(candidates) == 1:
            return [-np.inf]
        return [score for candidate in candidates for score in _scored(judge, [candidate])]


def make_probe(shared: Shared, size: int, seed: int) -> Probe:
    """Training samples and what the teacher said of them, with all features that the bank keeps."""
    bank = shared.bank
    useful = np.flatnonzero(bank.useful(bank.logits.shape[1] > 0))
    chosen = np.sort(np.random.default_rng(seed).permutation(useful)[:size])
    batch = bank.batch(chosen, 0, bank.transforms(0), tuple(bank.taps))
    return Probe.of(batch, Normalise(shared.mean, shared.std))


def proxy_score(name: str, shared: Shared, candidate: Candidate, probe: Probe) -> float:
    """Score of the candidate's network before training; the lowest there is where it is not a number."""
    model = build_model(shared.space, candidate.architecture, shared.bank.shape, shared.classes, candidate.seed)
    with torch.random.fork_rng(devices=[]):
        score = PROXIES[name](model, probe)
    return score if np.isfinite(score) else -np.inf
