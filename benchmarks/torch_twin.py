"""Worker of `benchmarks.train_step`: the SVHN network and its training step in eager PyTorch.

Needs only torch and NumPy, so that any interpreter with these can run this file. Reads one JSON request per line on
stdin and answers each with one line of JSON: `{"load": FILE}`, `{"losses": N}`, `{"time": N}`, `{"peak": null}`.

    python torch_twin.py THREADS [DEVICE [graphs]]

On a GPU, the batch stays in its memory, float32 products may use TF32, and Adam is fused. `graphs` compiles the loss
and its gradient into CUDA graphs.
"""

import json
import math
import resource
import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional

MIN_VARIANCE = math.exp(-12.0)  # calibrax's floor, min_log_sigma = -6
LOG_VAR_BOUND = 20.0


class Twin(nn.Module):
    """The layers of `calibrax.models.ConvVAE`, NCHW."""

    def __init__(self, latent_dim: int = 20):
        super().__init__()
        self.conv_1 = nn.Conv2d(3, 32, 3, padding=1)
        self.conv_2 = nn.Conv2d(32, 64, 4, stride=2, padding=1)
        self.conv_3 = nn.Conv2d(64, 128, 5, stride=2, padding=2)
        self.mean = nn.Linear(6272, latent_dim)
        self.log_var = nn.Linear(6272, latent_dim)
        self.linear = nn.Linear(latent_dim, 6272)
        self.deconv_1 = nn.ConvTranspose2d(128, 64, 6, stride=2, padding=2)
        self.deconv_2 = nn.ConvTranspose2d(64, 32, 6, stride=2, padding=2)
        self.deconv_3 = nn.ConvTranspose2d(32, 3, 5, padding=2)

    def forward(self, x, noise):
        h = functional.relu(self.conv_1(x))
        h = functional.relu(self.conv_2(h))
        h = functional.relu(self.conv_3(h)).flatten(1)
        mean, log_var = self.mean(h), self.log_var(h)
        log_var = LOG_VAR_BOUND - functional.softplus(LOG_VAR_BOUND - log_var)
        log_var = -LOG_VAR_BOUND + functional.softplus(log_var + LOG_VAR_BOUND)
        z = mean + torch.exp(0.5 * log_var) * noise
        h = self.linear(z).view(-1, 128, 7, 7)
        h = functional.relu(self.deconv_1(h))
        h = functional.relu(self.deconv_2(h))
        kl = 0.5 * (mean.square() + torch.expm1(log_var) - log_var).sum(1)
        return torch.sigmoid(self.deconv_3(h)), kl


def loss_of(model, x, noise):
    """-log p of the optimal-σ Gaussian, summed over pixels, plus the KL; mean over the batch, in nats."""
    mean, kl = model(x, noise)
    sq_error = (x - mean).square()
    variance = sq_error.mean().clamp(min=MIN_VARIANCE)
    nll = 0.5 * (sq_error / variance + torch.log(2 * math.pi * variance))
    return (nll.flatten(1).sum(1) + kl).mean()


class Worker:
    """The network, its optimizer and its batch."""

    def __init__(self, device="cpu", graphs=False):
        self.device, self.loss_of = device, loss_of
        if device != "cpu":
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
            torch.backends.cudnn.benchmark = True
        if graphs:
            self.loss_of = torch.compile(loss_of, mode="reduce-overhead")

    def load(self, path):
        """Read weights, batch and noise from an .npz in calibrax's layout (kernels HWIO, images NHWC)."""
        arrays = np.load(path)
        self.model = Twin()
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(torch.from_numpy(torch_layout(name, arrays)))
        self.model.to(self.device)
        self.x = torch.from_numpy(arrays["batch"].transpose(0, 3, 1, 2).astype(np.float32) / 255).to(self.device)
        self.noise = torch.from_numpy(arrays["noise"].copy()).to(self.device)
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=1e-3, fused=True if self.device != "cpu" else None
        )
        return {"torch": torch.__version__, "python": sys.version.split()[0], "threads": torch.get_num_threads()}

    def step(self, noise):
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss_of(self.model, self.x, noise)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def losses(self, num):
        return [float(self.step(self.noise[i])) for i in range(num)]

    def peak(self, _):
        """The peak memory of this process so far, MiB."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def time(self, num):
        begin = time.perf_counter()
        for _ in range(num):
            loss = self.step(torch.randn(self.noise.shape[1:], device=self.device))
        float(loss)
        return time.perf_counter() - begin


def torch_layout(name, arrays):
    """calibrax's array in the twin's layout: kernels OIHW (transposed ones IOHW), flat axes in C, H, W order."""
    layer, kind = name.split(".")
    array = arrays[f"{layer}.{'kernel' if kind == 'weight' else 'bias'}"]
    if kind == "weight" and layer.startswith("conv"):
        array = array.transpose(3, 2, 0, 1)
    elif kind == "weight" and layer.startswith("deconv"):
        array = array.transpose(2, 3, 0, 1)
    elif layer in ("mean", "log_var") and kind == "weight":
        array = array.reshape(7, 7, 128, -1).transpose(3, 2, 0, 1).reshape(array.shape[1], -1)
    elif layer == "linear":
        array = array.reshape(-1, 7, 7, 128).transpose(0, 3, 1, 2).reshape(-1, 6272)
        array = array.T if kind == "weight" else array[0]
    return np.ascontiguousarray(array)


def main():
    torch.set_num_threads(int(sys.argv[1]))
    worker = Worker(*sys.argv[2:3], graphs=sys.argv[3:] == ["graphs"])
    for line in sys.stdin:
        ((request, argument),) = json.loads(line).items()
        print(json.dumps(getattr(worker, request)(argument)), flush=True)


if __name__ == "__main__":
    main()
