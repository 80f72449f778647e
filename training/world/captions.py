"""Captions: varied syntax and synonyms for the attributes of a scene."""

import numpy as np

from training.world.scene import Scene, Solid, generator

KIND_WORDS = {
    "sphere": ("sphere", "ball", "orb"),
    "cube": ("cube", "box", "block"),
    "cone": ("cone",),
    "cylinder": ("cylinder", "column", "pillar"),
    "ring": ("ring", "torus", "hoop", "donut"),
}
COLOUR_WORDS = {
    "red": ("red", "red", "crimson", "scarlet"),
    "orange": ("orange", "orange", "tangerine"),
    "yellow": ("yellow", "yellow", "lemon yellow"),
    "green": ("green", "green", "emerald"),
    "turquoise": ("turquoise", "turquoise", "cyan", "teal"),
    "blue": ("blue", "blue", "cobalt"),
    "purple": ("purple", "purple", "violet"),
    "pink": ("pink", "pink", "rosy"),
    "white": ("white", "white", "ivory"),
    "black": ("black", "black", "jet black"),
}
TIME_WORDS = {
    "dawn": (
        "at dawn",
        "at daybreak",
        "in the early morning",
        "at first light",
        "at sunrise",
        "in the soft light of dawn",
    ),
    "day": (
        "at noon",
        "in daylight",
        "on a sunny day",
        "under a blue sky",
        "at midday",
        "by day",
        "in bright sunshine",
    ),
    "sunset": (
        "at sunset",
        "at dusk",
        "in the evening",
        "at sundown",
        "in the glow of sunset",
        "under a red evening sky",
    ),
    "night": ("at night", "in the moonlight", "under the stars", "at midnight", "by night", "under the moon"),
}
TIME_NOUNS = {
    "dawn": ("dawn", "daybreak", "sunrise", "early morning"),
    "day": ("midday", "noon", "a sunny day", "bright daylight"),
    "sunset": ("sunset", "dusk", "sundown", "evening"),
    "night": ("night", "moonlight", "a starry night", "midnight"),
}
VIEWS = {
    "mountains": (
        "mountains",
        "a mountain range",
        "high peaks",
        "an alpine landscape",
        "snow-capped mountains",
        "rocky mountains",
    ),
    "sea": ("the sea", "the ocean", "a calm sea", "open water", "waves on the sea", "the ocean with gentle waves"),
    "desert": ("a desert", "sand dunes", "desert dunes", "the dunes of a desert", "a sandy desert"),
    "forest": ("a forest", "pine trees", "a pine forest", "woods", "a forest of firs", "fir trees in the mist"),
    "meadow": ("a meadow", "green hills", "rolling hills", "a flowery meadow", "grassland", "rolling green fields"),
    "snow": (
        "a snowy field",
        "a winter landscape",
        "snowy hills",
        "snow-covered hills",
        "a field of snow",
        "a white winter scene",
    ),
}
PLACES = {
    "mountains": ("in front of mountains", "in the mountains", "before high peaks", "with mountains behind"),
    "sea": ("on the beach", "by the sea", "on a sandy beach", "on the shore of the ocean", "at the seaside"),
    "desert": ("in the desert", "on sand dunes", "in a sandy desert", "among desert dunes"),
    "forest": ("in a forest", "in the woods", "among pine trees", "in a forest clearing", "in front of fir trees"),
    "meadow": ("in a meadow", "on the grass", "in front of green hills", "in a flowery meadow", "on a green field"),
    "snow": ("in the snow", "on a snowy field", "in a winter landscape", "in front of snowy hills"),
}
SURFACES = {
    "plain": (),
    "wood": ("on a wooden floor", "on wooden planks"),
    "checkered": ("on a checkered floor", "on a tiled floor"),
}
BACKGROUNDS = {
    "grey": ("grey", "gray"),
    "cream": ("cream", "beige"),
    "rose": ("rose", "pink"),
    "sky": ("light blue", "sky blue"),
    "mint": ("mint", "pale green"),
    "lilac": ("lilac", "lavender"),
    "charcoal": ("charcoal", "dark"),
}


