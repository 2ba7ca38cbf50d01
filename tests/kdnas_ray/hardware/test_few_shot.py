"""Specification of `kdnas_ray.hardware.few_shot`: devices made up of costs by operation, and the real table."""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from kdnas_ray.hardware.few_shot import (
    Trust,
    columns_of,
    describe,
    fit,
    known_devices,
    load,
    predict,
    propose,
    save,
    trust,
    trust_words,
)
from search_spaces import Architecture, KdnasError, NASBench201Space, sample
from search_spaces.nasbench201 import OPERATIONS

SPACE = NASBench201Space()
TABLE = Path(__file__).parents[4] / "shared" / "data" / "nas_bench_201" / "nas_bench_201.parquet"


def cells(count: int, seed: int = 0) -> list[Architecture]:
    rng = random.Random(seed)
    return list(dict.fromkeys(sample(SPACE, rng) for _ in range(count)))


def device(architectures, seed: int, noise: float = 0.0) -> np.ndarray:
    """Milliseconds: a cost for each operation, the same on every edge."""
    rng = np.random.default_rng(seed)
    costs = rng.lognormal(0.0, 1.0, 5)
    chosen = np.array([[OPERATIONS.index(str(op)) for op in a.values()] for a in architectures])
    return (2.0 + costs[chosen].sum(axis=1)) * np.exp(noise * rng.standard_normal(len(chosen)))


@pytest.fixture(scope="module")
def world():
    """600 cells, and what six other devices say about them."""
    every = cells(600)
    known = known_devices(every, np.log([device(every, seed, 0.05) for seed in range(1, 7)]))
    return every, known


@pytest.mark.parametrize("seed", [101, 102, 103])
@pytest.mark.parametrize(("noise", "least"), [(0.0, 0.97), (0.05, 0.9)])
def test_fit_when_twenty_are_measured_then_ranks_all_others(world, seed, noise, least):
    every, known = world
    taken = propose(known, every[:300], 20)
    measured = device(every, seed, noise)
    model = fit(known, [every[i] for i in taken], measured[taken], space="nasbench201")
    rest = np.setdiff1d(np.arange(len(every)), taken)
    predicted = model.latencies_ms(every)[rest]
    assert spearmanr(predicted, device(every, seed)[rest]).statistic > least, f"seed {seed}"
    assert np.median(np.abs(predicted / device(every, seed)[rest] - 1)) < 0.15, f"seed {seed}"


def test_fit_when_all_is_slower_by_a_factor_then_predicts_the_same_factor(world):
    every, known = world
    taken, measured = every[:20], device(every[:20], 101)
    once = fit(known, taken, measured, space="nasbench201").latencies_ms(every)
    assert fit(known, taken, 1000 * measured, space="nasbench201").latencies_ms(every) == pytest.approx(1000 * once)


def test_proposal_when_made_then_differs_and_is_repeatable(world):
    every, known = world
    taken = propose(known, every, 20)
    assert len(set(taken)) == 20
    assert propose(known, every, 20) == taken
    assert taken != list(range(20))


def test_proposal_when_measurements_are_noisy_then_teaches_more_than_random_ones(world):
    every, known = world
    scores = []
    for chosen in (
        propose(known, every, 20),
        *(np.random.default_rng(s).permutation(len(every))[:20] for s in range(5)),
    ):
        models = [
            fit(known, [every[i] for i in chosen], device(every, seed, 0.1)[chosen], space="nasbench201")
            for seed in range(101, 106)
        ]
        truths = [device(every, seed) for seed in range(101, 106)]
        pairs = zip(models, truths, strict=True)
        scores.append(np.mean([spearmanr(model.latencies_ms(every), true).statistic for model, true in pairs]))
    assert scores[0] > np.mean(scores[1:]), scores


@pytest.mark.parametrize("count", [4, 601])
def test_proposal_when_there_are_too_few_or_too_many_then_says_how_many_can_be(world, count):
    every, known = world
    with pytest.raises(KdnasError, match="count"):
        propose(known, every, count)


@pytest.mark.parametrize(
    ("latencies", "words"),
    [
        ([1.0] * 4, "too few"),
        ([1.0] * 6, "the same"),
        ([1.0, 2, 3, 4, 5, 0], "positive"),
        ([1.0] * 5 + [np.nan], "pos"),
    ],
)
def test_fit_when_latencies_are_no_measurements_then_refuses(world, latencies, words):
    every, known = world
    with pytest.raises(KdnasError, match=words):
        fit(known, every[: len(latencies)], latencies, space="nasbench201")


