"""The equalities are sharp: every flipped sign and every dropped history term makes one of them fail.

Each arithmetic operator of a sampler, a guidance method, a correction (and of their helpers) is replaced in turn; the
mutant must leave the numbers that the tests against diffusers, k-diffusion and the papers' formulas pin down to 1e-9.
"""

import ast
import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from service.diffusion import conditioning, corrections, few_step, guidance, multistep, networks, ode, sde, unipc
from service.diffusion.guidance import GUIDANCE
from service.diffusion.options import bound
from service.diffusion.parameterization import Parameterization
from service.diffusion.samplers import SAMPLERS
from service.diffusion.schedules import SCHEDULES
from service.diffusion.types import Array, Branches
from tests.diffusion.oracle import ours, trajectory_of

PARAMETERIZATION, DENOISE = ours("v", "scaled_linear")
FLOW = Parameterization("flow", "flow")
SIGMAS = SCHEDULES["karras"](PARAMETERIZATION.noise_levels, 7)
X = PARAMETERIZATION.initial(np.random.default_rng(0).standard_normal((2, 3, 4)), SIGMAS[0])
NOISES = np.random.default_rng(1).standard_normal((20, *X.shape))
EQUIVALENT = "middle - half * NODES"  # quadrature nodes are symmetric
SWAPS: dict[type, ast.operator] = {ast.Add: ast.Sub(), ast.Sub: ast.Add(), ast.Mult: ast.Div(), ast.Div: ast.Mult()}

Probe = Callable[[Any], list[Array]]  # a module, perhaps mutated -> numbers that depend on it


def runs(sampler: str, **options: Any) -> Probe:
    """The trajectory of a sampler."""

    def probe(module: Any) -> list[Array]:
        function = bound(getattr(module, sampler), options, {"parameterization": PARAMETERIZATION})
        return trajectory_of(function, DENOISE, X, SIGMAS, NOISES)

    return probe


def branches(parameterization: Parameterization) -> Branches:
    """Two different networks."""

    def network(x: Array, _timestep: Array, names: Sequence[str]) -> Array:
        return np.stack(
            [np.tanh(row + 0.3) if name == "cond" else 0.4 * row - 0.2 for row, name in zip(x, names, strict=True)]
        )

    return parameterization.branches(network)


def guides(method: str, scale: float, parameterization: Parameterization = PARAMETERIZATION, **options: Any) -> Probe:
    """What a guidance method makes of three steps."""

    def probe(module: Any) -> list[Array]:
        facts = {"parameterization": parameterization, "sigmas": np.array([9.0, 4.0, 0.0])}
        guide = bound(getattr(module, method), options, facts)(scale, (0.5, 8.0))
        denoise = guide(branches(parameterization))
        return [part for sigma in (9.0, 3.0, 1.0) for part in denoise(X / 9 * sigma, sigma)]

    return probe


def corrects(name: str, **options: Any) -> Probe:
    """What a correction makes of samples a little below and above their level."""

    def probe(module: Any) -> list[Array]:
        facts = {"parameterization": PARAMETERIZATION, "sigmas": SIGMAS}
        denoise = bound(getattr(module, name), options, facts)()(DENOISE)
        levels = product(map(float, PARAMETERIZATION.noise_levels[20:-1:90]), (0.96, 1.04))
        noise = X / X.std(ddof=1)
        return [part for sigma, share in levels for part in denoise(np.hypot(0.5, share * sigma) * noise, sigma)]

    return probe


def anneals(module: Any) -> list[Array]:
    transform = module.cads(np.random.default_rng(3), 0.6, 0.9, 0.2, 0.7)
    return [transform({"text": X + 0.5}, time)["text"] for time in (0.95, 0.8, 0.65, 0.5)]


def begins(module: Any) -> list[Array]:
    def network(x: Array, timestep: Array, names: Sequence[str]) -> Array:
        return np.stack([np.tanh(row) + len(name) + t for row, name, t in zip(x, names, timestep, strict=True)])

    starts = [
        module.start("unet_initial", PARAMETERIZATION, 9.0, scale, None)(lambda _: network, X) for scale in (1, 3)
    ]
    return [*starts, module.finish("unet_residual")(lambda _: network, X)]


