"""Rows of `metrics.jsonl` of several runs, for figures."""

import math


def rows(num=200, *, test=True, sigma=True):
    every = []
    for step in range(1, num + 1):
        extra = {"log_sigma": -2.5 + 2 / step} if sigma else {}
        every.append({"step": step, "split": "train", "loss": 1e6 / step**3 - 3000.0} | extra)
        if test and step % (num // 4) == 0:
            extra = {"sigma": math.exp(-2.5)} if sigma else {}
            every.append({"step": step, "split": "test", "neg_elbo": -2990.0 + 100 / step} | extra)
    return every


RUNS = {
    "optimal-sigma, seed 0": rows(),
    "bernoulli $a$ & <b>": rows(sigma=False),
    "shared-sigma": rows(test=False),
    "nothing yet": [],
}
