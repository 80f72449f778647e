"""Assemble build/postcard: a diffusers directory, weights in float16, replaced atomically."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from tokenizers import Tokenizer

from training import autoencoder, decoder, stages, text, unet


def pipeline(config: Any) -> StableDiffusionPipeline:
    """The latest state of all parts as one pipeline."""
    tokenizer, encoder = text.load(config.paths.runs)
    return StableDiffusionPipeline(
        vae=decoder.load_ema(config), text_encoder=encoder, tokenizer=tokenizer,
        unet=stages.load(config, config.publish.unet), scheduler=unet.scheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def publish(config: Any) -> Path:
    """Write the model beside its final place, then swap the directories."""
    target = Path(config.paths.model)
    partial, old = target.with_name(target.name + ".partial"), target.with_name(target.name + ".old")
    shutil.rmtree(partial, ignore_errors=True)
    pipeline(config).to(torch.float16).save_pretrained(partial)
    if config.publish.student:
        stages.load(config, config.publish.student).half().save_pretrained(partial / "unet_student")
    _load_as_float32(partial / "text_encoder" / "config.json")
    _slow_tokenizer_files(partial / "tokenizer")
    autoencoder.pca(config).save(partial / "encoder_pca.npz")
    for path in partial.rglob("*.safetensors"):
        path.chmod(0o644)
    if target.exists():
        target.rename(old)
    partial.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    return target


def _load_as_float32(path: Path) -> None:
    """transformers loads in the dtype that the file names, diffusers in float32: make them agree."""
    content = json.loads(path.read_text()) | {"dtype": "float32"}
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def _slow_tokenizer_files(folder: Path) -> None:
    """vocab.json and merges.txt, for readers older than transformers 5."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for path in tokenizer.model.save(str(folder)):
        Path(path).chmod(0o644)
