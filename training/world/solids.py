"""Objects on the floor: soft shadows, contact occlusion, mirror images, matte, glossy and metal surfaces."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from training.world.canvas import Array, Frame, luminance, mix, paint, rgb, smoothstep
from training.world.light import FOCAL
from training.world.shapes import Placed

PIGMENTS = {
    "red": paint("d4151b"), "orange": paint("f47a08"), "yellow": paint("f7d417"), "green": paint("17962f"),
    "turquoise": paint("12bdb8"), "blue": paint("1740d8"), "purple": paint("7a22bd"), "pink": paint("fb7fb4"),
    "white": paint("eceae6"), "black": paint("19191b"),
}  # fmt: skip


@dataclass(frozen=True)
class Lamp:
    """Light on objects: direction and colour of the key light, what is seen in a direction (..., 3), the fill."""

    toward: Array
    key: Array
    fill: Array
    bounce: Array  # light from the floor
    around: Callable[[Array], Array]
    softness: float = 9.0


def stand(frame: Frame, horizon: float, placed: list[Placed], lamp: Lamp, mirror: float) -> None:
    """Put solids on the floor: mirror images first, then shadows, then the solids from far to near."""
    order = sorted(placed, key=lambda p: -p.z)
    if mirror:
        for p in order:
            _draw(frame, horizon, replace(p, flip=-1.0), order, lamp, mirror)
    _shadows(frame, horizon, order, lamp)
    for p in order:
        _draw(frame, horizon, p, order, lamp, 1.0)


def _region(frame: Frame, p: Placed, horizon: float) -> tuple[slice, slice]:
    """Rows and columns that a solid or its mirror image may touch."""
    foot, h = horizon + FOCAL / p.z, p.solid.height
    x = p.x * FOCAL / p.z
    rows = (foot - 2.5 * h, foot + 0.75 * h) if p.flip > 0 else (foot - 0.4 * h, foot + 2.8 * h)
    return slice(*(frame.row(y) for y in rows)), slice(frame.column(x - 1.5 * h), frame.column(x + 1.5 * h))


def _shadows(frame: Frame, horizon: float, placed: list[Placed], lamp: Lamp) -> None:
    """Darken the floor where the key light is hidden and where solids touch it."""
    top = frame.row(horizon + 0.05)
    t = 1 / np.maximum(frame.y[top:, None] - horizon, 0.03)
    x, z = frame.x[None, :] * t, FOCAL * t + 0 * frame.x[None, :]
    floor = np.zeros_like(x)
    share = luminance(lamp.key) * lamp.toward[1]
    share = float(share / (share + 0.75 * luminance(lamp.fill)))
    light = np.ones_like(x)
    for p in placed:
        d = np.maximum(p.distance(x, floor, z), 0)
        light *= 1 - 0.62 * np.exp(-d / (0.10 * p.s)) - 0.22 * np.exp(-d / (0.5 * p.s))
        light *= 1 - share * (1 - p.visibility(x, floor, z, lamp.toward, lamp.softness))
    cool = mix(lamp.fill / lamp.fill.max(), rgb(1, 1, 1), np.clip(0.55 + 0.45 * light, 0, 1))
    frame.rgb[top:] *= light[..., None] * cool


def _draw(frame: Frame, horizon: float, p: Placed, others: list[Placed], lamp: Lamp, opacity: float) -> None:
    """Trace and shade one solid into the frame."""
    rows, columns = _region(frame, p, horizon)
    if rows.stop <= rows.start or columns.stop <= columns.start:
        return
    dx, dy = np.broadcast_arrays(frame.x[None, columns], horizon - frame.y[rows, None])
    t, alpha = p.trace(dx, dy, frame.pixel)
    x, y, z = dx * t, 1 + dy * t, FOCAL * t
    view = -np.stack([dx, dy, np.full_like(dx, FOCAL)], -1)
    view /= np.sqrt((view * view).sum(-1, keepdims=True))
    if p.flip < 0:
        alpha = alpha * opacity * (0.35 + 0.65 * np.exp(np.minimum(y, 0) / (0.9 * p.s))) * (y < 0)
        view = view * rgb(1, -1, 1)
        p, y = replace(p, flip=1.0), -y
    n = p.normal(x, y, z)
    hidden = np.ones_like(x)
    for other in others:
        if other.solid is not p.solid:
            hidden = hidden * other.visibility(x, y, z, lamp.toward, lamp.softness)
    colour = _shade(p, n, view, lamp, hidden, np.clip(y / p.s, 0, 2))
    block = frame.rgb[rows, columns]
    block += (colour - block) * alpha[..., None]


def _shade(p: Placed, n: Array, view: Array, lamp: Lamp, seen: Array, height: Array) -> Array:
    """Diffuse light, and by material a soft sheen, a clear coat (Schlick's Fresnel) or a tinted mirror."""
    pigment = PIGMENTS[p.solid.colour]
    facing = np.clip((n @ lamp.toward + 0.12) / 1.12, 0, 1) * seen
    up = 0.5 + 0.5 * n[..., 1]
    grounded = 0.45 + 0.55 * smoothstep(0, 0.55, height)
    ambient = mix(lamp.bounce, lamp.fill, up) * (grounded * (0.7 + 0.3 * up))[..., None]
    diffuse = pigment * (lamp.key * facing[..., None] + ambient)
    cosine = np.clip((n * view).sum(-1), 0, 1)
    fresnel = (1 - cosine) ** 5
    mirrored = 2 * cosine[..., None] * n - view
    half = lamp.toward + view
    half /= np.sqrt((half * half).sum(-1, keepdims=True))
    spark = np.clip((n * half).sum(-1), 0, 1) * (seen > 0.3)
    if p.solid.material == "matte":
        sheen = lamp.key * (0.035 * spark**12 * seen)[..., None]
        return np.asarray(diffuse + sheen + 0.12 * fresnel[..., None] * lamp.fill)
    image = lamp.around(mirrored) * grounded[..., None]
    if p.solid.material == "glossy":
        coat = (0.045 + 0.6 * fresnel)[..., None]
        spots = (1.5 * spark**260 + 0.05 * spark**30)[..., None]
        return np.asarray(diffuse * (1 - coat) + coat * image + lamp.key * spots)
    tint = mix(0.10 + 0.90 * pigment, rgb(1, 1, 1), 0.8 * fresnel)
    spots = (0.8 * spark**40 + 1.6 * spark**300)[..., None]
    return np.asarray(0.40 * diffuse + 0.95 * tint * image + pigment * lamp.key * spots)
