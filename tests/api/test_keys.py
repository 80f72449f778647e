"""API keys over HTTP: who may ask, with which presets, for how much; and nobody stops another's work."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from service import keys
from tests.api.harness import Held, eventually, serving

BODY: dict[str, Any] = {"prompt": "x", "size": "64x64", "seed": 1, "num_inference_steps": 4, "preset": "fast"}
ROUTE = "/v1/images/generations"


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def written(folder: Path, *entries: tuple[str, list[str], float | None]) -> tuple[Path, list[dict[str, str]]]:
    made = [keys.new(*entry) for entry in entries]
    file = folder / "keys.toml"
    file.write_text("".join(text for _, text in made))
    return file, [bearer(secret) for secret, _ in made]


def test_every_route_of_the_api_asks_and_the_others_do_not(tmp_path: Path) -> None:
    file, (mine,) = written(tmp_path, ("mine", [], None))
    with serving(keys_file=file) as running:
        for method, path in [("POST", ROUTE), ("POST", "/v1/explain"), ("GET", "/v1/models"), ("DELETE", f"{ROUTE}/x")]:
            answer = running.client.request(method, path, headers=bearer("dk-no"))
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
            assert answer.json()["error"]["type"] == "authentication_error"
        for path in ("/health/live", "/health/ready", "/metrics", "/", "/openapi.json"):
            assert running.client.get(path).status_code == 200
        assert running.post(BODY, headers=mine).status_code == 200
        assert running.client.get("/openapi.json").json()["security"] == [{"key": []}]


def test_a_key_has_its_presets_and_its_budget(tmp_path: Path) -> None:
    file, (guest, free) = written(tmp_path, ("guest", ["fast"], 6.0), ("free", [], None))
    engine = Held()
    with serving(engine, keys_file=file) as running, ThreadPoolExecutor(2) as pool:
        answer = running.post({**BODY, "preset": "quality"}, headers=guest)
        assert (answer.status_code, answer.json()["error"]["param"]) == (403, "preset")
        asked = [pool.submit(running.post, BODY, headers=guest)]
        eventually(lambda: len(engine.calls) == 1)
        answer = running.post(BODY, headers=guest)  # five seconds each, as far as is known
        assert answer.status_code == 429
        assert 30 <= int(answer.headers["retry-after"]) <= 40
        assert running.value("darkroom_refusals_total", reason="budget") == 1
        asked.append(pool.submit(running.post, BODY, headers=free))
        engine.go.set()
        assert [future.result().status_code for future in asked] == [200, 200]


def test_nobody_stops_the_work_of_another_key(tmp_path: Path) -> None:
    file, (mine, other) = written(tmp_path, ("mine", [], None), ("other", [], None))
    engine = Held()
    with serving(engine, keys_file=file) as running, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(running.post, BODY, headers={**mine, "x-request-id": "r"})
        eventually(lambda: len(engine.calls) == 1)
        assert engine.calls[0].tenant == "mine"
        assert running.client.delete(f"{ROUTE}/r", headers=other).status_code == 404
        assert running.client.delete(f"{ROUTE}/r", headers=mine).status_code == 200
        engine.go.set()
        assert asked.result().status_code == 499
