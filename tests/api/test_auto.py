"""Preset "auto": the best measured preset that the deadline leaves time for, on every route; and what it says of it."""

import base64
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from service import keys
from service.__main__ import main
from service.admission import MARGIN
from service.api.auto import SLACK
from service.engines.contract import ModelDescription
from service.engines.dispatch import Called
from service.engines.gaussian import GaussianEngine
from service.errors import InvalidRequest
from service.images import recipe_of
from service.recipe import load_presets
from tests.api.harness import Held, Running, eventually, serving
from tests.api.jobs import accepted
from tests.api.test_streaming import ROUTE, events

BODY: dict[str, Any] = {"prompt": "a café", "size": "64x64", "seed": 7, "preset": "auto"}
MODEL: ModelDescription = next(iter(GaussianEngine().models.values()))
SIDE = 64 // MODEL.latent.factor
ROW = 0.125  # seconds that a row of the network is said to take; the other networks take no time worth the name
EVIDENCE = (Path(__file__).parents[2] / "docs" / "evidence.md").read_text()
EPSILON, WHOLE = 1e-6, SLACK * MARGIN
PRESETS = {name: preset for name, preset in load_presets().items() if preset.suits(MODEL)}
DISTANCES = {name: p.frechet_distance for name, p in PRESETS.items() if p.frechet_distance is not None}
RATED = sorted(DISTANCES, key=lambda name: (DISTANCES[name], name))
BEST = RATED[0]


def teach(running: Running) -> None:
    """What the service would have learned from a slow network."""
    networks = (("text_encoder", (0, 0), 1), ("vae_decoder", (SIDE, SIDE), 1))
    learned = [*((*known, EPSILON) for known in networks), *(("unet", (SIDE, SIDE), n, n * ROW) for n in (1, 2))]
    for network, size, rows, took in learned:
        running.parts.runner._admission.costs.called(Called(MODEL, network, size, rows, 1, 0.0, took))


@pytest.fixture
def slow() -> Iterator[Running]:
    with serving() as running:
        teach(running)
        yield running


def price(running: Running, preset: str, **fields: Any) -> float:
    """Seconds of the preset by its rows: what explain lists, times what a row takes."""
    body = {**BODY, "preset": preset, **fields}
    return ROW * sum(len(step["rows"]) for step in running.post(body, "/v1/explain").json()["steps"])


def chosen(running: Running, seconds: float, **fields: Any) -> str:
    body = {**BODY, "deadline_ms": round(1000 * seconds), **fields}
    answer = running.post(body, "/v1/explain")
    assert answer.status_code == 200, answer.text
    recipe = answer.json()["recipe"]
    assert recipe["preset_auto"] is True
    return str(recipe["preset"])


def test_the_rating_is_the_measured_one() -> None:
    rows = re.findall(r"^\| ([a-z0-9-]+) \| (\d+) \| \S+(?: ±\S+)? \| (\S+) ±", EVIDENCE, re.M)
    measured = {(name, int(calls)): float(distance) for name, calls, distance in rows}
    presets = load_presets()
    rated = {name: preset.frechet_distance for name, preset in presets.items() if preset.frechet_distance is not None}
    for name, other in (("fast", "balanced"), ("quality", "ays")):  # they differ in their calls: its row is the other's
        one, two = (presets[which].recipe.model_dump() for which in (name, other))
        assert {field for field in one if one[field] != two[field]} == {"num_inference_steps"}
    expected = {
        name: measured.get((name, preset.recipe.num_inference_steps or 0)) for name, preset in presets.items()
    } | {"fast": measured["balanced", 8], "quality": measured["ays", 30]}
    assert rated == {name: value for name, value in expected.items() if value is not None}
    assert len(rated) == 11


