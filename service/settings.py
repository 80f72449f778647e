"""What the machine is: frozen, from the environment (prefix DARKROOM_)."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

ROOT = Path(__file__).resolve().parent.parent


class Settings(BaseSettings):
    """One field, one environment variable, one line in the README's table (tested)."""

    model_config = SettingsConfigDict(env_prefix="DARKROOM_", frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on")
    engine: Literal["embedded", "triton", "gaussian"] = Field("embedded", description="what runs the networks")
    model_repository: Path = Field(ROOT / "model_repository", description="Triton-layout folder of networks")
    presets_dir: Path | None = Field(None, description="folder of own presets (*.toml), beside the built-in ones")
    default_model: str = Field("postcard", description="model of a request that names none")
    cache_dir: Path = Field(
        Path.home() / ".cache" / "darkroom", description="compiled networks; safe to delete at any time"
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="embedded engine: auto takes bf16 where the device has it"
    )
    threads: int = Field(0, ge=0, description="embedded engine: CPU threads, 0 takes all")
    triton_url: str = Field("127.0.0.1:8001", description="gRPC address of Triton")
    otlp_endpoint: str | None = Field(
        None, description="OpenTelemetry collector, http://host:4318/v1/traces, with the extra otel; none: no traces"
    )
    keys_file: Path | None = Field(None, description="TOML file of API keys; without it everyone may ask")
    jobs_dir: Path | None = Field(None, description="folder of accepted long work, prompts included; none: no jobs")
    jobs_keep_seconds: float = Field(
        86_400.0, gt=0, allow_inf_nan=False, description="time that a finished job and its pictures are kept"
    )
    jobs_max_bytes: int = Field(2_000_000_000, ge=1, description="most that the jobs of one API key take on disk")
    max_concurrency: int = Field(8, ge=1, description="pictures in progress at once")
    max_wait_seconds: float = Field(
        60.0, ge=0, description="longest estimated wait in front of a new request; beyond it, 429"
    )
    max_prompt_chars: int = Field(32_000, ge=1, description="longest prompt accepted, in characters")
    max_steps: int = Field(200, ge=1, description="most sampling steps a request may ask for")
    max_body_bytes: int = Field(2_000_000, ge=1, description="largest request body accepted")
    max_image_bytes: int = Field(20_000_000, ge=1, description="largest picture accepted to be enlarged, as a file")
    max_pixels: int = Field(2**25, ge=1, description="largest enlarged picture a request may ask for, in pixels")
    text_cache: int = Field(256, ge=0, description="encoded prompts kept in memory")
    drain_seconds: float = Field(30.0, ge=0, description="time that work in progress gets after SIGTERM")
