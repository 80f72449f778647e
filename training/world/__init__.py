"""A procedurally rendered world: pictures, their attributes and their captions, deterministic per seed."""

from training.world.captions import captions
from training.world.quality import Quality
from training.world.render import render
from training.world.scene import VOCABULARY, Scene, Solid, again, draw

__all__ = ["VOCABULARY", "Quality", "Scene", "Solid", "again", "captions", "draw", "render"]