def test_the_sentences_say_what_the_table_says() -> None:
    columns = {"error": 0, "Fréchet distance": 1, "accuracy": 4, "diversity": 6}
    told = 0
    for name, preset in load_presets().items():
        _, found, sentence = preset.evidence.partition("measured on Postcard (docs/evidence.md)")
        row = {"fast": "balanced", "quality": "ays"}.get(name, name)
        cells = re.search(rf"^\| {row} \| {preset.recipe.num_inference_steps} \| (.+) \|$", EVIDENCE, re.M)
        if not found or not cells:
            continue
        measured = [cell.split(" ")[0] for cell in cells[1].split(" | ")]
        for measure, column in columns.items():
            if said := re.search(rf"{measure} (-?(?:[\d.]+\d|\d))", sentence):
                decimals = len(said[1].partition(".")[2])
                assert f"{float(measured[column]):.{decimals}f}" == said[1], f"{name}: {measure}"
                told += 1
    assert told == 26


def test_the_best_that_fits_is_chosen_and_the_quickest_where_none_does(slow: Running) -> None:
    needed = {name: WHOLE * price(slow, name) for name in RATED}
    for limit in (0.001, *(seconds + side for seconds in needed.values() for side in (-0.1, 0.1))):
        fitting = [name for name in RATED if needed[name] <= limit]
        assert chosen(slow, limit) == (fitting or [min(RATED, key=needed.__getitem__)])[0], limit
    assert needed[BEST] > min(needed.values())  # else the limit decides nothing


def test_more_pictures_and_a_queue_leave_less_time() -> None:
    engine = Held()
    with serving(engine, max_concurrency=1) as running, ThreadPoolExecutor(2) as pool:
        teach(running)
        needed = {name: WHOLE * price(running, name) for name in RATED}
        limit = needed[BEST] + 0.5
        assert chosen(running, limit) == BEST
        before = WHOLE * price(running, "balanced", num_inference_steps=5)
        first = pool.submit(running.post, {**BODY, "preset": "balanced", "num_inference_steps": 5})
        eventually(lambda: engine.calls)
        assert chosen(running, limit) == next(name for name in RATED if before + needed[name] <= limit) != BEST
        body = {**BODY, "deadline_ms": round(1000 * limit), "n": 2}
        second = pool.submit(running.post, body)
        eventually(lambda: running.value("darkroom_pictures_waiting") >= 2)
        engine.go.set()
        assert first.result().status_code == 200
        recipes = [one["recipe"] for one in second.result().json()["data"]]
        two = next((name for name in RATED if before + 2 * needed[name] <= limit), min(RATED, key=needed.__getitem__))
        assert {recipe["preset"] for recipe in recipes} == {two}
        assert {recipe["preset_auto"] for recipe in recipes} == {True}


def test_what_does_not_fit_is_refused_before_the_first_call() -> None:
    engine = Held()
    engine.go.set()
    with serving(engine) as running:
        teach(running)
        answer = running.post({**BODY, "deadline_ms": 500})
        assert (answer.status_code, answer.json()["error"]["param"]) == (504, "deadline_ms")
        assert running.value("darkroom_deadlines_total", outcome="refused") == 1
        assert running.value("darkroom_refusals_total", reason="deadline") == 1
        assert not engine.calls


def test_without_a_deadline_or_experience_it_is_the_default(running: Running) -> None:
    with serving() as fresh:
        assert chosen(fresh, 0.001) == MODEL.default_preset
        recipe = fresh.post(BODY).json()["data"][0]["recipe"]
    assert (recipe["preset"], recipe["preset_auto"]) == (MODEL.default_preset, True)
    assert running.post({**BODY, "preset": "fast"}, "/v1/explain").json()["recipe"]["preset_auto"] is False


