"""Models of one's own: a folder in the Hugging Face layout, or a model id on the hub."""

from __future__ import annotations

import hashlib
from pathlib import Path

from harness.contracts import Device, Model, ModelSpec


def find_model(name: str) -> ModelSpec | None:
    """The spec of a folder or of a hub id (`owner/name` or `owner/name@revision`); None where `name` is neither."""
    if Path(name).is_dir():
        folder = Path(name)
        return ModelSpec(name, "a folder of your own", lambda device: load(name, None, device), lambda: digest(folder))
    if name.count("/") == 1 and not name.startswith((".", "/")):
        owner, _, revision = name.partition("@")
        return ModelSpec(name, "from the hub", lambda device: load(owner, revision or None, device), lambda: name)
    return None


def load(source: str, revision: str | None, device: Device) -> Model:
    """Load a causal language model; safetensors only."""
    from harness.builtin.causal_lm import CausalLM  # noqa: PLC0415 - imports torch, which listing does not need

    return CausalLM.load(source, device, name=source, revision=revision)


def digest(folder: Path) -> str:
    """sha256 over every file of a model folder."""
    total = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        total.update(path.name.encode())
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()
