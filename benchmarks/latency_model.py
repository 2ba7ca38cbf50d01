"""How well do modelled latencies predict measured ones, on networks that no model has seen?

Random networks of three spaces, one image of 3 x 32 x 32, measured on this machine (ONNX Runtime, one thread).
`shipped` is the profile `server-cpu` as it comes, `calibrated` the profile that `kdnas device calibrate` fits, `block
table` the sum of operators measured one by one, with what `BlockTable.fit` learns from the same networks as the
profile. `noise` is what measuring the same networks a second time agrees to: no model can do better.

    python benchmarks/latency_model.py
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from record import tell

from kdnas_ray.hardware import calibrating
from kdnas_ray.hardware.block_table import BlockTable
from kdnas_ray.hardware.calibrating import Measured, compare, draw_networks, fit_profile, measure_networks
from kdnas_ray.hardware.devices import device
from kdnas_ray.hardware.microbenchmarks import operator_ms
from kdnas_ray.hardware.roofline import latency_ms


def main() -> None:
    """Measure, fit, compare, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=90, help="to fit to")
    parser.add_argument("--unseen", type=int, default=60)
    parser.add_argument("--runtime", default="onnx")
    parser.add_argument("--spaces", nargs="+", default=list(calibrating.USUAL))
    parser.add_argument("--out", type=Path, help="JSON file to write")
    chosen = parser.parse_args()
    drawn = {
        seed: draw_networks(chosen.spaces, count, seed) for seed, count in ((0, chosen.networks), (1, chosen.unseen))
    }
    settings = {"runtime": chosen.runtime, "threads": 1, "say": print}
    seen, unseen, again = (measure_networks(drawn[seed], **settings) for seed in (0, 1, 1))
    shipped, profile = device("server-cpu"), fit_profile(seen, "here", chosen.runtime)
    table = BlockTable(profile, partial(operator_ms, runtime=chosen.runtime))
    table.fit(seen)
    models = {
        "shipped": [latency_ms(found.network, shipped) for found in unseen],
        "calibrated": [latency_ms(found.network, profile) for found in unseen],
        "block table": [table.latency_ms(found.network) for found in unseen],
        "noise": [found.latency.median_ms for found in again],
    }
    rows = []
    for name, modelled in models.items():
        for space in ("all", *chosen.spaces):
            places = [i for i, found in enumerate(unseen) if space in ("all", found.space)]
            rows.append(
                {"model": name, "space": space, **_row([modelled[i] for i in places], [unseen[i] for i in places])}
            )
    tell(rows, chosen.out, runtime=chosen.runtime, networks=chosen.networks, operators=len(table.known))


def _row(modelled: Sequence[float], measured: Sequence[Measured]) -> dict[str, str | int]:
    found = compare(modelled, measured)
    return {
        "networks": found.networks,
        "spearman": f"{found.spearman:.3f}",
        "median error": f"{found.median_error:.1%}",
    }


if __name__ == "__main__":
    main()