def test_every_route_says_what_was_chosen_and_its_recipe_replays_to_the_same_bytes(tmp_path: Path) -> None:
    with serving(jobs_dir=tmp_path) as running:
        teach(running)
        body = {**BODY, "deadline_ms": 60_000, "guidance_scale": 2.5}
        made = running.post(body).json()["data"][0]
        recipe, data = made["recipe"], base64.b64decode(made["b64_json"])
        assert (recipe["preset"], recipe["preset_auto"], recipe["guidance_scale"]) == (BEST, True, 2.5)
        assert recipe_of(data) == recipe
        again = running.post(recipe, headers={"accept": "image/png"})
        assert (again.headers["content-type"], again.content == data) == ("image/png", True)
        with running.client.stream("POST", ROUTE, json={**body, "stream": True}) as answer:
            (_, completed) = list(events(answer.iter_lines()))[-1]
        assert completed["recipe"] == recipe
        assert accepted(running, body)["recipes"] == [recipe]
        assert running.value("darkroom_requests_total", api="openai", preset=BEST, outcome="ok") == 3


def test_a_key_gets_the_best_of_its_own(tmp_path: Path) -> None:
    own = ["ays", "eps-scaled"]
    secret, entry = keys.new("guest", own, None)
    (tmp_path / "keys.toml").write_text(entry)
    with serving(keys_file=tmp_path / "keys.toml") as running:
        running.client.headers["authorization"] = f"Bearer {secret}"
        teach(running)
        assert chosen(running, 60) == min(own, key=RATED.index)
        refused = running.post(BODY)  # the default is not among them
        assert (refused.status_code, refused.json()["error"]["param"]) == (403, "preset")


def test_what_the_request_sets_stays_and_presets_that_exclude_it_take_no_part(slow: Running) -> None:
    answer = slow.post({**BODY, "deadline_ms": 60_000, "num_inference_steps": 3, "sampler": "euler"}, "/v1/explain")
    assert answer.json()["recipe"]["sampler"] == "euler"
    assert len(answer.json()["steps"]) == 3
    for wrong, field in (({"sampler": "nope"}, "sampler"), ({"model": "nope"}, "model"), ({"size": "1x1"}, "size")):
        refused = slow.post({**BODY, "deadline_ms": 60_000, **wrong})
        assert refused.json()["error"]["param"] == field


def test_explain_takes_no_deadline_that_nothing_looks_at(running: Running) -> None:
    answer = running.post({**BODY, "preset": "fast", "deadline_ms": 10}, "/v1/explain")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "deadline_ms")


def test_no_own_preset_takes_the_name(tmp_path: Path) -> None:
    (tmp_path / "auto.toml").write_text("")
    with pytest.raises(InvalidRequest, match="built-in"):
        load_presets(tmp_path)


def test_the_command_line_learns_and_chooses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_CACHE_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    options = ["--engine", "gaussian", "--size", "64x64", "--seed", "7", "--preset", "auto"]

    def generate(*more: str) -> dict[str, Any]:
        run = CliRunner().invoke(main, ["generate", "a café", "-o", "x.png", *options, *more])
        assert run.exit_code == 0, run.stderr
        return recipe_of((tmp_path / "x.png").read_bytes())

    assert generate()["preset"] == "balanced"
    (file,) = tmp_path.glob("costs-*.json")
    rows = json.loads(file.read_text())
    file.write_text(json.dumps([[*row[:5], 1e-4 * row[4], row[6]] for row in rows]))
    recipe = generate("--deadline-ms", "60000")
    assert (recipe["preset"], recipe["preset_auto"]) == (BEST, True)
    file.write_text(json.dumps([[*row[:5], 10.0 * row[4], row[6]] for row in rows]))
    run = CliRunner().invoke(main, ["generate", "a café", "-o", "y.png", *options, "--deadline-ms", "900"])
    assert (run.exit_code, "more than the deadline leaves" in run.stderr) == (1, True)
    assert not (tmp_path / "y.png").exists()
    shown = CliRunner().invoke(main, ["explain", *options, "--deadline-ms", "900", "--json"])
    assert json.loads(shown.stdout)["recipe"]["preset"] == "fast"
    wrong = CliRunner().invoke(main, ["explain", *options[:-1], "fast", "--deadline-ms", "900"])
    assert (wrong.exit_code, "--deadline-ms" in wrong.stderr) == (2, True)
