"""`CausalLM`: the Model contract over a transformers causal language model and its tokenizer.

Dropout is off for good (`eval`), in training as well: a log-probability must be the same each time it is asked for.
Weights are read from and written to safetensors only, with a manifest of sha256 sums beside them.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from harness.contracts import Adapter, Device, ModelSize, Prompt

MANIFEST = "manifest.json"
HEADS, HEAD_SHAPES = "heads.safetensors", "heads.json"
ADAPTER = "adapter"
"""Folder of the adapter inside a checkpoint."""


@dataclass
class CausalLM:
    """A language model in `eval` mode on a device, with its tokenizer, its template and its extra heads."""

    name: str
    module: nn.Module
    tokenizer: PreTrainedTokenizerBase
    device: Device
    heads: nn.ModuleDict = field(default_factory=nn.ModuleDict)
    adapter: Adapter | None = None
    _counted: tuple[Adapter | None, ModelSize] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.tokenizer.eos_token_id is None:
            msg = f"the tokenizer of {self.name} has no end-of-sequence token"
            raise ValueError(msg)
        self.module.eval()
        self.heads.eval()

    @classmethod
    def load(cls, source: str | Path, device: Device, name: str | None = None, revision: str | None = None) -> CausalLM:
        """Load a folder in the Hugging Face layout, or a model of the hub by its id and `revision`.

        Raises:
            ValueError: no safetensors are there, or a file is broken, altered, or does not fit the configuration;
                the message names it.
        """
        folder = Path(source)
        local = folder.is_dir()
        if local:
            check_folder(folder)
        options: dict[str, Any] = {"local_files_only": local, "revision": revision, "trust_remote_code": False}
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                str(source), use_safetensors=True, dtype=torch.float32, output_loading_info=True, **options
            )
            tokenizer = AutoTokenizer.from_pretrained(str(source), **options)
        except (OSError, RuntimeError, SafetensorError, KeyError, TypeError, ValueError) as error:
            first = str(error).strip().split("\n", 1)[0]
            msg = f"{source} cannot be loaded: {first}"
            raise ValueError(msg) from error
        module, info = loaded
        if missing := {*info["missing_keys"], *map(str, info["mismatched_keys"])}:
            msg = f"{source} lacks weights that its config.json asks for: {sorted(missing)[:3]}"
            raise ValueError(msg)
        model = cls(name or folder.name, device.place(module), tokenizer, device)
        if local:
            model._load_heads(folder)
        return model

    # -- facts

    @property
    def config(self) -> Any:
        """The transformers configuration."""
        return self.module.config

    @property
    def size(self) -> ModelSize:
        """Parameter count, an adapter's included, layers, width. Counted once, and again with another adapter."""
        if self._counted is None or self._counted[0] is not self.adapter:
            beside = () if self.adapter is None else self.adapter.parameters()
            count = sum(p.numel() for p in itertools.chain(self.module.parameters(), beside))
            self._counted = self.adapter, ModelSize(count, self.config.num_hidden_layers, self.config.hidden_size)
        return self._counted[1]

    @property
    def context(self) -> int:
        """Longest sequence, in tokens: the model's limit or the tokenizer's, whichever is lower."""
        limits = (getattr(self.config, "max_position_embeddings", None), self.tokenizer.model_max_length)
        return int(min(limit for limit in limits if limit))

    @property
    def eos(self) -> int:
        """Token id that ends a completion."""
        return int(self.tokenizer.eos_token_id)

    @property
    def pad(self) -> int:
        """Token id that fills, always under a mask: the tokenizer's, else `unk`, else any other than `eos`."""
        for token in (self.tokenizer.pad_token_id, self.tokenizer.unk_token_id):
            if token is not None and token != self.eos:
                return int(token)
        return 0 if self.eos != 0 else 1

    def parameters(self) -> Iterator[nn.Parameter]:
        """Every parameter there is, frozen or not: the module's, the heads' and the adapter's."""
        added = self.adapter.parameters() if self.adapter else ()
        return itertools.chain(self.module.parameters(), self.heads.parameters(), added)

    # -- text

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """Token ids of a rendered prompt; a conversation that ends with the assistant is gone on with."""
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(m) for m in prompt]
        goes_on = bool(messages) and messages[-1]["role"] == "assistant"
        if self.tokenizer.chat_template:
            text = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=not goes_on, continue_final_message=goes_on
            )
            ids = self._ids(str(text), special=False)  # the template places the special tokens
        else:
            text = "".join(m["content"] + "\n" for m in messages)
            ids = self._ids(text.removesuffix("\n") if goes_on else text, special=True)
        bos = self.tokenizer.bos_token_id
        while bos is not None and ids[:2] == [bos, bos]:
            ids = ids[1:]
        while ids and ids[-1] == self.eos and len(ids) > 1:  # some tokenizers end every text
            ids = ids[:-1]
        if self.adapter and self.adapter.virtual_tokens:
            words = self.module.get_input_embeddings().num_embeddings  # type: ignore[operator]
            ids = [*range(words, words + self.adapter.virtual_tokens), *ids]
        return ids

    def encode_completion(self, text: str) -> list[int]:
        """Token ids of a completion, `eos` included."""
        return [*self._ids(text, special=False), self.eos]

    def _ids(self, text: str, *, special: bool) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=special)["input_ids"]
        return list(ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    # -- copies and files

    def clone(self) -> CausalLM:
        """Copy the weights (gradients left out) to an independent model; the meter's hook goes with it."""
        # In one go: the adapter's hooks in the module become those of the copied adapter.
        module, heads, adapter = copy.deepcopy((self.module, self.heads, self.adapter))
        twin = CausalLM(self.name, module, self.tokenizer, self.device, heads, adapter)
        for parameter in twin.parameters():
            parameter.grad = None
        return twin

    def fingerprint(self) -> str:
        """sha256 over names, types, shapes and bytes of all weights, those of heads and adapter included."""
        sums = hashlib.sha256()
        tensors = {f"module.{k}": v for k, v in self.module.state_dict().items()}
        tensors |= {f"heads.{k}": v for k, v in self.heads.state_dict().items()}
        if self.adapter:
            tensors |= {f"adapter.{k}": v for k, v in self.adapter.state_dict().items()}
        for key in sorted(tensors):
            tensor = tensors[key].detach().cpu().contiguous()
            sums.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            sums.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
        return sums.hexdigest()

    def save(self, folder: Path) -> None:
        """Write safetensors and tokenizer in the Hugging Face layout, heads, adapter, and a manifest of sha256 sums.

        Raises:
            ValueError: a head is not an `nn.Linear`: nothing else is read back.
        """
        shapes = {name: head_shape(name, head) for name, head in self.heads.items()}
        folder.mkdir(parents=True, exist_ok=True)
        for stale in (HEADS, HEAD_SHAPES):
            (folder / stale).unlink(missing_ok=True)
        shutil.rmtree(folder / ADAPTER, ignore_errors=True)
        self.module.save_pretrained(folder)  # type: ignore[operator]
        self.tokenizer.save_pretrained(folder)
        if shapes:
            save_file({k: v.contiguous() for k, v in self.heads.state_dict().items()}, folder / HEADS)
            (folder / HEAD_SHAPES).write_text(json.dumps(shapes, indent=1), encoding="utf-8")
        if self.adapter:
            self.adapter.save(folder / ADAPTER)
        files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
        sums = {path.relative_to(folder).as_posix(): file_sum(path) for path in files}
        (folder / MANIFEST).write_text(json.dumps(sums, indent=1), encoding="utf-8")

    def restore(self, folder: Path) -> CausalLM:
        """Load the model that was saved to `folder`, on this model's device and under its name.

        Raises:
            ValueError: as `load`.
        """
        return CausalLM.load(folder, self.device, name=self.name)

    def _load_heads(self, folder: Path) -> None:
        if not (folder / HEAD_SHAPES).is_file():
            return
        shapes = read_json(folder / HEAD_SHAPES)
        try:
            heads = nn.ModuleDict({name: nn.Linear(n["in"], n["out"], bias=n["bias"]) for name, n in shapes.items()})
            heads.load_state_dict(load_file(folder / HEADS))
        except (OSError, RuntimeError, SafetensorError, KeyError, TypeError) as error:
            msg = f"{folder / HEADS} does not fit {HEAD_SHAPES}: {error}"
            raise ValueError(msg) from error
        self.heads = heads.to(self.device.name).eval()  # in float32 everywhere: a score's last digits order samples


def head_shape(name: str, head: nn.Module) -> Mapping[str, Any]:
    """What is needed to build a head again.

    Raises:
        ValueError: it is not an `nn.Linear`.
    """
    if type(head) is not nn.Linear:
        msg = f"head {name!r} is a {type(head).__name__}; only Linear heads can be saved"
        raise ValueError(msg)
    return {"in": head.in_features, "out": head.out_features, "bias": head.bias is not None}


def file_sum(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: it is none; the message names the file.
    """
    try:
        value: dict[str, Any] = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        msg = f"{path} is broken: {error}"
        raise ValueError(msg) from error
    return value


def check_folder(folder: Path) -> None:
    """Whether the weights in `folder` can be trusted to be what was saved.

    Raises:
        ValueError: there are no safetensors, one is broken, or a file is not the one the manifest names.
    """
    weights = sorted(folder.glob("*.safetensors"))
    if not [path for path in weights if path.name != HEADS]:
        msg = f"{folder} has no .safetensors weights; pickled weights are never read"
        raise ValueError(msg)
    manifest = folder / MANIFEST
    sums = read_json(manifest) if manifest.is_file() else {}
    for name, expected in sums.items():
        path = folder / name
        if ".." in path.parts or not path.is_file() or file_sum(path) != expected:
            msg = f"{path} is not the file that was saved: its sha256 differs from {MANIFEST}"
            raise ValueError(msg)
    for path in weights:
        try:
            with safe_open(path, framework="pt") as file:
                file.keys()
        except (SafetensorError, OSError) as error:
            msg = f"{path} is broken: {error}"
            raise ValueError(msg) from error
