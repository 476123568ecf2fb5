"""Llama-like modules straight from their weights: what `module(...)` computes, without the work that nobody asked for.

Next to no padding takes part in a matrix product, what rows begin with in common is read once where no gradient is
wanted, and only tokens that something is asked of go on from the last layer's attention. The ops of torch keep track of
gradients, so training and decoding read through the same lines.
Shapes: R rows, T tokens of the longest, N tokens without padding, C of them chosen; L layers, D width, H heads, K
key-value heads, E head width, V words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.models.llama import modeling_llama as llama
from transformers.models.mistral import modeling_mistral as mistral
from transformers.models.qwen2 import modeling_qwen2 as qwen2

from harness.toolbox.prefixes import Recalled, remembering
from harness.toolbox.products import fast_products, fill, steady

FAMILIES = {llama.LlamaForCausalLM: llama, mistral.MistralForCausalLM: mistral, qwen2.Qwen2ForCausalLM: qwen2}
PARTS = ("ForCausalLM", "Model", "DecoderLayer", "Attention", "MLP", "RMSNorm", "RotaryEmbedding")
LEAVES = (nn.Linear, nn.Embedding)
FIXED_ROPES = {"default", "linear", "llama3"}
"""Rotary embeddings that do not depend on the length of the sequence."""
IDLE = "transformers.utils.output_capturing"
"""Whose hooks stay in a module once it was asked for its hidden states, and do nothing until it is asked again."""


def supports(module: nn.Module) -> bool:
    """Whether every part of `module` is known here: no foreign part, no window or dropout, hooks on leaves alone."""
    family = FAMILIES.get(type(module))
    if family is None:
        return False
    config: Any = module.config
    known: set[type] = {*LEAVES, nn.ModuleList, type(ACT2FN[config.hidden_act])}
    prefix = family.__name__.rsplit("_", 1)[1].capitalize()
    known |= {getattr(family, prefix + part) for part in PARTS}
    if any(type(part) not in known or _is_patched(part) for part in module.modules() if part is not module):
        return False
    if module.training and config.attention_dropout:
        return False
    windowed = config.sliding_window is not None if hasattr(config, "sliding_window") else False
    rope = (config.rope_parameters or {}).get("rope_type", "default")
    return not windowed and not _is_patched(module, hooks=False) and rope in FIXED_ROPES


def _is_patched(part: nn.Module, *, hooks: bool = True) -> bool:
    if type(part) in LEAVES:  # they are called, so their hooks (an adapter's) are heard
        return "forward" in vars(part)
    found = part._forward_hooks.values() if hooks else ()  # noqa: SLF001 - torch has no public way to ask
    hooked = any(hook.__module__ != IDLE for hook in found)
    return hooked or bool(part._forward_pre_hooks) or "forward" in vars(part)  # noqa: SLF001


def _is_hooked(linear: nn.Module) -> bool:
    return bool(linear._forward_hooks or linear._forward_pre_hooks)  # noqa: SLF001 - as above


Projections = Callable[[torch.Tensor], Sequence[torch.Tensor]]


@dataclass(frozen=True)
class Layer:
    """Parts of one layer, what reads the same input together."""

    norm_in: nn.Module
    norm_mlp: nn.Module
    qkv: Projections
    out: nn.Linear
    gate_up: Projections
    act: Callable[[torch.Tensor], torch.Tensor]
    down: nn.Linear


def _together(*linears: nn.Linear) -> Projections:
    """The outputs of all the layers, from one product where no hook wants to be heard.

    Where gradients are wanted, each layer has its own product: taking one apart again costs more than it saves.
    """
    if torch.is_grad_enabled() or any(map(_is_hooked, linears)):
        return lambda x: [linear(x) for linear in linears]
    biases: list[torch.Tensor] = [linear.bias for linear in linears if linear.bias is not None]
    weight, bias = torch.cat([linear.weight for linear in linears]), torch.cat(biases) if biases else None
    widths = [linear.out_features for linear in linears]
    return lambda x: torch.split(F.linear(x, weight, bias), widths, -1)


def _norm(hidden: torch.Tensor, norm: Any) -> torch.Tensor:
    return F.rms_norm(hidden, (hidden.shape[-1],), norm.weight, norm.variance_epsilon)


@dataclass(frozen=True)
class Packed:
    """The N tokens to read of R rows that are padded on the right to T: (N,) ids, positions and slots, places in R x T.

    twins: (R T,) which of the N tokens stands at each place, where rows share some; None: each real token is its own.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    rows: int
    width: int
    twins: torch.Tensor | None = None

    @classmethod
    def of(cls, ids_RT: torch.Tensor, mask_RT: torch.Tensor, positions_RT: torch.Tensor) -> Packed:
        """Leave out what `mask_RT` does not mark."""
        real_RT = fill(mask_RT.bool())
        return cls(ids_RT[real_RT], positions_RT[real_RT], real_RT.view(-1).nonzero()[:, 0], *ids_RT.shape)

    @classmethod
    def sharing(cls, ids_RT: torch.Tensor, mask_RT: torch.Tensor, positions_RT: torch.Tensor) -> Packed:
        """Leave out as well what a row has in common with the row before it: all up to where they part."""
        real_RT, rows, width = mask_RT.bool(), *ids_RT.shape
        as_before = (ids_RT[1:] == ids_RT[:-1]) & (positions_RT[1:] == positions_RT[:-1]) & real_RT[1:] & real_RT[:-1]
        new_RT = real_RT.clone()
        new_RT[1:] &= ~as_before.cumprod(-1).bool()
        new_RT = fill(new_RT)
        places_RT = torch.arange(rows * width, device=ids_RT.device).view(rows, width)
        first_RT = torch.where(new_RT, places_RT, 0).cummax(0).values  # the last row above that read it anew
        number_RT = new_RT.view(-1).cumsum(0) - 1
        slots = new_RT.view(-1).nonzero()[:, 0]
        return cls(ids_RT[new_RT], positions_RT[new_RT], slots, rows, width, number_RT[first_RT.view(-1)])

    def whole(self, layer: int, side: int, x: torch.Tensor) -> torch.Tensor:
        """(R, K, T, E) keys or values from the (N, K, E) of the tokens that are read."""
        del layer, side  # nothing is known from before
        return self.pad(x)

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
        """(N, H E) of (N, H, E) queries to (R, H, T, E) keys and values."""
        # Padding is on the right, so the causal mask hides it from every real token.
        return self.unpad(F.scaled_dot_product_attention(self.pad(q), k, v, is_causal=True, scale=scale))

    def pad(self, x: torch.Tensor) -> torch.Tensor:
        """(N, H, E) to (R, H, T, E), with nothing of meaning in the padding."""
        if self.twins is not None:
            x = x.index_select(0, self.twins)
        elif len(self.slots) < self.rows * self.width:
            x = x.new_zeros(self.rows * self.width, *x.shape[1:]).index_copy(0, self.slots, x)
        return x.view(self.rows, self.width, *x.shape[1:]).transpose(1, 2)

    def numbers(self, chosen_RT: torch.Tensor) -> torch.Tensor:
        """(C,) which of the N tokens stand at the chosen places, row by row."""
        chosen = chosen_RT.reshape(-1).nonzero()[:, 0]
        return torch.searchsorted(self.slots, chosen) if self.twins is None else self.twins[chosen]

    def unpad(self, x: torch.Tensor) -> torch.Tensor:
        """(R, H, T, E) back to (N, H E)."""
        return x.transpose(1, 2).reshape(self.rows * self.width, -1).index_select(0, self.slots)