def test_known_devices_when_one_tells_nothing_or_has_gaps_then_refuses():
    every = cells(50)
    flat = np.zeros((1, len(every)))
    with pytest.raises(KdnasError, match="same time"):
        known_devices(every, flat)
    with pytest.raises(KdnasError, match="positive latency"):
        known_devices(every, np.where(np.arange(len(every)) == 3, np.nan, flat))


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_model_when_saved_and_loaded_then_is_the_same_and_holds_plain_numbers_only(world, tmp_path, suffix):
    every, known = world
    model = fit(known, every[:20], device(every[:20], 101), space="nasbench201", options={"width": 4}, name="phone")
    file = tmp_path / f"phone.{suffix}"
    save(model, file)
    assert load(file) == model
    expected = model.latencies_ms([every[30]])[0]
    assert predict(file, every[30]) == pytest.approx(expected)
    assert predict(str(file), SPACE.notation(every[30])) == pytest.approx(expected)
    with pytest.raises(KdnasError, match="unknown operation"):
        predict(file, "|conv~0|+|none~0|none~1|+|none~0|none~1|none~2|")


@pytest.mark.parametrize(
    "content", ["", "[1]", "{", '{"format": "other"}', '{"format": "kdnas few-shot latency 1"}', None]
)
def test_model_when_the_file_is_something_else_then_is_refused(tmp_path, content):
    file = tmp_path / "phone.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(KdnasError, match="model"):
        load(file)


def test_description_when_decisions_are_numbers_or_absent_then_has_columns_for_them():
    pair = [Architecture.of({"width": 8, "block": "a"}), Architecture.of({"width": 16, "block": "b", "kernel": 3})]
    columns = columns_of(pair)
    assert [(c.decision, c.choice) for c in columns] == [("block", "a"), ("block", "b"), ("width", None)]
    features, counts = describe(columns, [*pair, Architecture.of({"width": 12, "block": "new"})])
    assert features[:, :3].tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 0.5]]
    assert counts.shape == (3, 3)


def test_trust_when_measurements_are_noise_then_is_lower_than_for_good_ones(world):
    every, known = world
    taken = [every[i] for i in propose(known, every, 20)]
    good = trust(known, taken, device(taken, 101))
    noise = trust(known, taken, np.random.default_rng(0).lognormal(size=20))
    assert good.spearman > 0.9
    assert good.low < good.spearman < good.high
    assert good.median_error < 0.1
    assert noise.low is None or noise.low < 0.5
    assert noise.median_error > good.median_error


def test_trust_when_all_others_take_the_same_time_then_predicts_that_time(world):
    every, known = world
    found = trust(known, every[:6], [1.0, 1.0, 1.0, 1.0, 1.0, 2.0])
    assert found.spearman is not None
    assert -1 <= found.low <= found.spearman <= found.high <= 1
    assert found.median_error < 0.5


@pytest.mark.parametrize(
    ("low", "words"), [(0.9, "Good enough"), (0.6, "slow from fast"), (0.1, "Not sure enough"), (None, "Do not rank")]
)
def test_trust_when_told_then_says_what_the_model_is_good_for(low, words):
    found = Trust(20, 0.95, 0.9, 0.99, 0.04)
    told = " ".join(trust_words(replace(found, low=low)))
    assert words in told
    assert "4 %" in told


@pytest.mark.skipif(not TABLE.exists(), reason="NAS-Bench-201 is not here")
def test_fit_when_a_real_device_is_left_out_then_is_close_to_what_its_noise_allows():
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(TABLE)
    some = np.random.default_rng(0).choice(len(rows), 2_000, replace=False)
    every = [SPACE.parse(rows["architecture"][int(i)].as_py()) for i in some]
    names = [name for name in rows.column_names if name.startswith("latency_ms_")]
    logs = {name: np.log(rows[name].to_numpy()[some]) for name in names}
    for left_out, least in (("2080ti_32", 0.975), ("samsung_s7", 0.9), ("eyeriss", 0.95)):
        wanted = logs[f"latency_ms_{left_out}"]
        known = known_devices(every, np.stack([logs[name] for name in names if not name.endswith(left_out)]))
        taken = propose(known, every[:600], 20)
        model = fit(known, [every[i] for i in taken], np.exp(wanted[taken]), space="nasbench201")
        rest = np.setdiff1d(np.arange(len(every)), taken)
        assert spearmanr(model.latencies_ms(every)[rest], wanted[rest]).statistic > least, left_out
        assert len(json.dumps(model.slopes)) < 20_000
