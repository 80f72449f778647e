"""What a network predicts, its clock and its input scale: the only file that knows eps, v, x0 and flow.

Everywhere else x = x0 + sigma * eps. A VP network was trained on ``(x0 + sigma * eps) / sqrt(1 + sigma^2)``, a flow
network on ``(x0 + sigma * eps) / (1 + sigma)`` with t = sigma / (1 + sigma); both are one input scale per row.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np

from service.diffusion.types import Array, Branches, Denoised

Prediction = Literal["eps", "v", "x0", "flow"]

FLOW_CLIP = 1 - 1e-4  # t = 1 would be sigma = infinity; the clock at the first step is exactly T all the same
ZERO_SNR = 2.0**-24  # stands for alphas_cumprod = 0, so that sigma_max = 4096 is finite (as diffusers does)


class Network(Protocol):
    """Raw network call: x [rows, ...], timestep [rows], branch name per row -> output [rows, ...]."""

    def __call__(self, x: Array, timestep: Array, names: Sequence[str]) -> Array: ...


class Parameterization:
    """Turns a network's output into ``Denoised``, and sigmas into the network's clock and input scale."""

    def __init__(
        self,
        kind: Literal["vp", "flow"],
        prediction: Prediction,
        alphas_cumprod: Sequence[float] = (),
        timesteps: int = 1000,
        shift: float = 1.0,
        zero_terminal_snr: bool = False,
    ) -> None:
        if (kind == "flow") != (prediction == "flow"):
            raise ValueError(f"a {kind} process cannot predict {prediction}")
        self.kind, self.prediction = kind, prediction
        if kind == "flow":
            levels = _flow_levels(timesteps, shift)
        else:
            abar = rescaled_to_zero_snr(alphas_cumprod) if zero_terminal_snr else alphas_cumprod
            levels = _vp_levels(abar, prediction)
        levels.setflags(write=False)
        self.noise_levels: Array = levels  # [T] ascending: sigma of every trained timestep
        self.last_timestep = float(len(levels) - (kind == "vp"))  # the clock at pure noise
        self._log_levels = np.log(levels)
        self._clock = np.arange(len(levels), dtype=np.float64)

    def sigma_to_timestep(self, sigma: float) -> float:
        """The network's clock: log-linear between trained sigmas, clipped to them (VP); T sigma/(1+sigma) (flow)."""
        if self.kind == "vp":
            return float(np.interp(np.log(sigma), self._log_levels, self._clock))
        return self.last_timestep * (1.0 if sigma >= self.noise_levels[-1] else sigma / (1 + sigma))

    def timestep_to_sigma(self, timestep: float) -> float:
        """The inverse of ``sigma_to_timestep`` within the trained range."""
        if self.kind == "vp":
            return float(np.exp(np.interp(timestep, self._clock, self._log_levels)))
        t = min(timestep / self.last_timestep, FLOW_CLIP)
        return t / (1 - t)

    def input_scale(self, sigma: float) -> float:
        """The network sees ``input_scale(sigma) * x``."""
        return float(1 / np.sqrt(1 + sigma**2)) if self.kind == "vp" else 1 / (1 + sigma)

    def initial(self, noise: Array, sigma: float) -> Array:
        """Unit noise -> x at the first sigma, such that the first network input is exactly that noise."""
        return noise / self.input_scale(sigma)

    def denoised(self, x: Array, output: Array, sigma: float) -> Denoised:
        """Network output -> (x0, eps): Salimans & Ho 2022 for v, Lipman et al. 2023 for flow (v = eps - x0)."""
        scale = self.input_scale(sigma)
        match self.prediction:
            case "eps":
                return Denoised(x - sigma * output, output)
            case "v":  # alpha = scale, x_vp = scale * x
                return Denoised(scale * (scale * x - sigma * output), scale * (output + scale * sigma * x))
            case "x0":
                return Denoised(output, (x - output) / sigma)
            case "flow":  # 1 - t = scale, x_t = scale * x
                return Denoised(scale * (x - sigma * output), scale * (x + output))

    def predicted(self, denoised: Denoised, sigma: float) -> Array:
        """What the network said, from (x0, eps): the inverse of ``denoised``."""
        match self.prediction:
            case "eps":
                return denoised.eps
            case "v":
                return self.input_scale(sigma) * (denoised.eps - sigma * denoised.x0)
            case "x0":
                return denoised.x0
            case "flow":
                return denoised.eps - denoised.x0

    def branches(self, network: Network) -> Branches:
        """All named branches of x at one sigma as rows of one network call, each row with its own clock."""

        def evaluate(x: Array, sigma: float, names: Sequence[str]) -> list[Denoised]:
            rows = np.repeat((self.input_scale(sigma) * x)[None], len(names), axis=0)
            clock = np.full(len(names), self.sigma_to_timestep(sigma))
            outputs = np.asarray(network(rows, clock, names), dtype=x.dtype)
            return [self.denoised(x, output, sigma) for output in outputs]

        return evaluate


def rescaled_to_zero_snr(alphas_cumprod: Sequence[float]) -> Sequence[float]:
    """sqrt(abar) moved and stretched so that it ends in 0 and starts where it did (Lin et al. 2024, alg. 1)."""
    root = np.sqrt(alphas_cumprod)
    moved = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return [float(value) for value in moved**2]


def _vp_levels(alphas_cumprod: Sequence[float], prediction: Prediction) -> Array:
    """sigma = sqrt((1 - abar) / abar), a zero terminal SNR made finite."""
    abar = np.array(alphas_cumprod, dtype=np.float64)  # [T] descending
    if abar.ndim != 1 or len(abar) < 2 or abar[0] >= 1 or abar[-1] < 0 or np.any(np.diff(abar) >= 0):
        raise ValueError("alphas_cumprod must descend strictly within [0, 1)")
    if abar[-1] == 0 and prediction == "eps":
        raise ValueError("a noise prediction says nothing about the picture at zero terminal SNR: use v or x0")
    abar[-1] = abar[-1] or ZERO_SNR
    return np.sqrt((1 - abar) / abar)


def _flow_levels(timesteps: int, shift: float) -> Array:
    """sigma = shift * t / (1 - t) at t = 1/T .. 1: the shift of Esser et al. 2024 (eq. 23) is a factor here."""
    t = np.arange(1, timesteps + 1) / timesteps
    t = shift * t / (1 + (shift - 1) * t)
    t = np.minimum(t, FLOW_CLIP)
    return t / (1 - t)
