"""Every word of a caption: synonyms of the attributes. Together with the templates it is a closed vocabulary."""

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
MATERIAL_WORDS = {
    "matte": ("matte", "dull", "chalky"),
    "glossy": ("glossy", "shiny", "polished", "lacquered"),
    "metal": ("metal", "metallic", "chrome"),
}
COUNT_WORDS = {2: ("two", "a pair of", "2"), 3: ("three", "three", "a row of three", "3")}
TIME_WORDS = {
    "dawn": (
        "at dawn", "at daybreak", "in the early morning", "at first light", "at sunrise", "in the soft light of dawn",
    ),
    "day": ("at noon", "in daylight", "on a sunny day", "at midday", "by day", "in bright sunshine"),
    "sunset": (
        "at sunset", "at dusk", "in the evening", "at sundown", "in the glow of sunset", "under a red evening sky",
    ),
    "night": ("at night", "at midnight", "by night", "in the dark of night", "at night time"),
}  # fmt: skip
TIME_NOUNS = {
    "dawn": ("dawn", "daybreak", "sunrise", "early morning"),
    "day": ("midday", "noon", "a sunny day", "bright daylight"),
    "sunset": ("sunset", "dusk", "sundown", "evening"),
    "night": ("night", "midnight", "night time"),
}
SKY_WORDS = {
    "clear": ("clear sky", "a cloudless sky", "no clouds"),
    "cloudy": ("clouds", "a cloudy sky", "scattered clouds", "drifting clouds"),
}
DISC_WORDS = {
    "sun": ("the sun in the sky", "a bright sun", "the sun shining"),
    "moon": ("the moon", "the moon in the sky", "a bright moon", "moonlight"),
    "none": (),
}
STARS = ("stars", "a starry sky", "the milky way", "many stars")  # on clear nights
DETAIL_WORDS = {
    "lake": ("a lake", "a mountain lake", "reflections in a lake", "still water"),
    "island": ("an island", "a distant island", "an island on the horizon"),
    "flowers": ("flowers", "wild flowers", "colourful flowers"),
    "firs": ("fir trees", "frosted firs", "snowy firs"),
    "none": (),
}
VIEWS = {
    "mountains": (
        "mountains", "a mountain range", "high peaks", "an alpine landscape", "mountain peaks", "rocky mountains",
    ),
    "sea": ("the sea", "the ocean", "a calm sea", "open water", "waves on the sea", "the ocean with gentle waves"),
    "desert": ("a desert", "sand dunes", "desert dunes", "the dunes of a desert", "a sandy desert"),
    "forest": ("a forest", "pine trees", "a pine forest", "woods", "a forest of firs", "firs in the mist"),
    "meadow": ("a meadow", "green hills", "rolling hills", "a green meadow", "grassland", "rolling green fields"),
    "snow": (
        "a snowy field", "a winter landscape", "snowy hills", "snow-covered hills", "a field of snow",
        "a white winter scene",
    ),
}  # fmt: skip
PLACES = {
    "mountains": ("in front of mountains", "in the mountains", "before high peaks", "with mountains behind"),
    "sea": ("on the beach", "by the sea", "on a sandy beach", "on the shore of the ocean", "at the seaside"),
    "desert": ("in the desert", "on sand dunes", "in a sandy desert", "among desert dunes"),
    "forest": ("in a forest", "in the woods", "among pine trees", "in a forest clearing", "in front of firs"),
    "meadow": ("in a meadow", "on the grass", "in front of green hills", "in a green meadow", "on a green field"),
    "snow": ("in the snow", "on a snowy field", "in a winter landscape", "in front of snowy hills"),
}
FLOOR_WORDS = {
    "plain": (),
    "wood": ("on a wooden floor", "on wooden planks", "on a floor of wood"),
    "checkered": ("on a checkered floor", "on a tiled floor", "on black and white tiles"),
}
BACKDROP_WORDS = {
    "grey": ("grey", "gray"),
    "cream": ("cream", "beige"),
    "rose": ("rose", "pink"),
    "sky": ("light blue", "sky blue"),
    "mint": ("mint", "pale green"),
    "lilac": ("lilac", "lavender"),
    "charcoal": ("charcoal", "dark"),
}
RELATION_WORDS = {  # between the first and the second group, then the other way round
    "left": (
        ("and", "next to", "beside", "left of", "to the left of", "on the left,"), ("right of", "to the right of"),
    ),
    "front": (("in front of", "before"), ("behind", "in the back,")),
}  # fmt: skip
MEDIA = ("a photo of", "a picture of", "an image of", "a postcard of", "photo of", "picture:")
GLUE = (
    "a", "an", "the", "in", "of", "on", "with", "over", "under", "and", "there", "is", "are", "stands", "stand",
    "left", "right", "front", "view", "empty", "landscape", "studio", "shot", "background", "backdrop", "wall",
    "against", "scene", "at",
)  # fmt: skip


def words() -> set[str]:
    """The closed vocabulary of all captions, lower case and without punctuation."""
    tables = (
        KIND_WORDS, COLOUR_WORDS, MATERIAL_WORDS, COUNT_WORDS, TIME_WORDS, TIME_NOUNS, SKY_WORDS, DISC_WORDS,
        DETAIL_WORDS, VIEWS, PLACES, FLOOR_WORDS, BACKDROP_WORDS,
    )  # fmt: skip
    phrases = [phrase for table in tables for options in table.values() for phrase in options]
    phrases += [p for pair in RELATION_WORDS.values() for options in pair for p in options]
    plurals = [plural(kind) for options in KIND_WORDS.values() for kind in options]
    text = " ".join([*phrases, *plurals, *STARS, *MEDIA, *GLUE])
    return set(text.replace(",", " ").replace(":", " ").split())


def plural(noun: str) -> str:
    return {"box": "boxes", "torus": "tori"}.get(noun, noun + "s")
