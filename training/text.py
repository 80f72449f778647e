"""Tokenizer (byte-level BPE as in CLIP) and text encoder, pretrained on caption -> attributes."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import trainers
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from training.world import VOCABULARY, captions, draw

START, END = "<|startoftext|>", "<|endoftext|>"


def byte_alphabet() -> list[str]:
    """The 256 printable stand-ins of GPT-2's byte-level encoding, in byte order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printable]
    table = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(rest)}
    return [table[b] for b in range(256)]


def train_tokenizer(texts: list[str], vocabulary: int, length: int) -> CLIPTokenizer:
    """Learn merges (Sennrich et al. 2016) and number the tokens as CLIP does: bytes, final bytes, merges, specials."""
    backend = CLIPTokenizer().backend_tokenizer
    alphabet = byte_alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    merges = [tuple(pair) for pair in _merges(backend)]
    tokens = [*alphabet, *(a + "</w>" for a in alphabet), *(a + b for a, b in merges)]
    tokens = [*list(dict.fromkeys(tokens))[: vocabulary - 2], START, END]
    known = set(tokens)
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=[pair for pair in merges if pair[0] + pair[1] in known],
        model_max_length=length,
    )


def _merges(backend: Any) -> list[list[str]]:
    """The learned merges, read from the serialised model."""
    return [m.split(" ") if isinstance(m, str) else m for m in json.loads(backend.to_str())["model"]["merges"]]


def build_encoder(config: Any, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A small CLIPTextModel of random weights."""
    t = config.text
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=t.width, intermediate_size=4 * t.width, projection_dim=t.width,
            num_hidden_layers=t.layers, num_attention_heads=t.heads, max_position_embeddings=t.length,
            hidden_act="quick_gelu", bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip


def token_ids(tokenizer: CLIPTokenizer, texts: list[str], padding: str | bool = "max_length") -> Tensor:
    """Token ids, padded and cut to the model's length, (batch, length)."""
    batch = tokenizer(
        texts, padding=padding, truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt"
    )
    return torch.as_tensor(batch["input_ids"])


class Heads(nn.Module):
    """One linear classifier per attribute on a shared feature vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(words)) for name, words in VOCABULARY.items()})

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        return {name: head(features) for name, head in self.heads.items()}


def labels(scenes: list[Any]) -> dict[str, Tensor]:
    """Attribute indices of scenes, one (batch,) tensor per attribute."""
    values = [scene.attributes() for scene in scenes]
    return {name: torch.tensor([words.index(v[name]) for v in values]) for name, words in VOCABULARY.items()}


def cross_entropy(logits: dict[str, Tensor], target: dict[str, Tensor], names: tuple[str, ...]) -> Tensor:
    """Sum of the attributes' cross entropies."""
    losses = [nn.functional.cross_entropy(logits[name], target[name]) for name in names]
    return torch.stack(losses).sum()


def pretrain(config: Any, tokenizer: CLIPTokenizer, encoder: CLIPTextModel, seed: int = 0) -> dict[str, float]:
    """Teach the encoder to name the attributes of captions; returns held-out accuracies."""
    t = config.text
    torch.manual_seed(seed)
    heads = Heads(t.width)
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=t.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, t.lr, total_steps=t.steps)
    for step in tqdm(range(t.steps), desc="text", mininterval=10):
        scenes = [draw(config.world.seed + (step * t.batch + i) % t.captions) for i in range(t.batch)]
        loss = cross_entropy(*_predict(tokenizer, encoder, heads, scenes), tuple(VOCABULARY))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
    return _accuracy(config, tokenizer, encoder, heads)


def _predict(
    tokenizer: Any, encoder: Any, heads: Heads, scenes: list[Any]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    texts = [captions(scene, 1)[0] for scene in scenes]
    ids = token_ids(tokenizer, texts, padding=True)
    return heads(encoder(ids).pooler_output), labels(scenes)


@torch.no_grad()
def _accuracy(config: Any, tokenizer: Any, encoder: Any, heads: Heads) -> dict[str, float]:
    start = config.world.evaluation_seed
    logits, target = _predict(tokenizer, encoder, heads, [draw(start + i) for i in range(500)])
    return {name: float((logits[name].argmax(1) == target[name]).float().mean()) for name in VOCABULARY}


def make(config: Any) -> dict[str, float]:
    """Train tokenizer and text encoder and save both under runs."""
    texts = [c for seed in range(config.text.captions) for c in captions(draw(config.world.seed + seed), 2)]
    tokenizer = train_tokenizer(texts, config.text.vocabulary, config.text.length)
    torch.manual_seed(0)
    encoder = build_encoder(config, tokenizer)
    accuracy = pretrain(config, tokenizer, encoder)
    tokenizer.save_pretrained(config.paths.runs / "tokenizer")
    encoder.half().float().save_pretrained(config.paths.runs / "text_encoder")
    return accuracy


def load(folder: Path) -> tuple[CLIPTokenizer, CLIPTextModel]:
    """Tokenizer and frozen text encoder from a folder that holds both."""
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval().requires_grad_(False)
    return CLIPTokenizer.from_pretrained(folder / "tokenizer"), encoder


@torch.no_grad()
def encode(tokenizer: CLIPTokenizer, encoder: CLIPTextModel, texts: list[str], batch: int = 128) -> Tensor:
    """Text features (n, length, width) of the frozen encoder."""
    starts = range(0, len(texts), batch)
    ids = [token_ids(tokenizer, texts[i : i + batch]).to(encoder.device) for i in starts]
    return torch.cat([encoder(part).last_hidden_state for part in ids])
