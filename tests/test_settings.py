"""Settings: one field, one environment variable, frozen, refused when wrong."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from service.settings import ROOT, Settings

VALUES: dict[str, tuple[str, Any]] = {
    "host": ("0.0.0.0", "0.0.0.0"),
    "port": ("0", 0),
    "engine": ("triton", "triton"),
    "model_repository": ("/srv/models", Path("/srv/models")),
    "presets_dir": ("/srv/presets", Path("/srv/presets")),
    "default_model": ("other", "other"),
    "cache_dir": ("/srv/cache", Path("/srv/cache")),
    "precision": ("fp32", "fp32"),
    "threads": ("2", 2),
    "triton_url": ("triton:8001", "triton:8001"),
    "otlp_endpoint": ("http://collector:4318/v1/traces", "http://collector:4318/v1/traces"),
    "keys_file": ("/srv/keys.toml", Path("/srv/keys.toml")),
    "jobs_dir": ("/srv/jobs", Path("/srv/jobs")),
    "jobs_keep_seconds": ("3600", 3600),
    "jobs_max_bytes": ("1000", 1000),
    "max_concurrency": ("3", 3),
    "max_wait_seconds": ("0", 0),
    "max_prompt_chars": ("77", 77),
    "max_steps": ("50", 50),
    "max_body_bytes": ("1000", 1000),
    "max_image_bytes": ("1000", 1000),
    "max_pixels": ("4096", 4096),
    "text_cache": ("0", 0),
    "drain_seconds": ("2.5", 2.5),
}


def test_every_field_has_its_variable_and_says_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert VALUES.keys() == Settings.model_fields.keys()
    for name, (text, _) in VALUES.items():
        monkeypatch.setenv(f"DARKROOM_{name.upper()}", text)
    settings = Settings()
    assert {name: getattr(settings, name) for name in VALUES} == {name: value for name, (_, value) in VALUES.items()}
    assert all(field.description for field in Settings.model_fields.values())


def test_arguments_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_PORT", "1")
    assert Settings(port=2).port == 2


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *[("port", text) for text in ("65536", "-1", "x")],
        *[(name, "0") for name in ("max_concurrency", "max_steps", "max_body_bytes", "max_prompt_chars")],
        *[(name, "0") for name in ("jobs_keep_seconds", "jobs_max_bytes", "max_image_bytes", "max_pixels")],
        *[(name, "-1") for name in ("max_wait_seconds", "threads", "text_cache", "drain_seconds")],
        ("engine", "cuda"),
        ("precision", "fp8"),
    ],
)
def test_wrong_values_are_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    monkeypatch.setenv(f"DARKROOM_{name.upper()}", text)
    with pytest.raises(ValidationError) as refused:
        Settings()
    assert refused.value.errors()[0]["loc"] == (name,)


def test_settings_are_frozen_closed_and_know_where_the_models_are() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Settings(prot=1)  # type: ignore[call-arg]
    assert Path(__file__).parent.parent / "service" == ROOT / "service"
