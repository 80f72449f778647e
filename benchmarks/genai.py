"""OpenVINO GenAI on the same ONNX files, with static shapes."""

import json
from pathlib import Path

import numpy as np
import openvino as ov
import openvino_genai as genai
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline
from openvino_tokenizers import convert_tokenizer

from benchmarks.peers import GUIDANCE, STEPS, noise


class _Fixed(genai.Generator):
    """A generator that returns the given noise, so that GenAI starts where the others start."""

    def __init__(self, noise: np.ndarray) -> None:
        super().__init__()
        self.noise = np.ascontiguousarray(noise[None], np.float32)

    def next(self) -> float:
        return 0.0

    def randn_tensor(self, shape: ov.Shape) -> ov.Tensor:
        return ov.Tensor(self.noise.reshape(tuple(shape)))


class GenAI:
    """OpenVINO GenAI's Text2ImagePipeline, reshaped to static shapes before it compiles."""

    def __init__(self, directory: Path, origin: StableDiffusionPipeline, size: int, threads: int = 0) -> None:
        pipeline = genai.Text2ImagePipeline(str(directory))
        pipeline.reshape(1, size, size, GUIDANCE)
        options = {"INFERENCE_NUM_THREADS": threads} if threads else {}
        pipeline.compile("CPU", **options)
        self.pipeline, self.origin, self.size = pipeline, origin, size

    def __call__(self, prompt: str, seed: int) -> np.ndarray:
        """Prompt and seed -> pixels [H, W, 3] in [0, 1]."""
        image = self.pipeline.generate(
            prompt, num_inference_steps=STEPS, guidance_scale=GUIDANCE, height=self.size, width=self.size,
            num_images_per_prompt=1, generator=_Fixed(noise(self.origin, seed, self.size)),
        )  # fmt: skip
        return np.asarray(image.data[0], np.float32) / 255


def genai_directory(pipeline: StableDiffusionPipeline, onnx: dict[str, Path], target: Path) -> None:
    """Lay out what GenAI reads: IR of the same ONNX files, configs, an OpenVINO tokenizer, the scheduler's betas."""
    for part, file in onnx.items():  # text_encoder, unet, vae_decoder
        (target / part).mkdir(parents=True, exist_ok=True)
        ov.save_model(
            _integer_clock(ov.convert_model(file)), target / part / "openvino_model.xml", compress_to_fp16=True
        )
        module = getattr(pipeline, "vae" if part == "vae_decoder" else part)
        config = module.config if isinstance(module.config, dict) else module.config.to_dict()
        (target / part / "config.json").write_text(json.dumps(dict(config), default=str))
    (target / "tokenizer").mkdir(exist_ok=True)
    tokenizer = convert_tokenizer(pipeline.tokenizer, with_detokenizer=False)
    ov.save_model(tokenizer, target / "tokenizer" / "openvino_tokenizer.xml")
    (target / "scheduler").mkdir(exist_ok=True)
    scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config, timestep_spacing="linspace")
    settings = {**scheduler.config, "_class_name": "EulerDiscreteScheduler", "trained_betas": scheduler.betas.tolist()}
    (target / "scheduler" / "scheduler_config.json").write_text(json.dumps(settings))
    index = {"_class_name": "StableDiffusionPipeline", "text_encoder": ["transformers", "CLIPTextModel"],
             "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}  # fmt: skip
    (target / "model_index.json").write_text(json.dumps(index))


def _integer_clock(model: ov.Model) -> ov.Model:
    """GenAI feeds its timesteps as int64."""
    if any("timestep" in port.names for port in model.inputs):
        steps = ov.preprocess.PrePostProcessor(model)
        steps.input("timestep").tensor().set_element_type(ov.Type.i64)
        return steps.build()
    return model