# function of a module -> what depends on it
SUBJECTS: dict[tuple[ModuleType, str], list[Probe]] = {
    (ode, "euler"): [runs("euler")],
    (ode, "heun"): [runs("heun")],
    (sde, "ancestral_split"): [runs("euler_ancestral", eta=0.7)],
    (sde, "euler_ancestral"): [runs("euler_ancestral", s_noise=0.9)],
    (sde, "dpmpp_2s_ancestral"): [runs("dpmpp_2s_ancestral", s_noise=0.9)],
    (sde, "dpmpp_sde"): [runs("dpmpp_sde", s_noise=0.9)],
    (sde, "_towards"): [runs("dpmpp_sde")],
    (sde, "er_sde"): [runs("er_sde", s_noise=0.9)],
    (sde, "er_noise"): [runs("er_sde")],
    (sde, "_integral"): [runs("er_sde")],
    (multistep, "dpmpp_2m"): [runs("dpmpp_2m")],
    (multistep, "dpmpp_2m_sde"): [runs("dpmpp_2m_sde", eta=0.7), runs("dpmpp_2m_sde", solver="heun", eta=0.7)],
    (multistep, "dpmpp_3m_sde"): [runs("dpmpp_3m_sde", eta=0.7)],
    (multistep, "phi_2"): [runs("dpmpp_3m_sde")],
    (multistep, "fresh_noise"): [runs("dpmpp_3m_sde", eta=0.7, s_noise=0.9)],
    (multistep, "deis"): [runs("deis")],
    (multistep, "_lagrange_integrals"): [runs("deis")],
    (unipc, "unipc"): [runs("unipc", order=3)],
    (unipc, "_step"): [runs("unipc", order=3, variant="bh1"), runs("unipc", order=3)],
    (unipc, "_weights"): [runs("unipc", order=3)],
    (few_step, "lcm"): [runs("lcm")],
    (few_step, "tcd"): [runs("tcd")],
    (few_step, "flash"): [runs("flash")],
    (guidance, "cfg"): [guides("cfg", 7.5, rescale=0.7), guides("cfg", 7.5)],
    (guidance, "apg"): [guides("apg", 6.0, momentum=-0.4, norm_threshold=0.7, parallel=0.3)],
    (guidance, "cfg_pp"): [guides("cfg_pp", 0.6)],
    (guidance, "cfg_zero"): [guides("cfg_zero", 4.0, FLOW, zero_steps=steps) for steps in (1, 5)],
    (guidance, "along"): [guides("apg", 6.0)],
    (corrections, "epsilon_scaling"): [corrects("epsilon_scaling", scale=1.02, slope=0.01)],
    (corrections, "time_shift"): [
        corrects("time_shift", data_variance=0.25, window=window, cutoff=300.0) for window in (10, 120)
    ],
    (conditioning, "cads"): [anneals],
    (networks, "start"): [begins],
    (networks, "finish"): [begins],
}


def test_every_sampler_and_every_guidance_method_is_a_subject() -> None:
    """ddim and each further one that only names another's options is that one."""
    named = {name for _, name in SUBJECTS}
    assert set(SAMPLERS) | set(GUIDANCE) <= named | {"ddim"}


def mutants(module: ModuleType, function: str) -> Iterator[tuple[str, ast.Module]]:
    """The module with one operator of the function replaced, or one of its ``if``s never taken."""
    tree = ast.parse(inspect.getsource(module))
    (body,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function)
    inside = (node for statement in body.body for node in ast.walk(statement))
    places = [node for node in inside if isinstance(node, ast.BinOp | ast.UnaryOp | ast.If)]
    for place in places:
        if isinstance(place, ast.BinOp) and type(place.op) in SWAPS:
            original, changed = place.op, SWAPS[type(place.op)]
            place.op = changed
            yield f"line {place.lineno}: {ast.unparse(place)}", copy.deepcopy(tree)
            place.op = original
        if isinstance(place, ast.UnaryOp) and isinstance(place.op, ast.USub):
            place.op = ast.UAdd()
            yield f"line {place.lineno}: {ast.unparse(place)}", copy.deepcopy(tree)
            place.op = ast.USub()
        if isinstance(place, ast.If) and (
            "history" in ast.unparse(place.test) or "previous" in ast.unparse(place.test)
        ):
            original_test, place.test = place.test, ast.copy_location(ast.Constant(False), place)
            yield f"line {place.lineno}: history dropped", copy.deepcopy(tree)
            place.test = original_test


def differs(mutant: ast.Module, module: ModuleType, probe: Probe) -> bool:
    """Whether the mutant's numbers leave the true ones (or it cannot even run)."""
    changed = ModuleType("mutant")
    try:
        with np.errstate(all="ignore"):
            exec(compile(mutant, "mutant", "exec"), changed.__dict__)
            mine = probe(changed)
    except (ArithmeticError, LookupError, ValueError, TypeError, np.linalg.LinAlgError):
        return True
    true = probe(module)
    return len(mine) != len(true) or any(
        not np.allclose(a, b, rtol=1e-9, atol=1e-9 * np.abs(b).max()) for a, b in zip(mine, true, strict=True)
    )


@pytest.mark.parametrize(("module", "function"), SUBJECTS, ids=[name for _, name in SUBJECTS])
def test_no_mutant_survives(module: ModuleType, function: str) -> None:
    found = list(mutants(module, function))
    assert found, "nothing to mutate"
    survivors = [
        label
        for label, mutant in found
        if EQUIVALENT not in label and not any(differs(mutant, module, probe) for probe in SUBJECTS[module, function])
    ]
    assert survivors == []
