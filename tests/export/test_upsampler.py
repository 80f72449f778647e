"""A model with an upsampler is otherwise the model that it was."""

from pathlib import Path

import pytest

from export import weights
from tests.conftest import Exported


def test_a_description_without_one_does_not_mention_it(exported: Exported) -> None:
    assert exported.description.upsampler is None
    folder = exported.repository / exported.description.networks["unet"].entry / "description"
    assert "upsampler" not in (folder / "model.json").read_text()
    assert "upsampler" not in exported.description.model_dump_json(exclude_none=True), "nor does its digest"


def test_the_pipeline_is_rebuilt_without_it(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    description, folder = weights.find(exported.repository, exported.description.name)
    absent = description.networks["unet"].model_copy(update={"entry": "absent"})
    more = description.model_copy(update={"networks": {**description.networks, "upsampler": absent}})
    monkeypatch.setattr(weights, "find", lambda *_: (more, folder))
    assert type(weights.rebuild(Path(exported.repository), "tiny")).__name__ == "StableDiffusionPipeline"