class Llama:
    """The weights of a module as they are now."""

    def __init__(self, module: Any, width: int) -> None:
        """`width`: longest sequence, in tokens."""
        self.module, config = module, module.config
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        attention = module.model.layers[0].self_attn
        self.head_width, self.scale = attention.head_dim, attention.scaling
        self.layers = [self._layer(layer) for layer in module.model.layers]
        weight = module.model.embed_tokens.weight
        positions = torch.arange(width, device=weight.device)[None]
        cos, sin = module.model.rotary_emb(weight[:0], positions)  # weight: for its dtype and device
        half = self.head_width // 2
        self.cos, self.sin = cos[0], torch.cat([-sin[0, :, :half], sin[0, :, half:]], -1)

    @staticmethod
    def _layer(layer: Any) -> Layer:
        attention, mlp = layer.self_attn, layer.mlp
        qkv = _together(attention.q_proj, attention.k_proj, attention.v_proj)
        gate_up = _together(mlp.gate_proj, mlp.up_proj)
        norms = layer.input_layernorm, layer.post_attention_layernorm
        return Layer(*norms, qkv, attention.o_proj, gate_up, mlp.act_fn, mlp.down_proj)

    def embed(self, ids_N: torch.Tensor) -> torch.Tensor:
        """(N, D) vectors of token ids."""
        hidden_ND: torch.Tensor = self.module.model.embed_tokens(ids_N)
        return hidden_ND

    def turns(self, positions_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, 1, E) cosines and signed sines of the rotary embedding at (N,) positions: the same in every layer."""
        return self.cos[positions_N][:, None], self.sin[positions_N][:, None]

    def qkv(
        self, layer: Layer, hidden_ND: torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        """(N, H, E) queries, (N, K, E) keys and values of N tokens."""
        found = layer.qkv(_norm(hidden_ND, layer.norm_in))
        q, k, v = (x.view(len(hidden_ND), -1, self.head_width) for x in found)
        return self._turned(q, turns), self._turned(k, turns), v

    def _turned(self, x: torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return torch.addcmul(x * turns[0], x.roll(self.head_width // 2, -1), turns[1])

    def after(self, layer: Layer, hidden_ND: torch.Tensor, attended_ND: torch.Tensor) -> torch.Tensor:
        """What a layer makes of its input and of what its attention found."""
        hidden_ND = hidden_ND + layer.out(attended_ND)
        gate, up = layer.gate_up(_norm(hidden_ND, layer.norm_mlp))
        mlp_ND: torch.Tensor = layer.down(layer.act(gate) * up)
        return hidden_ND + mlp_ND

    def normed(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """The last layer's output as heads read it."""
        return _norm(hidden_ND, self.module.model.norm)

    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """(N, V) logits of the last layer's output."""
        logits_NV: torch.Tensor = self.module.lm_head(self.normed(hidden_ND))
        return logits_NV

    def pack(
        self, ids_RT: torch.Tensor, mask_RT: torch.Tensor, positions_RT: torch.Tensor, chosen_RT: torch.Tensor
    ) -> Packed | Recalled:
        """What of the rows has to be read, for the chosen tokens."""
        if torch.is_grad_enabled():  # small groups of like length, in which rows of one prompt seldom meet
            return Packed.of(ids_RT, mask_RT, positions_RT)
        memory, plain = remembering(), torch.arange(ids_RT.shape[1], device=ids_RT.device)
        if memory is None or not bool((positions_RT == plain).all()) or any(map(_is_hooked, self.linears())):
            return Packed.sharing(ids_RT, mask_RT, positions_RT)
        width = self.kv_heads * self.head_width
        tree = memory.tree(list(self.module.parameters()), len(self.layers), width)
        recalled = Recalled(tree, ids_RT, mask_RT, chosen_RT)
        tree.grow(len(self.layers), (self.kv_heads, self.head_width))
        return recalled

    def linears(self) -> Iterator[nn.Module]:
        """All layers that a hook may listen to."""
        return (part for part in self.module.modules() if type(part) in LEAVES)

    def read(
        self,
        packed: Packed | Recalled,
        chosen_C: torch.Tensor,
        keep: Callable[[int, torch.Tensor, torch.Tensor], None] | None = None,
    ) -> torch.Tensor:
        """(C, D) output of the last layer at the chosen ones of N tokens.

        keep: is given the number of each layer with its (R, K, T, E) keys and values.
        """
        hidden, turns = self.embed(packed.ids), self.turns(packed.positions)
        share = self.heads // self.kv_heads
        for number, layer in enumerate(self.layers):
            q, *kv = self.qkv(layer, hidden, turns)
            k, v = (packed.whole(number, side, x) for side, x in enumerate(kv))
            if keep is not None:
                keep(number, k, v)
            k, v = (x.repeat_interleave(share, 1) if share > 1 else x for x in (k, v))
            attended = packed.attend(q, k, v, self.scale)
            if number + 1 == len(self.layers):
                asked = torch.cat([chosen_C, chosen_C[:1].expand(steady(len(chosen_C)) - len(chosen_C))])
                hidden, attended = hidden.index_select(0, asked), attended.index_select(0, asked)
            hidden = self.after(layer, hidden, attended)
        return hidden[: len(chosen_C)]


def read(module: Any, inputs: Mapping[str, torch.Tensor], chosen_RT: torch.Tensor, *, words: bool) -> torch.Tensor:
    """(C, V) logits, or without `words` the (C, D) normed output of the last layer, at the chosen tokens, row by row.

    `inputs`: (R, T) `input_ids`, `attention_mask` and `position_ids`, padded on the right. The module is called, with
    this pass in the place of its `forward`, so that its own hooks, the meter's above all, hear of it.
    """

    def forward(**inputs: torch.Tensor) -> tuple[torch.Tensor]:
        weights = Llama(module, chosen_RT.shape[1])
        packed = weights.pack(inputs["input_ids"], inputs["attention_mask"], inputs["position_ids"], chosen_RT)
        hidden_CD = weights.read(packed, packed.numbers(chosen_RT))
        return (weights.logits(hidden_CD) if words else weights.normed(hidden_CD),)

    module.forward = forward
    try:
        with fast_products():
            [found] = module(**inputs)
    finally:
        del module.forward
    result: torch.Tensor = found
    return result
