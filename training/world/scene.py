"""What a picture shows: the attributes of a scene and the distribution they are drawn from."""

from dataclasses import dataclass, replace

import numpy as np

TERRAINS = ("mountains", "sea", "desert", "forest", "meadow", "snow")
SCENES = (*TERRAINS, "studio")
TIMES = ("dawn", "day", "sunset", "night")
KINDS = ("sphere", "cube", "cone", "cylinder", "ring")
COLOURS = ("red", "orange", "yellow", "green", "turquoise", "blue", "purple", "pink", "white", "black")
BACKDROPS = ("grey", "cream", "rose", "sky", "mint", "lilac", "charcoal")
FLOORS = ("plain", "wood", "checkered")
VOCABULARY = {
    "scene": SCENES,
    "time": (*TIMES, "none"),
    "kind": (*KINDS, "none"),
    "colour": (*COLOURS, "none"),
    "kind2": (*KINDS, "none"),
    "colour2": (*COLOURS, "none"),
    "backdrop": (*BACKDROPS, "none"),
    "floor": (*FLOORS, "none"),
}
CLASHES = {  # objects that would vanish in front of a backdrop
    "grey": ("white",), "cream": ("white", "yellow"), "rose": ("pink", "white"), "sky": ("turquoise", "blue"),
    "mint": ("green", "turquoise"), "lilac": ("purple", "pink"), "charcoal": ("black",), "none": (),
}  # fmt: skip
HEIGHTS = {1: (0.38, 0.56), 2: (0.32, 0.42)}  # of an object, by how many there are
JITTER = 0.08  # of an object's place


@dataclass(frozen=True)
class Solid:
    """One shaded object: what it is and where it stands (x in [-1, 1], height as a fraction of the picture)."""

    kind: str
    colour: str
    glossy: bool
    x: float
    height: float
    yaw: float


@dataclass(frozen=True)
class Scene:
    """Everything a caption may mention; objects are ordered from left to right."""

    seed: int
    scene: str
    time: str
    backdrop: str
    floor: str
    solids: tuple[Solid, ...]

    def attributes(self) -> dict[str, str]:
        """The labels that the text encoder and the judge are trained on."""
        kinds = [s.kind for s in self.solids] + ["none", "none"]
        colours = [s.colour for s in self.solids] + ["none", "none"]
        return {
            "scene": self.scene, "time": self.time, "backdrop": self.backdrop, "floor": self.floor,
            "kind": kinds[0], "colour": colours[0], "kind2": kinds[1], "colour2": colours[1],
        }  # fmt: skip


@dataclass(frozen=True)
class Quality:
    """Photographic defects; the default is a flawless picture."""

    exposure: float = 1.0
    colour: float = 1.0
    noise: float = 0.0
    blur: float = 0.0


def generator(seed: int, stream: str) -> np.random.Generator:
    """An independent random stream of one picture ("scene", "pixels", "captions")."""
    return np.random.default_rng([seed, *stream.encode()])


def draw(seed: int) -> Scene:
    """Draw a scene: 28 % landscapes, 30 % one object outdoors, 26 % one in the studio, 16 % two objects."""
    rng = generator(seed, "scene")
    count, indoors = _layout(rng.random())
    backdrop = str(rng.choice(BACKDROPS)) if indoors else "none"
    floor = str(rng.choice(FLOORS, p=(0.6, 0.2, 0.2))) if indoors else "none"
    scene = "studio" if indoors else str(rng.choice(TERRAINS))
    time = "none" if indoors else str(rng.choice(TIMES))
    return Scene(seed, scene, time, backdrop, floor, _solids(rng, count, backdrop))


def _layout(u: float) -> tuple[int, bool]:
    """Map a uniform number to (number of objects, indoors)."""
    edges = ((0.28, 0, False), (0.58, 1, False), (0.84, 1, True), (0.92, 2, False), (1.01, 2, True))
    return next((count, indoors) for edge, count, indoors in edges if u < edge)


def _solids(rng: np.random.Generator, count: int, backdrop: str) -> tuple[Solid, ...]:
    """Draw objects from left to right; two objects are smaller and differ in colour."""
    colours = [c for c in COLOURS if c not in CLASHES[backdrop]]
    chosen = rng.choice(colours, size=count, replace=False)
    centres = {0: (), 1: (float(rng.choice((0.0, -0.35, 0.35), p=(0.7, 0.15, 0.15))),), 2: (-0.45, 0.45)}[count]
    low, high = HEIGHTS.get(count, (0.0, 0.0))
    return tuple(
        Solid(
            kind=str(rng.choice(KINDS)), colour=str(colour), glossy=bool(rng.random() < 0.5),
            x=x + float(rng.uniform(-JITTER, JITTER)), height=float(rng.uniform(low, high)),
            yaw=float(rng.uniform(0, 1)),
        )
        for x, colour in zip(centres, chosen, strict=True)
    )  # fmt: skip


def again(scene: Scene, seed: int) -> Scene:
    """Another scene of the same description: objects on their side, of new size and pose; the land is all new."""
    rng = generator(seed, "scene")
    centres = (-0.45, 0.45) if len(scene.solids) == 2 else (-0.35, 0.0, 0.35)
    low, high = HEIGHTS.get(len(scene.solids), (0.0, 0.0))
    moved = tuple(
        replace(
            solid, x=min(centres, key=lambda x: abs(x - solid.x)) + float(rng.uniform(-JITTER, JITTER)),
            height=float(rng.uniform(low, high)), yaw=float(rng.uniform(0, 1)),
        )
        for solid in scene.solids
    )  # fmt: skip
    return replace(scene, seed=seed, solids=moved)
