"""A recorder in place of the tensorrt module: what TensorRT 10 and 11 both have, and nothing else.

Names and signatures are those of NVIDIA's Python API reference of 10.13 and 11.4. What 11 removed (weak typing: the
flags FP16, BF16, INT8 and their kind, the calibrator) is absent, so that its use is an AttributeError.
"""

from enum import Enum, IntEnum
from types import SimpleNamespace
from typing import Any

import onnx

Shape = tuple[int, ...]


class Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[Shape, Shape, Shape]] = {}

    def set_shape(self, input: str, min: Shape, opt: Shape, max: Shape) -> None:
        assert all(low <= mid <= high for low, mid, high in zip(min, opt, max, strict=True))
        self.shapes[input] = (min, opt, max)


class TimingCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> memoryview:
        return memoryview(self.content + b"timed ")


class Config:
    __slots__ = ("_cache", "builder_optimization_level", "profiles")  # an unknown attribute is an error

    def __init__(self) -> None:
        self.profiles: list[Profile] = []

    def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache:
        return TimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self._cache = cache
        return True

    def get_timing_cache(self) -> TimingCache:
        return self._cache

    def add_optimization_profile(self, profile: Profile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1


class Network:
    def __init__(self, flags: int) -> None:
        self.flags = flags
        self.model: onnx.ModelProto | None = None


class OnnxParser:
    def __init__(self, network: Network, _: object) -> None:
        self._network = network
        self._errors: list[str] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> str:
        return self._errors[index]

    def parse_from_file(self, path: str) -> bool:
        try:
            self._network.model = onnx.load(path)
        except Exception as error:
            self._errors.append(str(error))
        return not self._errors


class Builder:
    def __init__(self, module: "TensorRT") -> None:
        self._module = module

    def create_network(self, flags: int = 0) -> Network:
        return Network(flags)

    def create_builder_config(self) -> Config:
        return Config()

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
        self._module.built.append((network, config))
        return None if self._module.fails else b"plan"


class TensorRT:
    """The module."""

    __version__ = "11.4.0"

    class NetworkDefinitionCreationFlag(IntEnum):
        STRONGLY_TYPED = 1

    class BuilderFlag(Enum):
        TF32 = 7
        REFIT = 4

    class Logger:
        WARNING = SimpleNamespace()

        def __init__(self, severity: object) -> None: ...

    OnnxParser = OnnxParser

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails
        self.built: list[tuple[Network, Config]] = []

    def Builder(self, _: Any) -> Builder:  # noqa: N802 (theirs)
        return Builder(self)
