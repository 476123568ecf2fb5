"""Decoding straight over the weights of Llama-like modules: what `generate` does, without its overhead.

A prompt is encoded once, however many samples it gets; their attention reads its keys and values from one place and
each row's own from another. Query, key and value weights are fused once a call (weights change between calls), the
cache grows in place, and rows that have ended are dropped.
Shapes: G prompts, P tokens of the longest; A active rows, O own tokens; L layers, D width, H heads, K key-value heads,
Q = H / K, E head width, V words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.models.llama import modeling_llama as llama
from transformers.models.mistral import modeling_mistral as mistral
from transformers.models.qwen2 import modeling_qwen2 as qwen2

from harness.toolbox.choice import Rows

FAMILIES = {llama.LlamaForCausalLM: llama, mistral.MistralForCausalLM: mistral, qwen2.Qwen2ForCausalLM: qwen2}
PARTS = ("ForCausalLM", "Model", "DecoderLayer", "Attention", "MLP", "RMSNorm", "RotaryEmbedding")
LEAVES = (nn.Linear, nn.Embedding)
FIXED_ROPES = {"default", "linear", "llama3"}
"""Rotary embeddings that do not depend on the length of the sequence."""
BLOCK = 32
"""Tokens by which the cache of the rows grows."""
STRIDE = 16
"""Own tokens are read in multiples of this: matrix products of fewer are several times slower on processors."""
DROP = 0.8
"""Ended rows are dropped when no more than this share goes on: dropping copies the cache."""


def supports(module: nn.Module) -> bool:
    """Whether this decoder knows every part of `module`: no foreign part, no window, hooks on leaves alone."""
    family = FAMILIES.get(type(module))
    if family is None:
        return False
    config: Any = module.config
    known: set[type] = {*LEAVES, nn.ModuleList, type(ACT2FN[config.hidden_act])}
    prefix = family.__name__.rsplit("_", 1)[1].capitalize()
    known |= {getattr(family, prefix + part) for part in PARTS}
    if any(type(part) not in known or _is_patched(part) for part in module.modules() if part is not module):
        return False
    windowed = config.sliding_window is not None if hasattr(config, "sliding_window") else False
    rope = (config.rope_parameters or {}).get("rope_type", "default")
    return not windowed and not _is_patched(module, hooks=False) and rope in FIXED_ROPES


def _is_patched(part: nn.Module, *, hooks: bool = True) -> bool:
    if type(part) in LEAVES:  # they are called, so their hooks (an adapter's) are heard
        return "forward" in vars(part)
    hooked = hooks and bool(part._forward_hooks)  # noqa: SLF001 - torch has no public way to ask
    return hooked or bool(part._forward_pre_hooks) or "forward" in vars(part)  # noqa: SLF001


def _is_hooked(linear: nn.Module) -> bool:
    return bool(linear._forward_hooks or linear._forward_pre_hooks)  # noqa: SLF001 - as above


Project = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Layer:
    """Parts of one layer, what reads the same input fused."""

    norm_in: nn.Module
    norm_mlp: nn.Module
    qkv: Project
    out: nn.Linear
    gate_up: Project
    act: Callable[[torch.Tensor], torch.Tensor]
    down: nn.Linear


def _fuse(*linears: nn.Linear) -> Project:
    """The outputs of all the layers side by side, from one product where no hook wants to be heard."""
    if any(map(_is_hooked, linears)):
        return lambda x: torch.cat([linear(x) for linear in linears], -1)
    biases: list[torch.Tensor] = [linear.bias for linear in linears if linear.bias is not None]
    weight, bias = torch.cat([linear.weight for linear in linears]), torch.cat(biases) if biases else None
    return lambda x: F.linear(x, weight, bias)


def _norm(hidden: torch.Tensor, norm: Any) -> torch.Tensor:
    return F.rms_norm(hidden, (hidden.shape[-1],), norm.weight, norm.variance_epsilon)


class FastDecoder:
    """One batch of prompts and rows, from the weights as they are now."""

    def __init__(self, module: Any, width: int) -> None:
        """`width`: longest sequence, prompt and completion together, in tokens."""
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
        qkv = _fuse(attention.q_proj, attention.k_proj, attention.v_proj)
        gate_up = _fuse(mlp.gate_proj, mlp.up_proj)
        norms = layer.input_layernorm, layer.post_attention_layernorm
        return Layer(*norms, qkv, attention.o_proj, gate_up, mlp.act_fn, mlp.down_proj)

    def _turns(self, positions_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, 1, E) cosines and signed sines of the rotary embedding at (N,) positions: the same in every layer."""
        return self.cos[positions_N][:, None], self.sin[positions_N][:, None]

    def _qkv(
        self, layer: Layer, hidden_ND: torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        """(N, H, E) queries, (N, K, E) keys and values of N tokens."""
        fused = layer.qkv(_norm(hidden_ND, layer.norm_in)).view(len(hidden_ND), -1, self.head_width)
        qk, v = fused[:, : -self.kv_heads], fused[:, -self.kv_heads :]
        left, right = qk.chunk(2, -1)
        rotated = torch.addcmul(qk * turns[0], torch.cat([right, left], -1), turns[1])
        return rotated[:, : self.heads], rotated[:, self.heads :], v

    def _after(self, layer: Layer, hidden_ND: torch.Tensor, attended_ND: torch.Tensor) -> torch.Tensor:
        hidden_ND = hidden_ND + layer.out(attended_ND)
        gate, up = layer.gate_up(_norm(hidden_ND, layer.norm_mlp)).chunk(2, -1)
        mlp_ND: torch.Tensor = layer.down(layer.act(gate) * up)
        return hidden_ND + mlp_ND

    def _logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        logits_NV: torch.Tensor = self.module.lm_head(_norm(hidden_ND, self.module.model.norm))
        return logits_NV

    def prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, PromptCache]:
        """Encode G prompts: (G, V) logits of what follows, and their keys and values."""
        G, P = len(prompts), max(map(len, prompts))
        device = self.cos.device
        lengths_G = torch.tensor([len(prompt) for prompt in prompts], device=device)
        ids = torch.tensor([[*prompt, *[0] * (P - len(prompt))] for prompt in prompts], device=device)
        hidden = self.module.model.embed_tokens(ids.view(-1))
        turns = self._turns(torch.arange(P, device=device).repeat(G))
        cache = PromptCache(lengths_G, P)
        for layer in self.layers:
            q, k, v = (x.view(G, P, -1, self.head_width).transpose(1, 2) for x in self._qkv(layer, hidden, turns))
            cache.add(k, v)
            share = self.heads // self.kv_heads
            k, v = (x.repeat_interleave(share, 1) if share > 1 else x for x in (k, v))
            # Padding is on the right, so the causal mask hides it from every real token.
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)
            hidden = self._after(layer, hidden, attended.transpose(1, 2).reshape(G * P, -1))
        last = torch.arange(G, device=device) * P + lengths_G - 1
        return self._logits(hidden[last]), cache

    def step(self, tokens_A: torch.Tensor, own: RowCache, prompt: PromptCache) -> torch.Tensor:
        """Feed one token a row: (A, V) logits of the next."""
        hidden = self.module.model.embed_tokens(tokens_A)
        turns = self._turns(prompt.lengths_G[own.group_A] + own.length)
        bias = None if prompt.bias is None else prompt.bias[own.group_A]
        own.reserve(len(self.layers))
        for index, layer in enumerate(self.layers):
            q, k, v = self._qkv(layer, hidden, turns)
            own.write(index, k, v)
            hidden = self._after(layer, hidden, self._attend(q, index, own, prompt, bias))
        own.length += 1
        return self._logits(hidden)

    def _attend(
        self, q_AHE: torch.Tensor, index: int, own: RowCache, prompt: PromptCache, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """(A, H E) attention over the shared prompt and the row's own tokens under one softmax."""
        A, K, Q, E = len(q_AHE), self.kv_heads, self.heads // self.kv_heads, self.head_width
        q = (q_AHE * self.scale).view(A, K, Q, E)
        own_k, own_v = own.read(index)  # (A, K, O, E)
        own_scores = q @ own_k.transpose(-1, -2)
        own_scores[..., own.length + 1 :] = -torch.inf
        # Rows of one prompt side by side, so that its keys are read once for all of them: (G, K, N Q, E).
        spread = own.spread(q)
        scores = own.gather(spread @ prompt.keys[index].transpose(-1, -2), Q)
        scores = scores if bias is None else scores + bias
        weights = torch.cat([scores, own_scores], -1).softmax(-1, dtype=torch.float32).to(q.dtype)
        P = scores.shape[-1]
        from_own = weights[..., P:] @ own_v
        from_prompt = own.gather(own.spread(weights[..., :P]) @ prompt.values[index], Q)
        return (from_own + from_prompt).reshape(A, -1)


class PromptCache:
    """Keys and values of the prompts, one copy however many rows read them: (G, K, P, E) a layer."""

    def __init__(self, lengths_G: torch.Tensor, width: int) -> None:
        self.lengths_G = lengths_G
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        hidden_GP = torch.arange(width, device=lengths_G.device) >= lengths_G[:, None]
        empty = torch.zeros(hidden_GP.shape, device=lengths_G.device)
        self.bias = empty.masked_fill(hidden_GP, -torch.inf)[:, None, None] if bool(hidden_GP.any()) else None

    def add(self, k: torch.Tensor, v: torch.Tensor) -> None:
        """Append a layer."""
        self.keys.append(k.contiguous())
        self.values.append(v.contiguous())

    def keep(self, groups: torch.Tensor) -> None:
        """Keep the prompts that still have rows."""
        self.lengths_G = self.lengths_G[groups]
        self.keys, self.values = [k[groups] for k in self.keys], [v[groups] for v in self.values]
        self.bias = None if self.bias is None else self.bias[groups]


class RowCache:
    """Keys and values of what the rows have drawn, (A, K, O, E) a layer, and which prompt each row belongs to."""

    def __init__(self, group_A: torch.Tensor, shape: tuple[int, int], dtype: torch.dtype) -> None:
        self.shape, self.dtype = shape, dtype
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        self.length = 0
        self._arrange(group_A)

    def _arrange(self, group_A: torch.Tensor) -> None:
        """Lay rows out as G x N, N the most rows of a prompt. Rows are sorted by prompt."""
        self.group_A = group_A
        count_G = torch.bincount(group_A)
        self.grid = (len(count_G), int(count_G.max()))
        first_G = count_G.cumsum(0) - count_G
        rank_A = torch.arange(len(group_A), device=group_A.device) - first_G[group_A]
        self.slot_A = group_A * self.grid[1] + rank_A
        self.full = self.grid[0] * self.grid[1] == len(group_A)

    def reserve(self, layers: int) -> None:
        """Make room for one more token."""
        have = self.keys[0].shape[2] if self.keys else 0
        if self.length < have:
            return
        size = (len(self.group_A), self.shape[0], have + BLOCK, self.shape[1])
        for cache in (self.keys, self.values):
            for index in range(layers):
                grown = torch.zeros(size, dtype=self.dtype, device=self.group_A.device)
                if have:
                    grown[:, :, :have] = cache[index]
                    cache[index] = grown
                else:
                    cache.append(grown)

    def write(self, index: int, k: torch.Tensor, v: torch.Tensor) -> None:
        """Put (A, K, E) keys and values of the newest token in their place."""
        self.keys[index][:, :, self.length] = k
        self.values[index][:, :, self.length] = v

    def read(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(A, K, O, E) keys and values, the newest token's included, with zeros up to a multiple of `STRIDE`."""
        width = -(-(self.length + 1) // STRIDE) * STRIDE
        return self.keys[index][:, :, :width], self.values[index][:, :, :width]

    def spread(self, x: torch.Tensor) -> torch.Tensor:
        """(A, K, Q, X) rows to (G, K, N Q, X), empty places are moot."""
        (G, N), (_, K, Q, X) = self.grid, x.shape
        if not self.full:
            x = x.new_empty(G * N, K, Q, X).index_copy_(0, self.slot_A, x)
        return x.view(G, N, K, Q, X).transpose(1, 2).reshape(G, K, N * Q, X)

    def gather(self, x: torch.Tensor, Q: int) -> torch.Tensor:
        """(G, K, N Q, X) back to (A, K, Q, X)."""
        (G, N), (_, K, _, X) = self.grid, x.shape
        rows = x.view(G, K, N, Q, X).transpose(1, 2).reshape(G * N, K, Q, X)
        return rows if self.full else rows[self.slot_A]

    def keep(self, rows: torch.Tensor) -> torch.Tensor:
        """Keep the rows that go on; returns the prompts that still have any."""
        groups: torch.Tensor
        groups, group_A = torch.unique(self.group_A[rows], return_inverse=True)
        have = self.length  # the rest is room
        for cache in (self.keys, self.values):
            for index, old in enumerate(cache):
                kept = old.new_zeros(len(rows), *old.shape[1:])
                kept[:, :, :have] = old[:, :, :have][rows]
                cache[index] = kept
        self._arrange(group_A)
        return groups


@torch.inference_mode()
def decode(module: nn.Module, prompts: Sequence[Sequence[int]], rows: Rows) -> None:
    """Draw `rows`, which must be sorted by prompt and name every one of `prompts`, to their ends."""
    width = max(len(prompts[row.prompt]) + row.limit for row in rows.rows)
    decoder = FastDecoder(module, width)
    logits_GV, prompt = decoder.prefill(prompts)
    group_A = torch.tensor([row.prompt for row in rows.rows], device=logits_GV.device)
    own = RowCache(group_A, (decoder.kv_heads, decoder.head_width), logits_GV.dtype)
    tokens_A = rows.choose(logits_GV[group_A])
    while alive := rows.alive:
        if alive <= DROP * len(tokens_A):
            kept = rows.compact()
            tokens_A = tokens_A[kept]
            prompt.keep(own.keep(kept))
        tokens_A = rows.choose(decoder.step(tokens_A, own, prompt))
