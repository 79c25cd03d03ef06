"""Does a 99 percent interval hold the true AUROC 99 percent of the time?

    python -m benchmarks.intervals [--draws N] [--confidence 0.99]

Two normal classes whose true AUROC is known are drawn again and again; the share of intervals that
hold it is printed for the logit-scale DeLong interval in use and for the plain ``AUROC ± z·SE``.
"""

from __future__ import annotations

import argparse
from statistics import NormalDist

import numpy as np

from wif_store.scorer.stats import interval, placements


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--confidence", type=float, default=0.99)
    options = parser.parse_args()
    z = NormalDist().inv_cdf((1 + options.confidence) / 2)
    rng = np.random.default_rng(0)
    print("| per class | true AUROC | logit interval | mean width | plain interval | mean width |")
    print("|---|---|---|---|---|---|")
    for size in (25, 100, 500):
        labels = np.repeat([1, 0], size)
        for area in (0.5, 0.6, 0.75, 0.9):
            apart = NormalDist().inv_cdf(area) * 2**0.5
            hits = np.zeros(2)
            widths = np.zeros(2)
            for _ in range(options.draws):
                found = interval(placements(labels, rng.normal(labels * apart)), options.confidence)
                reach = z * found.standard_error
                hits += found.low <= area <= found.high, abs(found.value - area) <= reach
                widths += found.high - found.low, 2 * reach
            (logit, plain), (logit_width, plain_width) = hits / options.draws, widths / options.draws
            print(f"| {size} | {area} | {logit:.4f} | {logit_width:.3f} | {plain:.4f} | {plain_width:.3f} |")


if __name__ == "__main__":
    main()
