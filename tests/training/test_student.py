"""Distillation: trajectories are the service's, and every loss is zero where it must be."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from service.diffusion.few_step import flash
from service.diffusion.guidance import cfg
from service.diffusion.multistep import dpmpp_2m
from service.diffusion.parameterization import Parameterization
from service.diffusion.schedules import trailing
from service.diffusion.types import Array, Denoised
from tests.diffusion import mixture
from tests.training import tiny
from training import sampling, stages, student, unet

ALPHAS = unet.scheduler().alphas_cumprod.tolist()
COSINE = Parameterization("vp", "v", ALPHAS)
LINEAR = Parameterization("vp", "eps", np.cumprod(1 - np.linspace(0.00085, 0.012, 1000)).tolist())  # ends at sigma 14


def aim(process: Parameterization = COSINE, shift: float = 0.7, **switches: bool) -> student.Objective:
    return student.Objective(process, 4, shift, **switches)


def noises(count: int, shape: tuple[int, ...] = (3, 4, 8, 8)) -> Any:
    """A function that returns the given number of unit noises, and then no more."""
    rng = np.random.default_rng(0)
    return iter([torch.from_numpy(rng.standard_normal(shape)) for _ in range(count)]).__next__


def gaussian(mean: float, width: float) -> Any:
    """Exact denoiser of N(mean, width^2)."""

    def denoise(x: Tensor, sigma: float) -> Denoised:
        x0 = mean + width**2 / (width**2 + sigma**2) * (x - mean)
        return Denoised(x0, (x - x0) / sigma)  # type: ignore[arg-type]

    return denoise


def transported(mean: float, width: float) -> sampling.Solve:
    """Exact end of the probability-flow ODE of N(mean, width^2)."""

    def solve(x: Tensor, sigmas: Array) -> Tensor:
        return mean + width / np.hypot(width, sigmas[0]) * (x - mean)

    return solve


def test_the_trajectory_is_the_services_flash_sampler() -> None:
    net, text = tiny.network().eval(), torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(1))
    branches, seen = sampling.branches(net, {"cond": text}, COSINE), list[tuple[Tensor, float]]()
    start = torch.from_numpy(np.random.default_rng(2).standard_normal((1, 4, 8, 8), np.float32))

    def recorded(x: Tensor, sigma: float) -> Any:
        seen.append((x, sigma))
        return branches(x, sigma, ("cond",))[0]

    aim(shifted=False).losses(recorded, lambda x, _: x, 3, start, lambda: start)
    theirs: list[tuple[Array, float]] = []

    def network(x: Array, timestep: Array, _names: Any) -> Array:
        with torch.no_grad():
            return net(torch.from_numpy(x).float(), torch.from_numpy(timestep).float(), text).sample.numpy()

    def denoise(x: Array, sigma: float) -> Denoised:
        theirs.append((x, sigma))
        return COSINE.branches(network)(x, sigma, ("cond",))[0]

    sigmas = trailing(COSINE.noise_levels, 3)
    flash(denoise, COSINE.initial(start[0].double().numpy(), sigmas[0]), sigmas, lambda *_: start[0].numpy())
    assert [sigma for _, sigma in seen] == [sigma for _, sigma in theirs]
    assert not any(x.requires_grad for x, _ in seen)
    for (ours, sigma), (expected, _) in zip(seen, theirs, strict=True):
        np.testing.assert_allclose(ours[0] / np.hypot(1, sigma), expected / np.hypot(1, sigma), atol=1e-5)


def test_the_teacher_is_the_services_sampler_and_guidance() -> None:
    net, text, empty = tiny.network().eval(), torch.randn(1, 5, 16), torch.randn(5, 16)
    recipe, model = sampling.recipe(tiny.settings(), preset="balanced"), sampling.description(tiny.settings())
    sigmas = trailing(COSINE.noise_levels, 4, start=700)
    x = sigmas[0] * torch.randn(1, 4, 8, 8)
    rows = {"cond": text[0], "uncond": empty}

    def network(x: Array, timestep: Array, names: Any) -> Array:
        contexts = torch.stack([rows[name] for name in names])
        with torch.no_grad():
            return net(torch.from_numpy(x).float(), torch.from_numpy(timestep).float(), contexts).sample.numpy()

    guided = cfg(recipe.guidance_scale, recipe.guidance_interval, COSINE)(COSINE.branches(network))
    expected = dpmpp_2m(guided, x[0].double().numpy(), sigmas, lambda *_: x[0].numpy())
    with torch.no_grad():
        ours = sampling.guided(net, recipe, model, text, empty)(x, sigmas)
    assert recipe.sampler == "dpmpp_2m"
    np.testing.assert_allclose(ours[0], expected, atol=1e-4)
    random = sampling.recipe(tiny.settings(), preset="balanced", sampler="dpmpp_2m_sde")
    with pytest.raises(ValueError, match="dpmpp_2m_sde is stochastic"), torch.no_grad():
        sampling.guided(net, random, model, text, empty)(x, sigmas)


@pytest.mark.parametrize("switches", student.ABLATION.values(), ids=student.ABLATION)
def test_all_losses_of_an_exact_student_of_one_picture_are_zero(switches: dict[str, bool]) -> None:
    """The mean alone is data, so the teacher ends there from anywhere."""
    data = torch.full((3, 4, 8, 8), 0.7, dtype=torch.float64)
    terms = aim(**switches).losses(gaussian(0.7, 0.0), transported(0.7, 0.0), 3, data, noises(9))
    assert len(terms) == 3
    torch.testing.assert_close(torch.stack(terms), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-20)


def test_the_unshifted_loss_of_a_student_that_jumps_to_the_teachers_end_is_zero() -> None:
    """A mixture, whose ODE is curved: any other start or other noise levels of the teacher would show."""
    plain = aim(shifted=False)

    def solve(x: Tensor, sigmas: Array) -> Tensor:
        return torch.from_numpy(dpmpp_2m(mixture.denoise, x.numpy(), sigmas, lambda *_: x.numpy()))

    def denoise(x: Tensor, sigma: float) -> Denoised:
        x0 = solve(x, plain.teacher_sigmas(COSINE.sigma_to_timestep(sigma)))
        return Denoised(x0, (x - x0) / sigma)  # type: ignore[arg-type]

    terms = plain.losses(denoise, solve, 3, torch.zeros(3, 4, 8, 8), noises(1))
    assert [float(term) for term in terms] == [0.0, 0.0, 0.0]
    assert float(aim().losses(denoise, solve, 3, torch.zeros(3, 4, 8, 8), noises(9))[0]) > 0


@pytest.mark.parametrize("timestep", [999, 666, 332])
def test_the_shifted_target_leaves_an_exact_student_of_unit_gaussian_data_where_it_is(timestep: int) -> None:
    """On average over the fresh part of the noise; with nothing but fresh noise it is drawn to the mean by alpha."""
    sigma = COSINE.timestep_to_sigma(timestep)
    x = noises(1)() / COSINE.input_scale(sigma)
    x0 = transported(0.0, 1.0)(x, np.array([sigma, 0.0]))
    own, z = Denoised(x0, (x - x0) / sigma), noises(2)()  # type: ignore[arg-type]

    def mean_target(objective: student.Objective) -> Tensor:
        signs = [objective.target(transported(0.0, 1.0), x, sigma, own, lambda s=s: s * z) for s in (1, -1)]
        return (signs[0] + signs[1]) / 2

    torch.testing.assert_close(mean_target(aim()), x0, rtol=0, atol=1e-9)
    alpha = COSINE.input_scale(COSINE.timestep_to_sigma(round(0.7 * timestep)))
    torch.testing.assert_close(mean_target(aim(fresh=True)), alpha * x0, rtol=0, atol=1e-9)


def test_without_shift_the_shifted_target_is_the_plain_one() -> None:
    x = noises(1)() * COSINE.timestep_to_sigma(666)
    own = gaussian(0.3, 0.5)(x, COSINE.timestep_to_sigma(666))
    arguments = transported(0.3, 0.5), x, COSINE.timestep_to_sigma(666), own, noises(1)
    torch.testing.assert_close(aim(shift=1.0).target(*arguments), aim(shifted=False).target(*arguments))


def test_noise_correction_makes_the_first_step_exact() -> None:
    """Of one picture at a sigma_max of 14: x is mu + sigma z, while DDIM carries the missing mean into the noise."""
    mu, z = 2.0, noises(1)()
    states: dict[bool, Tensor] = {}
    for corrected in (True, False):
        exact, seen = gaussian(mu, 0.0), list[Tensor]()

        def recorded(x: Tensor, sigma: float, exact: Any = exact, seen: list[Tensor] = seen) -> Denoised:
            seen.append(x)
            return exact(x, sigma)

        aim(LINEAR, noise_correction=corrected).losses(recorded, transported(mu, 0.0), 2, z, noises(3))
        states[corrected] = seen[1]
    first, second, _ = trailing(LINEAR.noise_levels, 2)
    eps = (z / LINEAR.input_scale(first) - mu) / first
    torch.testing.assert_close(states[True], mu + second * z, rtol=0, atol=1e-12)
    torch.testing.assert_close(states[False], mu + second * eps, rtol=0, atol=1e-12)


def test_without_backward_distillation_later_steps_see_noised_data() -> None:
    data, seen = torch.full((3, 4, 8, 8), 5.0, dtype=torch.float64), list[Tensor]()

    def recorded(x: Tensor, sigma: float) -> Denoised:
        seen.append(x)
        return gaussian(0.0, 1.0)(x, sigma)

    aim(backward=False, shifted=False).losses(recorded, transported(0.0, 1.0), 2, data, noises(2))
    _, sigma, _ = trailing(COSINE.noise_levels, 2)
    normal = noises(2)
    _start, noise = normal(), normal()
    torch.testing.assert_close(seen[1], data + sigma * noise)


def trainer(seed: int = 0, **switches: bool) -> student.Student:
    settings = tiny.settings()
    merged, objective = stages.settings(settings, "student"), student.objective(settings, **switches)
    return student.Student(tiny.network(seed), tiny.network(5), torch.zeros(5, 16), merged, objective)


def test_only_a_teacher_that_starts_from_the_students_x0_is_guided_less() -> None:
    settings = tiny.settings()
    preset = sampling.recipe(settings, preset=settings.student.preset)
    less = preset.model_copy(update={"guidance_scale": settings.student.guidance})
    assert settings.student.guidance < preset.guidance_scale
    assert (trainer().recipe, trainer(shifted=False).recipe) == (less, preset)


def test_four_steps_equal_two_and_two_resumed(tmp_path: Path) -> None:
    straight, first, second = trainer(), trainer(), trainer(seed=1)
    tiny.halves(straight, first, second, tmp_path / "student.pt")
    assert tiny.same(straight, second)
    assert all(p.grad is None for p in straight.teacher.parameters())
