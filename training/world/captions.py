"""Captions: varied syntax and synonyms for the attributes of a scene."""

import numpy as np

from training.world import words
from training.world.scene import Scene, Solid, generator

Random = np.random.Generator


def captions(scene: Scene, count: int = 4, partial: float = 0.0) -> list[str]:
    """Several captions of one scene.

    A complete caption names every object with number, kind and colour, the place and the time of day (in the studio
    the backdrop and a floor that is not plain); material, weather and details are named now and then. A share
    `partial` of the captions leaves some of that out. All words are in words.words().
    """
    rng = generator(scene.seed, "captions")
    return [_caption(rng, scene, bool(rng.random() < partial)) for _ in range(count)]


def _caption(rng: Random, scene: Scene, partial: bool) -> str:
    parts = _parts(rng, scene)
    if partial:
        parts = _leave_out(rng, parts)
    style = rng.random()
    if style < 0.18:
        return _tags(rng, parts)
    text = _sentence(rng, scene, parts) if style < 0.32 else _phrase(rng, parts)
    return _dress(rng, text)


def _pick(rng: Random, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def _parts(rng: Random, scene: Scene) -> dict[str, str]:
    """The pieces of a caption: subject, place, view, when, noun, extra; absent ones are missing."""
    parts = {"subject": _subject(rng, scene)} if scene.solids else {}
    if scene.scene == "studio":
        wall = _pick(rng, words.BACKDROP_WORDS[scene.backdrop])
        parts["view"] = f"{wall} {_pick(rng, ('background', 'backdrop', 'wall'))}"
        parts["place"] = _pick(rng, ("in a studio", "in the studio", "at the studio"))
        if words.FLOOR_WORDS[scene.floor]:
            parts["floor"] = _pick(rng, words.FLOOR_WORDS[scene.floor])
        return parts
    parts["view"], parts["place"] = _pick(rng, words.VIEWS[scene.scene]), _pick(rng, words.PLACES[scene.scene])
    parts["when"], parts["noun"] = _pick(rng, words.TIME_WORDS[scene.time]), _pick(rng, words.TIME_NOUNS[scene.time])
    extra = _extra(rng, scene)
    return parts | ({"extra": extra} if extra else {})


def _extra(rng: Random, scene: Scene) -> str:
    """One or two of sky, sun or moon, stars and details."""
    options: list[tuple[str, ...]] = [words.SKY_WORDS[scene.sky], words.DISC_WORDS[scene.disc]]
    options += [words.DETAIL_WORDS[scene.detail]] * 2
    if scene.time == "night" and scene.sky == "clear":
        options.append(words.STARS)
    named = [_pick(rng, options[int(i)]) for i in rng.permutation(len(options)) if options[int(i)]]
    share = rng.random()
    chosen = named[: 0 if share < 0.45 else 1 if share < 0.85 else 2]
    return " and ".join(dict.fromkeys(chosen))


def _leave_out(rng: Random, parts: dict[str, str]) -> dict[str, str]:
    """Drop the time, the place or the subject, but never everything."""
    place, time = ("place", "view", "floor"), ("when", "noun")
    options: tuple[tuple[str, ...], ...] = (time, (*time, "floor"), place, (*place, *time, "extra"), ("subject",))
    if "subject" not in parts:
        options = (time, time, ("extra",), time, time)
    drop = options[int(rng.integers(len(options)))]
    return {name: text for name, text in parts.items() if name not in drop}


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _solid(rng: Random, solid: Solid, count: int, bare: bool) -> str:
    """Noun phrase of equal objects, such as "a shiny red ball", "three matte cubes, blue"."""
    noun = _pick(rng, words.KIND_WORDS[solid.kind])
    noun = words.plural(noun) if count > 1 else noun
    adjectives = [_pick(rng, words.COLOUR_WORDS[solid.colour])]
    if rng.random() < 0.5:
        adjectives.insert(0, _pick(rng, words.MATERIAL_WORDS[solid.material]))
    if bare and len(adjectives) == 1 and rng.random() < 0.2:
        text = f"{noun} in {adjectives[0]}"
    else:
        text = " ".join([*adjectives, noun])
    if count > 1:
        return f"{_pick(rng, words.COUNT_WORDS[count])} {text}"
    return text if bare else _article(text)


def _subject(rng: Random, scene: Scene) -> str:
    """All objects with their relation, either of them first, or with the place in the picture."""
    bare = bool(rng.random() < 0.15)
    names = [_solid(rng, scene.solids[0], scene.first, bare)]
    if scene.relation == "none":
        x = scene.solids[0].x
        if scene.first == 1 and abs(x) > 0.2 and rng.random() < 0.6:
            return names[0] + (" on the left" if x < 0 else " on the right")
        return names[0]
    names.append(_solid(rng, scene.solids[-1], 1, bare))
    forward, backward = words.RELATION_WORDS[scene.relation]
    if rng.random() < 0.7:
        link = _pick(rng, forward)
        if link.endswith(","):
            return f"{link} {names[0]} and {names[1]} on the right"
        return f"{names[0]} {link} {names[1]}"
    link = _pick(rng, backward)
    return f"{link} {names[1]}, in front {names[0]}" if link.endswith(",") else f"{names[1]} {link} {names[0]}"


def _phrase(rng: Random, parts: dict[str, str]) -> str:
    """Pieces joined to a noun phrase in one of several orders."""
    subject, view, when = parts.get("subject"), parts.get("view"), parts.get("when")
    place = " ".join(parts[k] for k in ("floor", "place") if k in parts)
    tail = f" with {parts['extra']}" if "extra" in parts else ""
    u = int(rng.integers(4))
    if "when" not in parts and view and subject and view.endswith(("background", "backdrop", "wall")):
        joint = ("against a", "in front of a", "with a", "before a")[u]
        return (
            f"{subject} {place}, {view}" if rng.random() < 0.3 else f"{subject} {parts.get('floor', '')} {joint} {view}"
        )
    if not subject:
        body = f"{view} {when or ''}".strip() if u < 2 or not when else f"{parts['noun']} over {view}"
        return (body if view else when or tail[6:]) + (tail if view or when else "")
    if view and u == 2:
        return f"{view}{' ' + when if when else ''}{tail}, {subject} in front"
    body = f"{subject} {place} {when or ''}".strip()
    if when and u == 3:
        body = f"{when}, {subject} {place}".strip()
    return body + tail


def _tags(rng: Random, parts: dict[str, str]) -> str:
    """Comma-separated tags in any order."""
    names: list[str] = [k for k in ("subject", "view", "noun", "extra", "floor") if k in parts]
    if parts.get("place") and rng.random() < 0.4:
        names.append("place")
    return ", ".join(parts[names[int(i)]] for i in rng.permutation(len(names)))


def _sentence(rng: Random, scene: Scene, parts: dict[str, str]) -> str:
    """A full sentence."""
    where = " ".join(parts[k] for k in ("floor", "place", "when") if k in parts)
    view = f", {parts['view']}" if scene.scene == "studio" and "view" in parts else ""
    extra = f", with {parts['extra']}" if "extra" in parts else ""
    if "subject" not in parts:
        body = " ".join(parts[k] for k in ("view", "when") if k in parts) or where
        return _pick(rng, ("a view of ", "an empty landscape with ", "")) + body + extra
    many = scene.first > 1 or scene.relation != "none"
    if rng.random() < 0.5 or not where:
        be = "are" if scene.first > 1 else "is"
        return f"there {be} {parts['subject']} {where}".strip() + view + extra
    return f"{parts['subject']} {'stand' if many else 'stands'} {where}" + view + extra


def _dress(rng: Random, text: str) -> str:
    """Sometimes say that it is a picture, sometimes write it as a sentence."""
    text, u = " ".join(text.split()), rng.random()
    if u < 0.14 and not text.startswith(("there", "on", "in", "at", "by", "under", "a view")):
        return f"{_pick(rng, words.MEDIA)} {text}"
    if u < 0.30:
        return text[0].upper() + text[1:] + "."
    return text
