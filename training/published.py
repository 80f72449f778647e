"""The way back: a run that goes on from the published model, for which its own checkpoints are not needed.

A run may keep text encoder and PCA of its own, as that of a new world does: then the UNet is turned into its latents.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from export.weights import rebuild
from training import autoencoder, checkpoint, decoder, unet

PCA = Path(__file__).with_name("encoder_pca.npz")


def start(config: Any) -> list[str]:
    """Fill the run with the parts of the published model that it does not hold yet; returns their names."""
    runs, filled = Path(config.paths.runs), list[str]()
    pipeline = rebuild(config.paths.repository, config.paths.model.name)
    runs.mkdir(parents=True, exist_ok=True)
    if not (runs / PCA.name).exists():
        shutil.copy(PCA, runs)
        filled.append(PCA.name)
    for name in ("tokenizer", "text_encoder"):
        if not (runs / name).exists():
            getattr(pipeline, name).save_pretrained(runs / name)
            filled.append(name)
    pca, theirs = autoencoder.pca(config), autoencoder.Pca.load(PCA)
    if not np.array_equal(pca.analysis, theirs.analysis):
        turn(pipeline.unet, rotation(pca, theirs))
    vae = autoencoder.build(config, pca)
    networks = [(unet, unet.build(config), pipeline.unet), (decoder, vae, pipeline.vae)]
    for stage, net, published in networks:
        path = stage.checkpoint_path(config)
        if not path.exists() and type(published) is type(net):
            _save(path, net, published)
            filled.append(path.name)
    return filled


def rotation(ours: autoencoder.Pca, theirs: autoencoder.Pca) -> Tensor:
    """The orthogonal matrix nearest to the map of our latents to theirs: noise must stay noise."""
    u, _, v = np.linalg.svd(ours.synthesis @ theirs.analysis * theirs.scaling_factor / ours.scaling_factor)
    return torch.from_numpy(u @ v).float()


@torch.no_grad()
def turn(net: UNet2DConditionModel, turned: Tensor) -> None:
    """Make a network for latents z one for latents y, where z = y @ turned in every cell."""
    net.conv_in.weight.copy_(torch.einsum("yz,czhw->cyhw", turned, net.conv_in.weight))
    net.conv_out.weight.copy_(torch.einsum("yz,zchw->ychw", turned, net.conv_out.weight))
    net.conv_out.bias.copy_(turned @ net.conv_out.bias)


def _save(path: Path, net: nn.Module, published: nn.Module) -> None:
    """A checkpoint of weights alone; ValueError if the configuration means another network."""
    try:
        checkpoint.copy(net.parameters(), published.parameters())
    except ValueError as error:
        raise ValueError(f"{path.stem}: the published network is not the configured one: {error}") from error
    checkpoint.save(path, {"ema": [p.detach() for p in net.parameters()], "step": 0, "samples": 0})
