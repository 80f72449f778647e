"""What sharpens a decoder beyond pixels: gradients on a pyramid, a judge's features, a discriminator of patches."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from training.judge import Judge


def gradient_loss(a: Tensor, b: Tensor, scales: int = 3) -> Tensor:
    """L1 of horizontal and vertical differences on a pyramid: weighs edges, which plain L1 leaves soft."""
    e, terms = a - b, []
    for _ in range(scales):
        terms += [(e[..., 1:] - e[..., :-1]).abs().mean(), (e[..., 1:, :] - e[..., :-1, :]).abs().mean()]
        e = nn.functional.avg_pool2d(e, 2)
    return torch.stack(terms).sum() / scales


def perceptual_loss(judge: Judge, a: Tensor, b: Tensor) -> Tensor:
    """Squared distance of channel-normalised features, summed over layers (Zhang et al. 2018, eq. 1)."""
    terms = []
    for layer in judge.body:
        a, b = layer(a), layer(b)
        if not isinstance(layer, nn.Conv2d | nn.BatchNorm2d):
            x, y = (nn.functional.normalize(part.float(), dim=1) for part in (a, b))
            terms.append((x - y).square().sum(1).mean())
    return torch.stack(terms).sum()


def border_loss(a: Tensor, b: Tensor, block: int) -> Tensor:
    """Squared difference of the steps between pixels on two sides of blocks' borders: what shows as a seam, [B].

    a, b [B, C, H, W] of whole blocks; an error that is the same on both sides costs nothing, nor does a lone block.
    """
    e = a - b
    down, right = e.diff(dim=2)[:, :, block - 1 :: block], e.diff(dim=3)[..., block - 1 :: block]
    count = max(down[0].numel() + right[0].numel(), 1)
    return (down.square().sum((1, 2, 3)) + right.square().sum((1, 2, 3))) / count


class Discriminator(nn.Sequential):
    """Scores overlapping patches (Isola et al. 2017) with spectral normalisation (Miyato et al. 2018)."""

    def __init__(self, widths: list[int]) -> None:
        layers: list[nn.Module] = []
        for a, b in pairwise([3, *widths]):
            layers += [spectral_norm(nn.Conv2d(a, b, 4, 2, 1)), nn.LeakyReLU(0.2)]
        super().__init__(*layers, nn.Conv2d(widths[-1], 1, 3, padding=1))


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's loss (Lim & Ye 2017)."""
    return (nn.functional.relu(1 - real).mean() + nn.functional.relu(1 + fake).mean()) / 2


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last: Tensor) -> Tensor:
    """Ratio of the losses' gradients at the decoder's last layer (Esser et al. 2021, eq. 7)."""
    wanted, given = (
        torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (reconstruction, adversarial)
    )
    return (wanted / (given + 1e-4)).clamp(max=1e4).detach()
