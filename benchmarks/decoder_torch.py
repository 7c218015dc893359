"""Worker of `benchmarks.decoders`: the decoders in eager PyTorch. Answers the requests of decoder_peers.py.

Needs only torch and NumPy, so that any interpreter with these can run this file. Distributions come from
`torch.distributions` and cross-entropies from `torch.nn.functional`. PyTorch has no discretised logistic, so that one
uses the formula of PixelCNN++. Validation of arguments is off: it costs time, and intensities are not valid Bernoulli
draws.
"""

import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import distributions as dist
from torch.nn import functional

dist.Distribution.set_default_validate_args(False)
BITS = torch.arange(7, -1, -1, dtype=torch.uint8)  # most significant first


def optimal_sigma(x, mean):
    return -dist.Normal(mean, (x - mean).square().mean().sqrt()).log_prob(x)


def categorical(x, logits):
    return functional.cross_entropy(logits.flatten(0, -2), x.long().flatten(), reduction="none")


def bitwise_categorical(x, logits):
    bits = ((x.unsqueeze(-1) >> BITS) & 1).float()
    return functional.binary_cross_entropy_with_logits(logits, bits, reduction="none")


def discretized_gaussian(x, mean, log_sigma):
    normal = dist.Normal(255 * mean, 255 * log_sigma.exp())
    upper = torch.where(x == 255, 1.0, normal.cdf(x + 0.5))
    lower = torch.where(x == 0, 0.0, normal.cdf(x - 0.5))
    return -(upper - lower).clamp(min=1e-12).log()


def discretized_logistic(x, mean, log_scale):
    """The branches of PixelCNN++: the mass of the bin, or the density at its centre if the mass is tiny."""
    error = x / 255 - mean
    per_unit = torch.exp(-log_scale)
    upper, center, lower = ((error + shift) * per_unit for shift in (0.5 / 255, 0.0, -0.5 / 255))
    mass = torch.sigmoid(upper) - torch.sigmoid(lower)
    log_density = center - log_scale - 2 * functional.softplus(center)
    log_mass = torch.where(mass > 1e-5, mass.clamp(min=1e-12).log(), log_density - math.log(255))
    log_mass = torch.where(x == 255, -functional.softplus(lower), log_mass)
    return -torch.where(x == 0, upper - functional.softplus(upper), log_mass)


def logistic_mixture(x, mixture_logits, means, log_scales):
    log_mass = -discretized_logistic(x.unsqueeze(-1), means, log_scales).sum(-2)
    return -torch.logsumexp(log_mass + torch.log_softmax(mixture_logits, -1), -1)


NLLS = {
    "gaussian": lambda x, mean, log_sigma: -dist.Normal(mean, log_sigma.exp()).log_prob(x),
    "optimal_sigma": optimal_sigma,
    "student_t": lambda x, mean, log_scale, df: -dist.StudentT(df, mean, log_scale.exp()).log_prob(x),
    "laplace": lambda x, mean, log_scale: -dist.Laplace(mean, log_scale.exp()).log_prob(x),
    "bernoulli": lambda x, logits: functional.binary_cross_entropy_with_logits(logits, x, reduction="none"),
    "continuous_bernoulli": lambda x, logits: -dist.ContinuousBernoulli(logits=logits).log_prob(x),
    "categorical": categorical,
    "bitwise_categorical": bitwise_categorical,
    "discretized_gaussian": discretized_gaussian,
    "discretized_logistic": discretized_logistic,
    "logistic_mixture": logistic_mixture,
    "poisson": lambda x, log_rate: -dist.Poisson(log_rate.exp()).log_prob(x),
    "negative_binomial": lambda x, log_mean, log_dispersion: (
        -dist.NegativeBinomial(log_dispersion.exp(), logits=log_mean - log_dispersion).log_prob(x)
    ),
    "binomial": lambda x, logits: -dist.Binomial(31, logits=logits).log_prob(x),
    "von_mises": lambda x, direction, log_concentration: (
        -dist.VonMises(torch.atan2(direction[..., 1], direction[..., 0]), log_concentration.exp()).log_prob(x)
    ),
}


class Worker:
    """The arrays and the function of one decoder."""

    def versions(self, _):
        return {"found": {"pytorch": torch.__version__}, "missing": {}}

    def prepare(self, request):
        """Run once, and write value and gradients to FOLDER/LIBRARY."""
        library, decoder, folder = request
        self.nll, self.x = NLLS[decoder], torch.from_numpy(np.load(Path(folder) / "x.npy"))
        arrays = dict(np.load(Path(folder) / "parameters.npz"))
        self.parameters = {name: torch.from_numpy(array).requires_grad_() for name, array in arrays.items()}
        value, gradients = self.value_and_gradient()
        target = Path(folder) / library
        target.mkdir()
        for name, tensor in zip(["value", *self.parameters], [value.detach(), *gradients], strict=True):
            np.save(target / f"{name}.npy", tensor.numpy())
        return {}

    def value_and_gradient(self):
        loss = self.nll(self.x, **self.parameters).reshape(len(self.x), -1).sum(1).mean()
        return loss, torch.autograd.grad(loss, list(self.parameters.values()))

    def time(self, request):
        _, calls = request
        begin = time.perf_counter()
        for _ in range(calls):
            self.value_and_gradient()
        return time.perf_counter() - begin


def main():
    torch.set_num_threads(int(sys.argv[1]))
    worker = Worker()
    for line in sys.stdin:
        ((request, argument),) = json.loads(line).items()
        print(json.dumps(getattr(worker, request)(argument)), flush=True)


if __name__ == "__main__":
    main()