def captions(scene: Scene, count: int = 4) -> list[str]:
    """Several captions of one scene; every one names all objects, the scene and the time of day."""
    rng = generator(scene.seed, "captions")
    write = _indoors if scene.scene == "studio" else _with_objects if scene.solids else _landscape
    return [_dress(rng, write(rng, scene)) for _ in range(count)]


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def _dress(rng: np.random.Generator, text: str) -> str:
    """Sometimes say that it is a picture, or end the sentence."""
    u = rng.random()
    if u < 0.16:
        return _pick(rng, ("a photo of ", "a picture of ", "an image of ", "a postcard of ")) + text
    return text + "." if u < 0.24 else text


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _solid(rng: np.random.Generator, solid: Solid) -> str:
    """Noun phrase of an object, such as "a shiny red ball"."""
    words = [_pick(rng, COLOUR_WORDS[solid.colour]), _pick(rng, KIND_WORDS[solid.kind])]
    if rng.random() < 0.3:
        words.insert(0, _pick(rng, ("shiny", "glossy", "polished") if solid.glossy else ("matte", "dull")))
    elif rng.random() < 0.15 and solid.height > 0.46:
        words.insert(0, _pick(rng, ("big", "large")))
    return _article(" ".join(words))


def _subject(rng: np.random.Generator, scene: Scene) -> str:
    """All objects, left to right, with their place in the picture when it is marked."""
    names = [_solid(rng, s) for s in scene.solids]
    if len(names) == 2:
        return (
            names[0]
            + _pick(rng, (" and ", " and ", " next to ", " beside ", " left of ", " to the left of "))
            + names[1]
        )
    x = scene.solids[0].x
    if abs(x) > 0.2 and rng.random() < 0.6:
        return names[0] + (" on the left" if x < 0 else " on the right")
    return names[0]


def _with_objects(rng: np.random.Generator, scene: Scene) -> str:
    subject, place, when = _subject(rng, scene), _pick(rng, PLACES[scene.scene]), _pick(rng, TIME_WORDS[scene.time])
    view, noun = _pick(rng, VIEWS[scene.scene]), _pick(rng, TIME_NOUNS[scene.time])
    return (
        f"{subject} {place} {when}",
        f"{subject} {place} {when}",
        f"{subject} {place}, {noun}",
        f"{noun}, {subject} {place}",
        f"{view} {when}, {subject} in front",
        f"{view} {when} with {subject}",
        f"{when}, {subject} stands {place}",
    )[int(rng.integers(7))]


def _landscape(rng: np.random.Generator, scene: Scene) -> str:
    view, when, noun = (
        _pick(rng, VIEWS[scene.scene]),
        _pick(rng, TIME_WORDS[scene.time]),
        _pick(rng, TIME_NOUNS[scene.time]),
    )
    return (
        f"{view} {when}",
        f"{view} {when}",
        f"{noun} over {view}",
        f"{view}, {noun}",
        f"a view of {view} {when}",
        f"an empty landscape: {view} {when}",
    )[int(rng.integers(6))]


def _indoors(rng: np.random.Generator, scene: Scene) -> str:
    subject, wall = _subject(rng, scene), _pick(rng, BACKGROUNDS[scene.backdrop])
    surface = f" {_pick(rng, SURFACES[scene.floor])}" if SURFACES[scene.floor] else ""
    return (
        f"{subject}{surface} in a studio, {wall} background",
        f"{subject}{surface} in front of a {wall} backdrop",
        f"a studio shot of {subject}{surface}, {wall} background",
        f"{subject}{surface} against a {wall} wall",
        f"studio, {wall} backdrop, {subject}{surface}",
    )[int(rng.integers(5))]
