"""TensorRT up to the call of its builder: profiles, types and names, with a recorder in place of the library."""

import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig

from export import plans
from export.plans import Profile, profiles
from export.triton_config import configure
from service.engines.contract import ModelDescription
from tests.conftest import Exported
from tests.export.recorder import TensorRT
from tests.export.shapes import corners, infer_shapes

ROLES = ["text_encoder", "unet", "vae_decoder"]
TRITON = {onnx.TensorProto.FLOAT: "FP32", onnx.TensorProto.FLOAT16: "FP16", onnx.TensorProto.INT64: "INT64"}


@pytest.fixture
def repository(exported: Exported, tmp_path: Path) -> Path:
    """The tiny model configured for TensorRT."""
    folder = Path(shutil.copytree(exported.repository, tmp_path / "repository"))
    for role, network in exported.description.networks.items():
        configure(folder / network.entry, exported.description, role, "tensorrt")
    return folder


def run(repository: Path, *options: object) -> Result:
    return CliRunner().invoke(plans.main, [str(repository), *map(str, options)])


def config_of(repository: Path, role: str) -> ModelConfig:
    return text_format.Parse((repository / f"tiny_{role}" / "config.pbtxt").read_text(), ModelConfig())


@pytest.mark.parametrize("role", ROLES)
def test_shapes_follow_at_every_corner_of_every_profile(exported, role) -> None:
    description: ModelDescription = exported.description
    for profile in profiles(description, role):
        for shapes in corners(profile):
            found = infer_shapes(exported.onnx(role), shapes)
            rows, *rest = next(iter(shapes.values()))
            scale = {"unet": 1, "vae_decoder": description.latent.factor}.get(role)
            expected = [rows, 77, 32] if scale is None else [rows, {"unet": 4, "vae_decoder": 3}[role]]
            expected += [side * scale for side in rest[1:]] if scale else []
            assert list(found.values()) == [expected]


def test_there_is_a_profile_for_every_size_and_for_one_and_for_many(exported) -> None:
    latents = [profile["sample"] for profile in profiles(exported.description, "unet")]
    sizes = [(height // 2, width // 2) for width, height in exported.description.sizes]
    assert {shape[2:] for bounds in latents for shape in bounds} == set(sizes)
    for size in sizes:
        rows = [tuple(shape[0] for shape in bounds) for bounds in latents if bounds[0][2:] == size]
        assert rows == [(1, 2, 2), (1, 16, 16)]


@pytest.mark.parametrize("role", ROLES)
def test_names_types_and_rows_are_those_of_the_graph(repository, exported, role) -> None:
    config, graph = config_of(repository, role), onnx.load(exported.onnx(role)).graph
    assert (config.platform, config.default_model_filename) == ("tensorrt_plan", "model.plan")
    for ports, values in ((config.input, graph.input), (config.output, graph.output)):
        assert [port.name for port in ports] == [value.name for value in values]
        types = [f"TYPE_{TRITON[value.type.tensor_type.elem_type]}" for value in values]
        assert [DataType.Name(port.data_type) for port in ports] == types
        assert not any(getattr(port, "allow_ragged_batch", False) for port in ports)
    shapes = profiles(exported.description, role)
    assert list(config.instance_group[0].profile) == [str(index) for index in range(len(shapes))]
    assert max(bounds[2][0] for profile in shapes for bounds in profile.values()) == config.max_batch_size


@pytest.mark.parametrize("role", ROLES)
def test_cuda_graphs_and_warm_up_lie_within_the_profiles(repository, exported, role) -> None:
    config, shapes = config_of(repository, role), profiles(exported.description, role)
    calls = [
        {name: (graph.batch_size, *shape.dim) for name, shape in graph.input.items()}
        for graph in config.optimization.cuda.graph_spec
    ]
    assert calls
    for call in calls:
        assert any(
            set(call) == set(profile)
            and all(np.all((low <= call[name]) & (call[name] <= high)) for name, (low, _, high) in bounds(profile))
            for profile in shapes
        ), call
    assert [sample.batch_size for sample in config.model_warmup] == [next(iter(call.values()))[0] for call in calls]


def bounds(profile: Profile) -> list[tuple[str, tuple[np.ndarray, ...]]]:
    return [(name, tuple(np.array(shape) for shape in shapes)) for name, shapes in profile.items()]


def test_every_network_is_built_strongly_typed_with_its_profiles(repository, exported, tmp_path, monkeypatch) -> None:
    library = TensorRT()
    monkeypatch.setitem(sys.modules, "tensorrt", library)
    result = run(repository, "--level", 5, "--timings", tmp_path / "timings")
    assert result.exit_code == 0, result.output
    assert len(library.built) == 3
    for role, (network, config) in zip(exported.description.networks, library.built, strict=True):
        assert network.flags == 1 << library.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        assert network.model == onnx.load(exported.onnx(role))
        assert [profile.shapes for profile in config.profiles] == profiles(exported.description, role)
        assert config.builder_optimization_level == 5
        assert (repository / f"tiny_{role}" / "1" / "model.plan").read_bytes() == b"plan"
    (timings,) = (tmp_path / "timings").iterdir()
    assert timings.read_bytes() == b"timed " * 3, "each network begins with the timings of those before it"


def test_what_hinders_a_plan_is_said(repository, exported, tmp_path, monkeypatch) -> None:
    timings = ("--timings", tmp_path)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert "there is no TensorRT here" in run(repository, *timings).output
    monkeypatch.setitem(sys.modules, "tensorrt", TensorRT(fails=True))
    assert "TensorRT 11.4.0 cannot build" in run(repository, *timings).output
    (repository / "tiny_text_encoder" / "1" / "model.onnx").write_bytes(b"no ONNX")
    assert "TensorRT 11.4.0 cannot read" in run(repository, *timings).output
    other = run(exported.repository, *timings)
    assert other.exit_code == 1
    assert "configure" in other.output
    assert not list(exported.repository.rglob("*.plan*"))
