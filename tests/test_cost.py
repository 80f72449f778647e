"""Prices: means of what was seen, sums over what a recipe will call, kept across restarts."""

from pathlib import Path

import numpy as np
import pytest

from service.cost import INERTIA, Costs, Price
from service.engines.dispatch import Called
from service.engines.gaussian import GaussianEngine
from service.recipe import Recipe
from tests.orders import recipe

MODEL = next(iter(GaussianEngine().models.values()))
SIDE = 64 // MODEL.latent.factor


def took(seconds: float, network: str = "unet", size: tuple[int, int] = (SIDE, SIDE), rows: int = 1) -> Called:
    return Called(MODEL, network, size, rows, requests=1, waited=0.0, took=seconds)


def taught(costs: Costs, *calls: Called) -> Costs:
    for call in calls:
        costs.called(call)
    return costs


def price(costs: Costs, wanted: Recipe) -> Price | None:
    return costs.price(wanted, MODEL, wanted.calls(MODEL))


def everything() -> list[Called]:
    return [took(0.5, "text_encoder", (0, 0)), took(0.25), took(0.375, rows=2), took(2.0, "vae_decoder")]


def test_a_price_is_the_sum_of_the_calls_that_explain_lists() -> None:
    wanted = recipe(steps=6, guidance_scale=3.0, guidance_interval=(0.5, 5.0))
    rows = [len(call.rows) for call in wanted.calls(MODEL)]
    assert set(rows) == {1, 2}
    found = price(taught(Costs(), *everything()), wanted)
    assert found == Price(1.0, tuple({1: 0.25, 2: 0.375}[n] for n in rows), 2.0)
    assert found.left(0) == pytest.approx(1.0 + sum(found.evaluations) + 2.0)
    assert found.left(len(rows)) == 2.0


def test_nothing_is_promised_of_a_network_that_never_ran() -> None:
    for missing in range(4):
        seen = [call for number, call in enumerate(everything()) if number != missing]
        unknown = price(taught(Costs(), *seen), recipe()) is None
        assert unknown == (missing in (0, 3))  # rows of the unet are scaled from the other count


def test_the_mean_is_the_mean_and_then_follows_what_changes() -> None:
    seconds = np.random.default_rng(0).uniform(0.1, 1.0, INERTIA).tolist()
    costs = taught(Costs(), *map(took, seconds))
    assert costs.expected(MODEL, "unet", (SIDE, SIDE), 1) == pytest.approx(np.mean(seconds))
    taught(costs, *(took(9.0) for _ in range(8 * INERTIA)))
    assert costs.expected(MODEL, "unet", (SIDE, SIDE), 1) == pytest.approx(9.0, rel=1e-2)


@pytest.mark.parametrize(("size", "rows"), [((SIDE, SIDE), 4), ((2 * SIDE, 2 * SIDE), 1), ((SIDE, 4 * SIDE), 1)])
def test_what_was_not_seen_is_scaled_by_rows_and_area(size: tuple[int, int], rows: int) -> None:
    assert taught(Costs(), took(0.25)).expected(MODEL, "unet", size, rows) == 1.0


def test_costs_outlive_the_process(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "costs.json"
    first = taught(Costs(file), *everything(), took(0.75))
    first.save()
    assert price(Costs(file), recipe()) == price(first, recipe()) is not None
    assert [path.name for path in file.parent.iterdir()] == ["costs.json"]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "[[1]]",
        "null",
        '[["d", "unet", 1, 1, 1, -1.0, 3]]',
        '[["d", "unet", 1, 1, 1, NaN, 3]]',
        "[" * 10**5,
    ],
    ids=lambda text: text[:20],
)
def test_a_file_that_is_not_ours_is_learned_anew(tmp_path: Path, content: str) -> None:
    file = tmp_path / "costs.json"
    file.write_text(content)
    assert Costs(file).expected(MODEL, "unet", (SIDE, SIDE), 1) is None


def test_a_disk_that_refuses_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    taught(Costs(tmp_path / "file" / "costs.json"), *everything()).save()
