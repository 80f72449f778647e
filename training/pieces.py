"""A file in pieces small enough to be handed over one by one: sizes and SHA-256 in a manifest, checked when joined."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"


def split(file: Path, folder: Path, limit: int) -> Path:
    """Write pieces of at most ``limit`` bytes and their manifest into an empty or new folder; returns the manifest."""
    if limit < 1:
        raise ValueError(f"limit: pieces of {limit} bytes cannot be written")
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty")
    pieces = [_write(folder / f"{file.name}.{i:03d}", part) for i, part in enumerate(_read(file, limit))]
    content = {"name": file.name, "bytes": file.stat().st_size, "pieces": pieces}
    (folder / MANIFEST).write_text(json.dumps(content, indent=1) + "\n")
    return folder / MANIFEST


def join(folder: Path, target: Path) -> Path:
    """Join the pieces that the folder's manifest names into one file; ValueError names what is missing or damaged."""
    manifest = _manifest(folder)
    partial = target.with_name(target.name + ".partial")
    try:
        with partial.open("wb") as out:
            for piece in manifest["pieces"]:
                out.write(_checked(folder / Path(piece["file"]).name, piece))
        if partial.stat().st_size != manifest["bytes"]:
            raise ValueError(f"{folder / MANIFEST}: the pieces make {partial.stat().st_size} bytes")
        partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def _read(file: Path, limit: int) -> Iterator[bytes]:
    with file.open("rb") as source:
        while part := source.read(limit):
            yield part


def _write(path: Path, part: bytes) -> dict[str, Any]:
    path.write_bytes(part)
    return {"file": path.name, "bytes": len(part), "sha256": hashlib.sha256(part).hexdigest()}


def _manifest(folder: Path) -> Any:
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    try:
        content = json.loads(path.read_text())
        {(piece["file"], piece["bytes"], piece["sha256"]) for piece in content["pieces"]}, content["bytes"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a manifest: {error!r}") from error
    return content


def _checked(path: Path, piece: dict[str, Any]) -> bytes:
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    part = path.read_bytes()
    if len(part) != piece["bytes"] or hashlib.sha256(part).hexdigest() != piece["sha256"]:
        raise ValueError(f"{path} is damaged: its size or SHA-256 differs from the manifest's")
    return part
