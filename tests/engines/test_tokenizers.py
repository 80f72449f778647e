"""Prompts to ids: equal to the tokenizers library's own padding, and never truncated."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from service.engines.contract import load_descriptions
from service.engines.tokenizers import PromptTokenizer, open_repository
from service.errors import InvalidRequest, Unavailable
from tests.engines.tiny import NAME, TOKENS


@pytest.fixture(scope="module")
def tokenize(repository: Path) -> PromptTokenizer:
    return PromptTokenizer.load(*load_descriptions(repository)[NAME])


@pytest.fixture(scope="module")
def reference(repository: Path) -> Tokenizer:
    made = Tokenizer.from_file(str(load_descriptions(repository)[NAME][1] / "tokenizer.json"))
    made.no_truncation()
    made.enable_padding(pad_id=1, length=TOKENS)
    return made


@settings(deadline=None)
@given(prompt=st.text(max_size=30))
def test_ids_are_those_of_the_library_or_the_prompt_is_refused(
    tokenize: PromptTokenizer, reference: Tokenizer, prompt: str
) -> None:
    length = len(prompt.encode()) + 2
    if length > TOKENS:
        with pytest.raises(InvalidRequest, match=f"{length - 2} tokens long; tiny reads at most {TOKENS - 2}"):
            tokenize(prompt, "prompt")
    else:
        (ids,) = tokenize(prompt, "prompt")
        assert ids.dtype == np.int64
        assert ids.tolist() == reference.encode(prompt).ids


@pytest.mark.parametrize("prompt", ["a" * 100_000, "half \ud83d of a pair", "\udc00"])
def test_what_cannot_be_read_is_refused_by_name(tokenize: PromptTokenizer, prompt: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        tokenize(prompt, "negative_prompt")
    assert refusal.value.field == "negative_prompt"


def test_a_repository_that_cannot_be_read_is_a_sentence(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"^there is no model in .*nowhere$"):
        open_repository(tmp_path / "nowhere")
    for name, content in (("model.json", "{"), ("model.json", "{}"), ("tokenizer.json", "[]")):
        damaged = tmp_path / "damaged"
        shutil.copytree(repository, damaged)
        (damaged / f"{NAME}_unet" / "description" / name).write_text(content)
        with pytest.raises(Unavailable, match="cannot be read"):
            open_repository(damaged)
        shutil.rmtree(damaged)
