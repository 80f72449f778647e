"""Text encoders: token ids, one input per tokenizer -> tensors named after the denoiser's inputs that they feed."""

from collections.abc import Mapping
from typing import Any

import torch

from export.networks import Network, Port, Tensors

T5_PAD = 0


class TextEncoder(Network):
    """All text encoders of a model as one network."""

    role = "text_encoder"

    def __init__(self, components: Mapping[str, Any], lengths: tuple[int, ...], outputs: tuple[Port, ...]) -> None:
        """``lengths``: tokens that each component takes."""
        ids = tuple(
            Port(
                "input_ids" if index == 1 else f"input_ids_{index}",
                (length,),
                "int64",
                below=component.config.vocab_size,
                whole=True,
            )
            for index, (component, length) in enumerate(zip(components.values(), lengths, strict=True), 1)
        )
        super().__init__(components, ids, outputs)


class Clip(TextEncoder):
    """Stable Diffusion: the last hidden state of CLIP."""

    def __init__(self, module: Any) -> None:
        length = module.config.max_position_embeddings
        states = Port("encoder_hidden_states", (length, module.config.hidden_size))
        super().__init__({"text_encoder": module}, (length,), (states,))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.module(input_ids)[0]


class ClipPair(TextEncoder):
    """SDXL: the last but one hidden states of two CLIPs side by side; the second one's pooled projection."""

    def __init__(self, first: Any, second: Any) -> None:
        length = first.config.max_position_embeddings
        states = Port("encoder_hidden_states", (length, first.config.hidden_size + second.config.hidden_size))
        pooled = Port("text_embeds", (second.config.projection_dim,))
        super().__init__({"text_encoder": first, "text_encoder_2": second}, (length, length), (states, pooled))

    def forward(self, input_ids: torch.Tensor, input_ids_2: torch.Tensor) -> Tensors:
        first = self.module["text_encoder"](input_ids, output_hidden_states=True)
        second = self.module["text_encoder_2"](input_ids_2, output_hidden_states=True)
        return torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1), second[0]


class T5(TextEncoder):
    """PixArt: T5's last hidden state, and which tokens are no padding."""

    def __init__(self, module: Any, length: int) -> None:
        states = Port("encoder_hidden_states", (length, module.config.d_model))
        mask = Port("encoder_attention_mask", (length,), below=2, whole=True)
        super().__init__({"text_encoder": module}, (length,), (states, mask))

    def forward(self, input_ids: torch.Tensor) -> Tensors:
        mask = input_ids != T5_PAD
        states = self.module(input_ids, attention_mask=mask.long())[0]
        return states, mask.to(states.dtype)


class ClipPairAndT5(TextEncoder):
    """Stable Diffusion 3: two CLIPs side by side, padded to T5's width, then T5's states (zeros without a T5)."""

    def __init__(self, first: Any, second: Any, third: Any | None, length: int, width: int) -> None:
        """``length``: tokens of T5; ``width``: channels of the joint states."""
        self.t5_length = length
        self.width = width
        clip_length = first.config.max_position_embeddings
        components = {"text_encoder": first, "text_encoder_2": second} | ({"text_encoder_3": third} if third else {})
        states = Port("encoder_hidden_states", (clip_length + length, width))
        pooled = Port("pooled_projections", (first.config.projection_dim + second.config.projection_dim,))
        lengths = (clip_length, clip_length, length)[: len(components)]
        super().__init__(components, lengths, (states, pooled))

    def forward(
        self, input_ids: torch.Tensor, input_ids_2: torch.Tensor, input_ids_3: torch.Tensor | None = None
    ) -> Tensors:
        first = self.module["text_encoder"](input_ids, output_hidden_states=True)
        second = self.module["text_encoder_2"](input_ids_2, output_hidden_states=True)
        states = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        states = torch.nn.functional.pad(states, (0, self.width - states.shape[-1]))
        if input_ids_3 is None:
            t5 = states.new_zeros(states.shape[0], self.t5_length, self.width)
        else:
            t5 = self.module["text_encoder_3"](input_ids_3)[0]
        return torch.cat([states, t5], dim=-2), torch.cat([first[0], second[0]], dim=-1)
