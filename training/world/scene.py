"""What a picture shows: the attributes of a scene and the distribution they are drawn from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from training.world.quality import Quality

TERRAINS = ("mountains", "sea", "desert", "forest", "meadow", "snow")
SCENES = (*TERRAINS, "studio")
TIMES = ("dawn", "day", "sunset", "night")
KINDS = ("sphere", "cube", "cone", "cylinder", "ring")
COLOURS = ("red", "orange", "yellow", "green", "turquoise", "blue", "purple", "pink", "white", "black")
MATERIALS = ("matte", "glossy", "metal")
BACKDROPS = ("grey", "cream", "rose", "sky", "mint", "lilac", "charcoal")
FLOORS = ("plain", "wood", "checkered")
COUNTS = ("none", "one", "two", "three")
VOCABULARY = {
    "scene": SCENES,
    "time": (*TIMES, "none"),
    "sky": ("clear", "cloudy", "none"),
    "disc": ("sun", "moon", "none"),  # what shines in the picture itself
    "detail": ("lake", "island", "flowers", "firs", "none"),
    "count": COUNTS,  # of the first object
    "kind": (*KINDS, "none"),
    "colour": (*COLOURS, "none"),
    "material": (*MATERIALS, "none"),
    "kind2": (*KINDS, "none"),
    "colour2": (*COLOURS, "none"),
    "material2": (*MATERIALS, "none"),
    "relation": ("left", "front", "none"),  # of the first object to the second
    "backdrop": (*BACKDROPS, "none"),
    "floor": (*FLOORS, "none"),
}
CLASHES = {  # objects that would vanish in front of a backdrop or a terrain
    "grey": ("white",), "cream": ("white", "yellow"), "rose": ("pink", "white"), "sky": ("turquoise", "blue"),
    "mint": ("green", "turquoise"), "lilac": ("purple", "pink"), "charcoal": ("black",),
    "snow": ("white",), "desert": ("orange",), "meadow": ("green",), "forest": ("green",),
}  # fmt: skip
DETAILS = {"mountains": ("lake", 0.5), "sea": ("island", 0.4), "meadow": ("flowers", 0.7), "snow": ("firs", 0.6)}


class Look(NamedTuple):
    """What an object is."""

    kind: str
    colour: str
    material: str


@dataclass(frozen=True)
class Solid:
    """One shaded object: what it is and where it stands (x and base in the picture, height of its half as seen)."""

    kind: str
    colour: str
    material: str
    x: float
    base: float
    height: float
    yaw: float


@dataclass(frozen=True)
class Scene:
    """Everything a caption may mention; `first` solids of one kind, then at most one other."""

    seed: int
    scene: str
    time: str
    sky: str
    disc: str
    detail: str
    backdrop: str
    floor: str
    solids: tuple[Solid, ...]
    relation: str
    quality: Quality

    @property
    def first(self) -> int:
        """How many solids the first group has."""
        return len(self.solids) - (self.relation != "none")

    def attributes(self) -> dict[str, str]:
        """The labels that the text encoder and the judge are trained on."""
        names = {
            "scene": self.scene, "time": self.time, "sky": self.sky, "disc": self.disc, "detail": self.detail,
            "backdrop": self.backdrop, "floor": self.floor, "relation": self.relation, "count": COUNTS[self.first],
        }  # fmt: skip
        second = self.solids[self.first :]
        for suffix, group in (("", self.solids[:1]), ("2", second)):
            names["kind" + suffix] = group[0].kind if group else "none"
            names["colour" + suffix] = group[0].colour if group else "none"
            names["material" + suffix] = group[0].material if group else "none"
        return names


def generator(seed: int, stream: str) -> np.random.Generator:
    """An independent random stream of one picture ("scene", "pixels", "captions", "quality")."""
    return np.random.default_rng([seed, *stream.encode()])


def draw(seed: int) -> Scene:
    """Draw a scene: 34 % landscapes, 24 % one object outdoors, 14 % in the studio, the rest two or three objects."""
    rng = generator(seed, "scene")
    count, relation, indoors = _layout(rng)
    backdrop = str(rng.choice(BACKDROPS)) if indoors else "none"
    floor = str(rng.choice(FLOORS, p=(0.5, 0.25, 0.25))) if indoors else "none"
    place = "studio" if indoors else str(rng.choice(TERRAINS))
    time, sky, disc = ("none", "none", "none") if indoors else _weather(rng)
    name, share = DETAILS.get(place, ("none", 0.0))
    detail = name if rng.random() < share and not (count and name in ("lake", "firs")) else "none"
    solids = _solids(rng, count, relation, backdrop if indoors else place)
    quality = Quality.draw(generator(seed, "quality"))
    return Scene(seed, place, time, sky, disc, detail, backdrop, floor, solids, relation, quality)


def _layout(rng: np.random.Generator) -> tuple[int, str, bool]:
    """(objects of the first kind, relation to a second, indoors)."""
    layouts = (
        (0, "none", False), (1, "none", False), (1, "none", True), (1, "left", False), (1, "left", True),
        (1, "front", False), (1, "front", True), (2, "none", False), (2, "none", True), (3, "none", False),
        (3, "none", True),
    )  # fmt: skip
    shares = (0.34, 0.24, 0.14, 0.05, 0.05, 0.03, 0.03, 0.03, 0.03, 0.03, 0.03)
    return layouts[int(rng.choice(len(layouts), p=shares))]


def _weather(rng: np.random.Generator) -> tuple[str, str, str]:
    """Time of day, sky, and the sun or the moon if it is in the picture."""
    time = str(rng.choice(TIMES))
    sky = "cloudy" if rng.random() < (0.3 if time == "night" else 0.55) else "clear"
    disc = "moon" if time == "night" else "sun"
    return time, sky, disc if rng.random() < 0.72 else "none"


def again(scene: Scene, seed: int) -> Scene:
    """Another scene of the same description: what it leaves open is drawn anew, and the land is another."""
    groups = [scene.solids[:1], scene.solids[scene.first :]]
    looks = [Look(group[0].kind, group[0].colour, group[0].material) for group in groups if group]
    solids = _placed(generator(seed, "scene"), scene.first, scene.relation, looks) if looks else ()
    return replace(scene, seed=seed, solids=solids)


def _solids(rng: np.random.Generator, count: int, relation: str, around: str) -> tuple[Solid, ...]:
    """Draw what the objects look like, and place them."""
    if not count:
        return ()
    colours = rng.choice([c for c in COLOURS if c not in CLASHES.get(around, ())], size=2, replace=False)
    kinds, materials = rng.choice(KINDS, size=2), rng.choice(MATERIALS, size=2, p=(0.38, 0.37, 0.25))
    looks = [Look(str(k), str(c), str(m)) for k, c, m in zip(kinds, colours, materials, strict=True)]
    return _placed(rng, count, relation, looks)


def _placed(rng: np.random.Generator, count: int, relation: str, looks: Sequence[Look]) -> tuple[Solid, ...]:
    """Equal objects side by side, or one and a second one to the right or behind."""
    if relation == "none":
        return _row(rng, count, looks[0])
    side, mirror = relation == "left", float(rng.choice((-1, 1)))
    spots = ((-0.42, 0.66, 0.33), (0.42, 0.66, 0.33)) if side else ((-0.30, 0.74, 0.29), (0.32, 0.38, 0.36))
    solids = []
    for look, (x, base, height) in zip(looks, spots, strict=True):
        jitter, size, yaw = rng.uniform(-0.05, 0.05, 2), float(rng.uniform(0.88, 1.08)), float(rng.random())
        x, base = (x + float(jitter[0])) * (1 if side else mirror), base + float(jitter[1])
        solids.append(Solid(*look, x, base, height * size, yaw))
    return tuple(solids)


def _row(rng: np.random.Generator, count: int, look: Look) -> tuple[Solid, ...]:
    """One, two or three equal objects from left to right."""
    centres = {1: (float(rng.choice((0.0, -0.34, 0.34), p=(0.5, 0.25, 0.25))),), 2: (-0.42, 0.42), 3: (-0.6, 0.0, 0.6)}
    height = float({1: rng.uniform(0.36, 0.52), 2: rng.uniform(0.29, 0.36), 3: rng.uniform(0.22, 0.26)}[count])
    height *= 0.86 if look.kind == "cube" and count > 1 else 1.0
    base, solids = float(rng.uniform(0.56, 0.70)), []
    for x in centres[count]:
        wobble, yaw = rng.uniform(-0.04, 0.04, 2), float(rng.random())
        solids.append(Solid(*look, x + float(wobble[0]), base + float(wobble[1]), height, yaw))
    return tuple(solids)
