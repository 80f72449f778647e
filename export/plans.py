"""python -m export.plans REPO: TensorRT plans from the exported ONNX, one profile per size and rows.

Runs inside NVIDIA's container, on the GPU that will serve, with TensorRT 10 or 11: a plan is bound to both. Nothing
here sets a precision: TensorRT 11 removed the flags for it, types are those of the graph. Needs no torch.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from export.targets import PLAN, TARGETS
from service.engines.contract import ModelDescription, load_descriptions
from service.engines.tensors import blank_row
from service.errors import DarkroomError, EngineFailure, InvalidRequest, Unavailable

Shape = tuple[int, ...]
Profile = Mapping[str, tuple[Shape, Shape, Shape]]  # input -> least, best and largest shape, rows first

LONE = 2  # rows of a lone request with guidance


def profiles(model: ModelDescription, role: str) -> list[Profile]:
    """For every size, one profile for a lone request and one for as many rows as are merged."""
    most = TARGETS["tensorrt"].max_rows(role)
    ranges = [(1, LONE, LONE), (1, most, most)] if role.startswith(model.denoiser) else [(1, 1, most)]
    found: list[Profile] = []
    for size in model.sizes:
        row = blank_row(model, role, size)
        for rows in ranges:
            least, best, largest = rows
            profile: Profile = {
                name: ((least, *array.shape[1:]), (best, *array.shape[1:]), (largest, *array.shape[1:]))
                for name, array in row.items()
            }
            if profile not in found:
                found.append(profile)
    return found


def build(trt: Any, onnx: Path, shapes: Sequence[Profile], timing_cache: Path, level: int) -> bytes:
    """The plan of one network. ``trt`` is the tensorrt module, ``level`` its effort from 0 to 5."""
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)  # TensorRT 11 knows nothing else
    network = builder.create_network(typed)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx)):
        problems = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise EngineFailure(f"TensorRT {trt.__version__} cannot read {onnx}: {problems}")
    config = builder.create_builder_config()
    config.builder_optimization_level = level
    cache = config.create_timing_cache(timing_cache.read_bytes() if timing_cache.exists() else b"")
    config.set_timing_cache(cache, ignore_mismatch=False)
    for shape in shapes:
        profile = builder.create_optimization_profile()
        for name, (least, best, largest) in shape.items():
            profile.set_shape(name, least, best, largest)
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineFailure(f"TensorRT {trt.__version__} cannot build {onnx}; its log says why")
    timing_cache.parent.mkdir(parents=True, exist_ok=True)
    timing_cache.write_bytes(bytes(config.get_timing_cache().serialize()))
    return bytes(plan)


def build_all(repository: Path, level: int, timings: Path) -> Iterator[Path]:
    """A plan for every network of every model, once where models share it; timings are kept in the folder."""
    try:
        import tensorrt as trt
    except ImportError as error:
        raise Unavailable(f"there is no TensorRT here ({error}): run this in NVIDIA's container") from error
    built = set()
    for model, _ in load_descriptions(repository).values():
        for role, network in model.networks.items():
            if network.entry not in built:
                built.add(network.entry)
                folder = repository / network.entry
                if "tensorrt_plan" not in (folder / "config.pbtxt").read_text():
                    raise InvalidRequest(f"{folder}: python -m export configure {repository} --target tensorrt first")
                timing_cache = timings / f"tensorrt-{trt.__version__}.timing"
                plan = build(trt, folder / "1" / network.file, profiles(model, role), timing_cache, level)
                partial = folder / "1" / f"{PLAN}.partial"
                partial.write_bytes(plan)
                yield partial.rename(folder / "1" / PLAN)


@click.command()
@click.argument("repository", metavar="REPO", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--level", type=click.IntRange(0, 5), default=3, show_default=True, help="effort of the builder")
@click.option(
    "--timings",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path.home() / ".cache" / "darkroom",
    show_default=True,
    help="folder of the timing cache",
)
def main(repository: Path, level: int, timings: Path) -> None:
    """Build a plan beside every ONNX file of REPO, which was exported or configured for tensorrt."""
    try:
        for file in build_all(repository, level, timings):
            click.echo(f"{file}  {file.stat().st_size / 1e6:.1f} MB")
    except DarkroomError as error:
        raise click.ClickException(error.message) from error


if __name__ == "__main__":
    main(prog_name="python -m export.plans")
