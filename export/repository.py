"""Writes a model into a Triton repository: one entry per network, each swapped in whole."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import onnx_ir as ir
import torch

from export.autocast import autocast
from export.describe import describe
from export.families import Model
from export.graph import program, require_finite, trace
from export.networks import STORED, Network, Precision
from export.targets import DEFAULT, ONNX, PROGRAM, TARGETS
from export.triton_config import configure
from export.weights import find, remember
from service.engines import contract
from service.engines.contract import DESCRIPTION, ModelDescription, digest_of, load_descriptions
from service.errors import InvalidRequest

LARGE = 1_800_000_000  # protobuf ends at 2 GB; weights beyond this lie beside the graph


def write(
    model: Model,
    repository: Path,
    *,
    name: str,
    default_preset: str,
    sizes: Sequence[tuple[int, int]] = (),
    precision: Precision = "fp32",
    mixed: bool = False,
    target: str = DEFAULT,
    options: Mapping[str, str] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> ModelDescription:
    """Export every network of the model and describe it; entries of the same names are replaced.

    ``mixed`` leaves to ModelOpt AutoCast what computes in ``precision``; ``options`` are those of the target's runtime.
    """
    description, files = describe(model, name=name, default_preset=default_preset, sizes=sizes)
    with _staging(repository, name) as staging:
        networks = {}
        for network in model.networks:
            progress(network.role)
            folder = staging / f"{name}_{network.role}"
            if TARGETS[target].file == PROGRAM:
                network.compute_in(precision)
                networks[network.role] = write_program(network, folder)
            else:
                graph = _mixed(network, precision) if mixed else _uniform(network, precision)
                scheduler = {"scheduler": model.scheduler} if network is model.denoiser else {}
                graph.metadata_props.update(remember(network.components | scheduler))
                networks[network.role] = write_onnx(network, graph, folder)
        description = description.model_copy(update={"networks": _shared(networks, description.denoiser, repository)})
        own = {role: entry for role, entry in networks.items() if description.networks[role] is entry}
        for role, entry in own.items():
            configure(staging / entry.entry, description, role, target, options)
        _write_files(staging / networks[model.denoiser.role].entry / DESCRIPTION, files, description)
        _refuse_to_break(own.values(), repository, name)
        _remove_leftovers(description, repository, staging)
        for entry in own.values():
            _replace(staging / entry.entry, repository / entry.entry)
    return description


def add(network: Network, repository: Path, name: str, **facts: object) -> ModelDescription:
    """One more network for a model that was written before; ``facts`` are what its description says of it."""
    description, folder = find(repository, name)
    with _staging(repository, name) as staging:
        entry = write_onnx(network, _uniform(network, "fp32"), staging / f"{name}_{network.role}")
        networks = {**description.networks, network.role: entry}
        description = description.model_copy(update={"networks": networks, **facts})
        configure(staging / entry.entry, description, network.role)
        _refuse_to_break([entry], repository, name)
        _replace(staging / entry.entry, repository / entry.entry)
        (staging / "model.json").write_text(_json(description))
        os.replace(staging / "model.json", folder / "model.json")
    return description


def _uniform(network: Network, precision: Precision) -> ir.Model:
    network.compute_in(precision)
    return trace(network, STORED[precision])


def _mixed(network: Network, precision: Precision) -> ir.Model:
    return autocast(network, trace(network, STORED["fp32"]), precision)


def write_onnx(network: Network, graph: ir.Model, folder: Path) -> contract.Network:
    """Write the graph of a network into its entry."""
    file = folder / "1" / ONNX
    file.parent.mkdir(parents=True)
    weights = [value.const_value for value in graph.graph.initializers.values() if value.const_value]
    large = sum(tensor.nbytes for tensor in weights) > LARGE
    ir.save(graph, file, external_data=f"{ONNX}.data" if large else None)
    return _described(network, file)


def write_program(network: Network, folder: Path) -> contract.Network:
    """Write torch's exported program of a network into its entry, with the names of its outputs."""
    file = folder / "1" / PROGRAM
    file.parent.mkdir(parents=True)
    exported = program(network)
    require_finite(exported.state_dict)
    for node in exported.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    names = json.dumps([port.name for port in network.outputs])
    torch.export.save(exported, file, extra_files={"outputs": names})
    return _described(network, file)


def _described(network: Network, file: Path) -> contract.Network:
    return contract.Network(
        entry=file.parent.parent.name,
        file=file.name,
        sha256=digest_of(file),
        precision=network.precision,
        inputs=tuple(port.tensor for port in network.inputs),
        outputs=tuple(port.tensor for port in network.outputs),
    )


def _shared(networks: Mapping[str, contract.Network], denoiser: str, repository: Path) -> dict[str, contract.Network]:
    """The networks, in the entry of another model where that is equal; beside a denoiser lies its own description."""
    others = [other for model, _ in load_descriptions(repository).values() for other in model.networks.values()]
    found = dict(networks)
    for role, network in networks.items():
        for other in others:
            if role != denoiser and other.entry != network.entry and other.sha256 == network.sha256:
                found[role] = network.model_copy(update={"entry": other.entry})
    return found


def _users(repository: Path, name: str) -> dict[str, tuple[str, str]]:
    """The entries that models of other names read: entry -> model and digest."""
    models = [model for model, _ in load_descriptions(repository).values() if model.name != name]
    return {network.entry: (model.name, network.sha256) for model in models for network in model.networks.values()}


def _refuse_to_break(networks: Iterable[contract.Network], repository: Path, name: str) -> None:
    users = _users(repository, name)
    for network in networks:
        user, sha256 = users.get(network.entry, ("", network.sha256))
        if sha256 != network.sha256:
            raise InvalidRequest(
                f"{network.entry} is shared with {user}: take another name, or remove it", field="name"
            )


def _remove_leftovers(description: ModelDescription, repository: Path, staging: Path) -> None:
    """What the model had under its name before, and no model reads any more."""
    before, _ = load_descriptions(repository).get(description.name, (description, repository))
    read = {network.entry for network in description.networks.values()} | set(_users(repository, description.name))
    for network in before.networks.values():
        if network.entry not in read:
            os.rename(repository / network.entry, staging / f"{network.entry}.old")


def _write_files(folder: Path, files: dict[str, str], description: ModelDescription) -> None:
    folder.mkdir()
    for name, content in {**files, "model.json": _json(description)}.items():
        (folder / name).write_text(content)


def _json(description: ModelDescription) -> str:
    return description.model_dump_json(indent=1, exclude_none=True) + "\n"


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
