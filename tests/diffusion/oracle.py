"""diffusers' schedulers as the oracle, driven by the same analytic network as ours: in float64, or as they are."""

import importlib
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch

from service.diffusion.compose import compose
from service.diffusion.guidance import cfg
from service.diffusion.parameterization import Parameterization
from service.diffusion.types import Array, Denoised, Denoiser

BETAS = {
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "linear": {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
    "squaredcos": {"beta_schedule": "squaredcos_cap_v2"},
}
PREDICTIONS = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}


class _Double:
    """A module in which float32 means float64."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, "float64" if name == "float32" else name)


@contextmanager
def double_precision(module: Any) -> Iterator[None]:
    """diffusers casts to float32 in many places; inside, a scheduler's module computes in float64."""
    module.torch, module.np = _Double(torch), _Double(np)
    try:
        yield
    finally:
        module.torch, module.np = torch, np


def scheduler_class(name: str) -> tuple[Any, Any]:
    """A scheduler's class and module; the one that needs torchsde only for its noise is loaded without it."""
    if name == "DPMSolverSDEScheduler":
        sys.modules.setdefault("torchsde", ModuleType("torchsde"))
        module = importlib.import_module("diffusers.schedulers.scheduling_dpmsolver_sde")
        return getattr(module, name), module
    cls = getattr(importlib.import_module("diffusers"), name)
    return cls, importlib.import_module(cls.__module__)


@contextmanager
def scheduler(name: str, noises: Sequence[Array] = (), dtype: Any = np.float64, **config: Any) -> Iterator[Any]:
    """A diffusers scheduler, in double precision or as it is; ``noises`` are handed out where it would draw its own."""
    cls, module = scheduler_class(name)
    supply = iter(noises)
    original = getattr(module, "randn_tensor", None)
    if original is not None:
        module.randn_tensor = lambda *_, **__: torch.from_numpy(next(supply).astype(dtype))
    try:
        with double_precision(module) if dtype is np.float64 else nullcontext(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "__array", DeprecationWarning)  # torch tensors under NumPy 2
            warnings.filterwarnings("ignore", "divide by zero", RuntimeWarning)  # DEIS in the step to sigma 0
            yield cls(**config)
    finally:
        if original is not None:
            module.randn_tensor = original


@cache
def alphas_cumprod(betas: str, dtype: Any = np.float64) -> Array:
    """The cumulative alphas of one of ``BETAS``."""
    with scheduler("EulerDiscreteScheduler", dtype=dtype, **BETAS[betas]) as oracle:
        return oracle.alphas_cumprod.numpy().copy()


def network(x: Array, timestep: float) -> Array:
    """Smooth, nonlinear, dependent on both arguments: stands for a trained network of any prediction type."""
    return np.tanh(0.8 * x + np.cos(timestep / 150)) + 0.1 * x


@cache
def ours(
    prediction: Any, betas: str, dtype: Any = np.float64, trained: Any = np.float64
) -> tuple[Parameterization, Denoiser]:
    """The parameterization and the denoiser of ``network``, which computes in ``dtype``; alphas as in ``trained``."""
    parameterization = Parameterization("vp", prediction, alphas_cumprod(betas, trained).tolist())

    def rows(x: Array, timestep: Array, _names: Sequence[str]) -> Array:
        return np.stack([network(row.astype(dtype), dtype(t)) for row, t in zip(x, timestep, strict=True)])

    return parameterization, compose(parameterization.branches(rows), cfg(1.0, None, parameterization), [])


def recorded(denoise: Denoiser, trajectory: list[Array]) -> Denoiser:
    """The denoiser, noting every x it sees."""

    def watched(x: Array, sigma: float) -> Denoised:
        trajectory.append(x)
        return denoise(x, sigma)

    return watched


def trajectory_of(
    sampler: Callable[..., Array], denoise: Denoiser, x: Array, sigmas: Array, noises: Sequence[Array] = ()
) -> list[Array]:
    """Every x that a sampler evaluates, and its result."""
    seen: list[Array] = []
    supply = iter(noises)
    result = sampler(recorded(denoise, seen), x, sigmas, lambda *_: next(supply))
    return [*seen, result]


def oracle_trajectory(
    oracle: Any,
    parameterization: Parameterization,
    x: Array,
    sigmas: Array,
    step: dict[str, Any],
    path: Callable[..., torch.Tensor] | None = None,
    dtype: Any = np.float64,
) -> list[Array]:
    """The same for a diffusers scheduler on exactly these sigmas, scaled to x0 + sigma * eps in float64.

    The clock is ours: diffusers' multistep schedulers round theirs to integers, which is no part of the solver.
    """
    kind = type(oracle).__name__
    variance_exploding = "Discrete" in kind or kind == "DPMSolverSDEScheduler"
    if kind in ("LCMScheduler", "TCDScheduler"):
        oracle.set_timesteps(timesteps=[round(parameterization.sigma_to_timestep(sigma)) for sigma in sigmas[:-1]])
    else:
        oracle.set_timesteps(len(sigmas) - 1)
    oracle.noise_sampler = path  # read by DPMSolverSDEScheduler only
    levels, clocked = sigmas, sigmas
    if kind in ("HeunDiscreteScheduler", "DPMSolverSDEScheduler"):  # two evaluations a step
        levels = np.concatenate([sigmas[:1], np.repeat(sigmas[1:-1], 2), sigmas[-1:]])
        clocked = levels.copy()
        if kind == "DPMSolverSDEScheduler":
            clocked[1:-1:2] = np.sqrt(sigmas[:-2] * sigmas[1:-1])
    if hasattr(oracle, "sigmas"):
        oracle.sigmas = torch.from_numpy(levels.astype(dtype))
    if hasattr(oracle, "set_begin_index"):
        oracle.set_begin_index(0)
    scale = [1.0 if variance_exploding else float(np.sqrt(1 + sigma**2)) for sigma in clocked]
    sample, seen = torch.from_numpy((x / scale[0]).astype(dtype)), []
    for i, sigma in enumerate(clocked[:-1]):
        seen.append(np.float64(sample.numpy()) * scale[i])
        timestep = oracle.timesteps[i]
        inputs = sample.numpy() / dtype(np.sqrt(1 + sigma**2) if variance_exploding else 1)
        oracle.scale_model_input(sample, timestep)
        output = torch.from_numpy(network(inputs, dtype(parameterization.sigma_to_timestep(sigma))))
        extra = {k: torch.from_numpy(v[i].astype(dtype)) if isinstance(v, np.ndarray) else v for k, v in step.items()}
        sample = oracle.step(output, timestep, sample, **extra).prev_sample
    assert sample.numpy().dtype == dtype
    return [*seen, np.float64(sample.numpy())]
