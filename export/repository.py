"""Writes a model into a Triton repository: one entry per network, each swapped in whole."""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import onnx_ir as ir

from export.describe import describe
from export.families import Model
from export.graph import trace
from export.networks import STORED, Network, Precision
from export.triton_config import config_pbtxt
from export.weights import remember
from service.engines import contract
from service.engines.contract import DESCRIPTION, ModelDescription

ONNX = "model.onnx"
LARGE = 1_800_000_000  # protobuf ends at 2 GB; weights beyond this lie beside the graph
BACKEND = Path(__file__).with_name("triton_model.py")


def write(
    model: Model,
    repository: Path,
    *,
    name: str,
    default_preset: str,
    sizes: Sequence[tuple[int, int]] = (),
    precision: Precision = "fp32",
    progress: Callable[[str], None] = lambda _: None,
) -> ModelDescription:
    """Export every network of the model and describe it; entries of the same names are replaced."""
    description, files = describe(model, name=name, default_preset=default_preset, sizes=sizes)
    with _staging(repository, name) as staging:
        networks = {}
        for network in model.networks:
            progress(network.role)
            network.compute_in(precision)
            graph = trace(network, STORED[precision])
            scheduler = {"scheduler": model.scheduler} if network is model.denoiser else {}
            graph.metadata_props.update(remember(network.components | scheduler))
            networks[network.role] = write_onnx(network, graph, staging / f"{name}_{network.role}")
        description = description.model_copy(update={"networks": networks})
        for entry in networks.values():
            (staging / entry.entry / "config.pbtxt").write_text(config_pbtxt(entry, description.digest))
            shutil.copyfile(BACKEND, staging / entry.entry / "1" / "model.py")
        _write_files(staging / networks[model.denoiser.role].entry / DESCRIPTION, files, description)
        for entry in networks.values():
            _replace(staging / entry.entry, repository / entry.entry)
    return description


def write_onnx(network: Network, graph: ir.Model, folder: Path) -> contract.Network:
    """Write the graph of a network into its entry."""
    file = folder / "1" / ONNX
    file.parent.mkdir(parents=True)
    weights = [value.const_value for value in graph.graph.initializers.values() if value.const_value]
    large = sum(tensor.nbytes for tensor in weights) > LARGE
    if large:  # the file's digest then covers the weights through this
        digest = hashlib.sha256()
        for tensor in weights:
            digest.update(tensor.tobytes())
        graph.metadata_props["weights_sha256"] = digest.hexdigest()
    ir.save(graph, file, external_data=f"{ONNX}.data" if large else None)
    return contract.Network(
        entry=folder.name,
        file=ONNX,
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        inputs=tuple(port.tensor for port in network.inputs),
        outputs=tuple(port.tensor for port in network.outputs),
    )


def _write_files(folder: Path, files: dict[str, str], description: ModelDescription) -> None:
    folder.mkdir()
    for name, content in {**files, "model.json": description.model_dump_json(indent=1) + "\n"}.items():
        (folder / name).write_text(content)


@contextlib.contextmanager
def _staging(repository: Path, name: str) -> Iterator[Path]:
    """A folder on the repository's own disk, removed whatever happens."""
    repository.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=repository))
    try:
        yield staging
    finally:
        shutil.rmtree(staging)


def _replace(new: Path, old: Path) -> None:
    """Put ``new`` where ``old`` is; the place is never half written."""
    if old.exists():
        os.rename(old, new.with_name(f"{new.name}.old"))
    os.rename(new, old)
