"""Prompts become token ids here, once for every engine: padded, never truncated."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from service.engines.contract import ModelDescription, load_descriptions
from service.errors import InvalidRequest, Unavailable


class PromptTokenizer:
    """The tokenizers of one model, in the order of its description."""

    def __init__(self, model: ModelDescription, tokenizers: Sequence[Tokenizer]) -> None:
        self._model = model
        self._tokenizers = tuple(tokenizers)
        for tokenizer in self._tokenizers:  # files may carry the settings of their training
            tokenizer.no_truncation()
            tokenizer.no_padding()

    @classmethod
    def load(cls, model: ModelDescription, folder: Path) -> "PromptTokenizer":
        """The tokenizer files that lie beside the description."""
        return cls(model, [Tokenizer.from_file(str(folder / entry.file)) for entry in model.tokenizers])

    def __call__(self, prompt: str, field: str) -> list[NDArray[np.int64]]:
        if not prompt.isascii() and any("\ud800" <= char <= "\udfff" for char in prompt):
            raise InvalidRequest("the text holds half of a surrogate pair, which is not a character", field=field)
        pairs = zip(self._tokenizers, self._model.tokenizers, strict=True)
        return [self._ids(tokenizer, entry.max_length, entry.pad_id, prompt, field) for tokenizer, entry in pairs]

    def _ids(self, tokenizer: Tokenizer, length: int, pad_id: int, prompt: str, field: str) -> NDArray[np.int64]:
        ids = tokenizer.encode(prompt).ids
        if len(ids) > length:
            marks = tokenizer.num_special_tokens_to_add(is_pair=False)
            raise InvalidRequest(
                f"the text is {len(ids) - marks} tokens long; {self._model.name} reads at most {length - marks}",
                field=field,
            )
        return np.array(ids + [pad_id] * (length - len(ids)), dtype=np.int64)


def open_repository(repository: Path) -> tuple[dict[str, ModelDescription], dict[str, PromptTokenizer]]:
    """The models of a repository and their tokenizers, by name."""
    try:
        described = load_descriptions(repository)
        tokenizers = {name: PromptTokenizer.load(*entry) for name, entry in described.items()}
    except Exception as error:  # tokenizers raises nothing narrower
        raise Unavailable(f"a model in {repository} cannot be read: {error}") from error
    if not described:
        raise Unavailable(f"there is no model in {repository}")
    return {name: model for name, (model, _) in described.items()}, tokenizers
