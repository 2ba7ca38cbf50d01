"""What does int8 cost, and does training for it help?

The same student by KD, once plain and once quantised for the last half of the training (`recipes.quantised`), each
written as ONNX in float and in int8 (ONNX Runtime, static, calibrated on training images) as `kdnas export --int8`
does. Mean and spread of the test accuracy over the seeds; `lost` is the mean difference between float and int8 of the
same network, in points, with its standard error; `against plain float` compares with the plain student in float of the
same seed: what somebody who wants int8 really gives up. Nothing is selected, so the test split is read for every row.

    python benchmarks/int8.py --task digits
    python benchmarks/int8.py --task cifar10 --data ../shared/data/cifar10
"""

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recipes import Bench, prepare
from record import tell

from kdnas_ray.export import CALIBRATION
from kdnas_ray.onnx_files import answers, latency_ms, write_int8, write_onnx
from search_spaces import Architecture
from search_spaces.resnet import build_resnet, resnet_architecture
from trainables.loop import Normalise, start, train
from trainables.recipe import Recipe
from trainables.tasks.base import Split

WIDTHS = {"digits": (4, 8, 8), "cifar10": (8, 16, 32)}


def main() -> None:
    """Train every student with every seed, plain and quantised; print a row each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=list(WIDTHS), default="digits")
    parser.add_argument("--data", type=Path, help="folder with train.parquet and test.parquet of CIFAR-10")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--blocks", nargs="+", default=["basic", "separable"])
    parser.add_argument("--out", type=Path, help="JSON file to write")
    chosen = parser.parse_args()
    if chosen.task == "cifar10" and (chosen.data is None or not chosen.data.exists()):
        sys.exit(f"--data = {chosen.data}: no data here; CIFAR-10 comes with the benchmarks only, see --help")
    torch.set_num_threads(1)
    bench = prepare(chosen.task, chosen.data, chosen.epochs)
    rows, widths = [], WIDTHS[chosen.task]
    for block in chosen.blocks:
        architecture = resnet_architecture(widths[0], widths, (1, 1, 1), block=block)
        found = {flag: [measured(bench, architecture, seed, flag) for seed in chosen.seeds] for flag in (False, True)}
        plain = np.array([one["float"] for one in found[False]])
        rows += [row(block, flag, found[flag], plain) for flag in (False, True)]
    tell(rows, chosen.out, task=chosen.task, epochs=bench.epochs, seeds=chosen.seeds, test=len(bench.data.test))


def measured(bench: Bench, architecture: Architecture, seed: int, quantised: bool) -> dict[str, float]:
    """One training, written in float and int8: test accuracies, agreement, seconds, milliseconds and bytes."""
    data, config, begin = bench.data, bench.config, time.perf_counter()
    torch.manual_seed(seed)
    model = build_resnet(architecture, data.shape, len(data.classes))
    normalise = Normalise(data.mean, data.std)
    recipe = replace(Recipe(), quantised=quantised)
    training = start(model, recipe, bench.bank, seed=seed, total_epochs=bench.epochs)
    train(training, bench.bank, data.validation, config.task, normalise, bench.epochs)
    found = {"s": time.perf_counter() - begin}
    with tempfile.TemporaryDirectory() as folder:
        exact, rough = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        write_onnx(torch.nn.Sequential(normalise, model).eval(), data.shape, exact, {})
        order = np.random.default_rng(seed).permutation(len(data.train))[:CALIBRATION]
        write_int8(exact, rough, data.train.images[np.sort(order)], {})
        said = {name: answers(path, data.test.images) for name, path in (("float", exact), ("int8", rough))}
        found |= {name: accuracy(logits, data.test) for name, logits in said.items()}
        found["same"] = float((said["float"].argmax(axis=1) == said["int8"].argmax(axis=1)).mean())
        for name, path in (("float", exact), ("int8", rough)):
            found |= {f"{name} ms": latency_ms(path, data.test.images[:1]), f"{name} kB": path.stat().st_size / 1e3}
    return found


def row(block: str, quantised: bool, found: list[dict[str, float]], plain: np.ndarray) -> dict[str, Any]:
    """Means over the seeds."""
    exact, rough = (np.array([one[name] for one in found]) for name in ("float", "int8"))
    mean = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
    return {
        "blocks": block,
        "training": "quantised" if quantised else "plain",
        "float": spread(100 * exact),
        "int8": spread(100 * rough),
        "lost": error(100 * (exact - rough)),
        "against plain float": error(100 * (plain - rough)),
        "same prediction": f"{100 * mean['same']:.2f} %",
        "ms float, int8": f"{mean['float ms']:.3f}, {mean['int8 ms']:.3f}",
        "kB float, int8": f"{mean['float kB']:.0f}, {mean['int8 kB']:.0f}",
        "training s": f"{mean['s']:.1f}",
    }


def accuracy(logits: np.ndarray, split: Split) -> float:
    """Share of samples classified correctly."""
    return float((logits.argmax(axis=1) == split.labels).mean())


def spread(values: np.ndarray) -> str:
    """Mean ± standard deviation."""
    return f"{values.mean():.2f}" + (f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else "")


def error(values: np.ndarray) -> str:
    """Mean ± standard error."""
    return f"{values.mean():+.2f}" + (f" ± {values.std(ddof=1) / len(values) ** 0.5:.2f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
