"""The equalities are sharp: every flipped sign and every dropped history term of a sampler makes one of them fail.

Each arithmetic operator of a sampler (and of its helpers) is replaced in turn; the mutant must leave the trajectory
that the tests against diffusers and k-diffusion pin down to 1e-9.
"""

import ast
import copy
import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from service.diffusion import few_step, multistep, ode, sde, unipc
from service.diffusion.options import bound
from service.diffusion.schedules import SCHEDULES
from service.diffusion.types import Array
from tests.diffusion.oracle import ours, trajectory_of

PARAMETERIZATION, DENOISE = ours("v", "scaled_linear")
SIGMAS = SCHEDULES["karras"](PARAMETERIZATION.noise_levels, 7)
X = PARAMETERIZATION.initial(np.random.default_rng(0).standard_normal((2, 3, 4)), SIGMAS[0])
NOISES = np.random.default_rng(1).standard_normal((20, *X.shape))
EQUIVALENT = "middle - half * NODES"  # quadrature nodes are symmetric
SWAPS: dict[type, ast.operator] = {ast.Add: ast.Sub(), ast.Sub: ast.Add(), ast.Mult: ast.Div(), ast.Div: ast.Mult()}

# function of a module -> the samplers (with options) whose trajectories it shapes
SUBJECTS: dict[tuple[ModuleType, str], list[tuple[str, dict[str, Any]]]] = {
    (ode, "euler"): [("euler", {})],
    (ode, "heun"): [("heun", {})],
    (sde, "ancestral_split"): [("euler_ancestral", {"eta": 0.7})],
    (sde, "euler_ancestral"): [("euler_ancestral", {"s_noise": 0.9})],
    (sde, "dpmpp_2s_ancestral"): [("dpmpp_2s_ancestral", {"s_noise": 0.9})],
    (sde, "dpmpp_sde"): [("dpmpp_sde", {"s_noise": 0.9})],
    (sde, "_towards"): [("dpmpp_sde", {})],
    (sde, "er_sde"): [("er_sde", {"s_noise": 0.9})],
    (sde, "er_noise"): [("er_sde", {})],
    (sde, "_integral"): [("er_sde", {})],
    (multistep, "dpmpp_2m"): [("dpmpp_2m", {})],
    (multistep, "dpmpp_2m_sde"): [
        ("dpmpp_2m_sde", {"eta": 0.7}),
        ("dpmpp_2m_sde", {"solver": "heun", "eta": 0.7}),
    ],
    (multistep, "dpmpp_3m_sde"): [("dpmpp_3m_sde", {"eta": 0.7})],
    (multistep, "phi_2"): [("dpmpp_3m_sde", {})],
    (multistep, "fresh_noise"): [("dpmpp_3m_sde", {"eta": 0.7, "s_noise": 0.9})],
    (multistep, "deis"): [("deis", {})],
    (multistep, "_lagrange_integral"): [("deis", {})],
    (unipc, "unipc"): [("unipc", {"order": 3})],
    (unipc, "_step"): [("unipc", {"order": 3, "variant": "bh1"}), ("unipc", {"order": 3})],
    (unipc, "_weights"): [("unipc", {"order": 3})],
    (few_step, "lcm"): [("lcm", {})],
    (few_step, "tcd"): [("tcd", {})],
    (few_step, "flash"): [("flash", {})],
}


def trajectory(module: Any, sampler: str, options: dict[str, Any]) -> list[Array]:
    function = bound(getattr(module, sampler), options, {"parameterization": PARAMETERIZATION})
    return trajectory_of(function, DENOISE, X, SIGMAS, NOISES)


def mutants(module: ModuleType, function: str) -> Iterator[tuple[str, ast.Module]]:
    """The module with one operator of the function replaced, or one of its ``if``s never taken."""
    tree = ast.parse(inspect.getsource(module))
    (body,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function)
    places = [node for node in ast.walk(body) if isinstance(node, ast.BinOp | ast.UnaryOp | ast.If)]
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


def differs(mutant: ast.Module, module: ModuleType, sampler: str, options: dict[str, Any]) -> bool:
    """Whether the mutant's trajectory leaves the true one (or it cannot even run)."""
    changed = ModuleType("mutant")
    try:
        with np.errstate(all="ignore"):
            exec(compile(mutant, "mutant", "exec"), changed.__dict__)
            mine = trajectory(changed, sampler, options)
    except (ArithmeticError, ValueError, TypeError, np.linalg.LinAlgError):
        return True
    true = trajectory(module, sampler, options)
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
        if EQUIVALENT not in label
        and not any(differs(mutant, module, sampler, options) for sampler, options in SUBJECTS[module, function])
    ]
    assert survivors == []
