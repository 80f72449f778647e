"""A few minutes of one GPU: rendering on all cores beside the decoder, then the UNet, then weights in pieces."""

import copy
import time
from multiprocessing import get_context
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from training import data, decoder, features, pack, unet


def run(config: Any, folder: Path) -> Path:
    """Spend [lease]'s minutes and write the pieces into a new folder; the run must hold a text encoder."""
    if not (config.paths.runs / "text_encoder").exists():
        raise ValueError(f"{config.paths.runs} holds no text encoder: train it, or start from the published model")
    begin, lease = time.monotonic(), config.lease
    helpers = [*data.start(config), _encoding(config)]
    _wait(config, begin + 60 * lease.render)
    if lease.decoder:
        decoder.train(_limited(config, "autoencoder", lease.decoder))
    for helper in helpers:
        helper.terminate()
        helper.join()
    features.build(config, watch=False)
    left = lease.minutes - lease.pack - (time.monotonic() - begin) / 60
    unet.train(_limited(config, "unet", left))
    return pack.pack(config, folder, whole=False)


def _encoding(config: Any) -> SpawnProcess:
    """A process that encodes what is rendered."""
    process = get_context("spawn").Process(target=features.build, args=(config, True), daemon=True)
    process.start()
    return process


def _wait(config: Any, until: float) -> None:
    """Until then, and longer while no chunk is finished."""
    while time.monotonic() < until or not data.finished(config):
        time.sleep(0.5)


def _limited(config: Any, table: str, minutes: float) -> Any:
    """The configuration with another length of one stage."""
    limited = copy.deepcopy(config)
    getattr(limited, table).minutes = minutes
    return limited
