"""The closed-form model against its own density: predictions are scores, by Tweedie's formula."""

import numpy as np
import pytest
from scipy.special import logsumexp

from service.engines.contract import Array, Conditioning, Ticket
from service.engines.gaussian import NAME, SPREAD, GaussianEngine, mixture_means, signal_and_noise

TICKET = Ticket()


def encoded(engine: GaussianEngine, prompt: str) -> Conditioning:
    return engine.encode_text(NAME, engine.tokenize(NAME, prompt), TICKET)


def log_density(x: Array, a: float, b: float, means: Array) -> float:
    """log p_t(x) of x_t = a x0 + b eps, up to a constant."""
    variance = (a * SPREAD) ** 2 + b**2
    return float(logsumexp(-np.sum((x - a * means) ** 2, axis=(1, 2, 3)) / (2 * variance)))


@pytest.mark.parametrize("prediction", ["eps", "v", "x0", "flow"])
@pytest.mark.parametrize("timestep", [1.0, 340.5, 700.0, 999.0])
def test_predictions_follow_from_the_score(prediction: str, timestep: float) -> None:
    engine = GaussianEngine(prediction=prediction)  # type: ignore[arg-type]
    row = encoded(engine, "a red boat")
    a, b = signal_and_noise(engine.models[NAME].noise_schedule, timestep)
    means = mixture_means(row.arrays["spectrum"], 2, 3)
    x = (a * means.mean(axis=0) + 0.3 * b).astype(np.float32).astype(np.float64)  # between the components
    score, h = np.empty_like(x), 1e-5
    for index in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[index] = h
        score[index] = (log_density(x + step, a, b, means) - log_density(x - step, a, b, means)) / (2 * h)
    eps = -b * score
    x0_times_a = x + b**2 * score  # Tweedie: a E[x0 | x] = x + b^2 score
    expected = {
        "eps": eps,
        "x0": x0_times_a / a,
        "v": a * eps - b * x0_times_a / a,
        "flow": eps - x0_times_a / a,
    }[prediction]
    found = engine.predict(NAME, "unet", x[None], np.array([timestep]), [row], TICKET)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 / a)


def test_rows_prompts_and_sizes_are_independent() -> None:
    engine = GaussianEngine()
    rows = [encoded(engine, prompt) for prompt in ("a", "b", "a")]
    x = np.random.default_rng(1).standard_normal((3, 4, 8, 32))
    together = engine.predict(NAME, "unet", x, np.array([10.0, 500.0, 999.0]), rows, TICKET)
    for i, t in enumerate((10.0, 500.0, 999.0)):
        alone = engine.predict(NAME, "unet", x[i : i + 1], np.array([t]), [rows[i]], TICKET)
        np.testing.assert_array_equal(together[i], alone[0])
    assert rows[0].digest == rows[2].digest != rows[1].digest
    assert not np.array_equal(rows[0].arrays["spectrum"], rows[1].arrays["spectrum"])


def test_pictures_have_the_latents_mean_colours() -> None:
    engine = GaussianEngine()
    latent = np.full((4, 8, 12), 0.5)
    pixels = engine.decode(NAME, latent, TICKET)
    assert pixels.shape == (3, 64, 96)
    factors = np.array(engine.models[NAME].preview)
    expected = np.tanh(latent[:, 0, 0] @ factors[:-1] + factors[-1])
    np.testing.assert_allclose(pixels, np.broadcast_to(expected[:, None, None], pixels.shape), atol=1e-6)


def test_null_answers_zeros_of_the_right_shape() -> None:
    engine = GaussianEngine(null=True)
    row = encoded(engine, "anything")
    output = engine.predict(NAME, "unet", np.ones((2, 4, 8, 8)), np.ones(2), [row, row], TICKET)
    assert (output.shape, output.dtype, np.abs(output).max()) == ((2, 4, 8, 8), np.float32, 0.0)
    assert engine.decode(NAME, np.ones((4, 8, 8)), TICKET).shape == (3, 64, 64)
