"""Decoding straight over the weights of Llama-like modules: what `generate` does, without its overhead.

A prompt is encoded once, however many samples it gets; their attention reads its keys and values from one place and
each row's own from another. Query, key and value weights are fused once a call (weights change between calls), the
cache grows in place, rows that have ended are dropped, and rows that wait begin in their places: a new wave of them.
Shapes: G prompts, P tokens of the longest; A active rows, O own tokens; L layers, D width, H heads, K key-value heads,
Q = H / K, E head width, V words.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import nn

from harness.toolbox.batching import read_tokens
from harness.toolbox.choice import Rows
from harness.toolbox.llama import Llama
from harness.toolbox.products import fast_products, steady
from harness.toolbox.queue import Queue

BLOCK = 16
"""Tokens by which the cache of the rows grows, and all of it is read: a processor reads parts of it, or fewer tokens at
a time, several times slower."""
REFILL = {"cpu": 0.0}
"""Rows that wait begin once no more than this share of a full batch goes on; where it is not said, `DROP`. A processor
gains nothing from full batches: its time grows with the rows, and rows of two ages are read one age after the other."""
DROP = 0.7
"""Ended rows are dropped when no more than this share goes on: dropping copies the cache."""


class FastDecoder(Llama):
    """Prompts and rows in one batch, by the weights as they are now."""

    def prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, PromptCache]:
        """Encode G prompts, some at a time: (G, V) logits of what follows, and their keys and values."""
        width, device = max(map(len, prompts)), self.cos.device
        lengths_G = torch.tensor([len(prompt) for prompt in prompts], device=device)
        ids = torch.tensor([[*prompt, *[0] * (width - len(prompt))] for prompt in prompts], device=device)
        columns = torch.arange(width, device=device).expand(ids.shape)
        real = columns < lengths_G[:, None]
        last, parts = [], [list[tuple[torch.Tensor, ...]]() for _ in self.layers]
        for some in torch.split(torch.arange(len(prompts), device=device), max(1, read_tokens(device) // width)):
            ends = columns[some] == lengths_G[some, None] - 1
            packed = self.pack(ids[some], real[some], columns[some], ends)
            last.append(self.read(packed, packed.numbers(ends), lambda layer, *kv: parts[layer].append(kv)))
        cache = PromptCache(lengths_G, [[torch.cat(some) for some in zip(*layer, strict=True)] for layer in parts])
        return self.logits(torch.cat(last)), cache

    def step(self, waves: Sequence[Wave]) -> Sequence[torch.Tensor]:
        """Feed every row its newest token: (A, V) logits of the next, a wave.

        Rows of all waves meet in the products; attention, whose work depends on their lengths, is each wave's own.
        """
        sizes = [len(wave.tokens_A) for wave in waves]
        hidden = self.embed(_joined([wave.tokens_A for wave in waves]))
        turns = self.turns(_joined([wave.positions() for wave in waves]))
        for index, layer in enumerate(self.layers):
            parts = zip(waves, *(_parted(x, sizes) for x in self.qkv(layer, hidden, turns)), strict=True)
            attended = [self._attend(index, wave, q, k, v) for wave, q, k, v in parts]
            hidden = self.after(layer, hidden, _joined(attended))
        for wave in waves:
            wave.own.length += 1
        return _parted(self.logits(hidden), sizes)

    def _attend(
        self, index: int, wave: Wave, q_AHE: torch.Tensor, k_AKE: torch.Tensor, v_AKE: torch.Tensor
    ) -> torch.Tensor:
        """(A, H E) attention over the shared prompt and the row's own tokens under one softmax."""
        A, K, Q, E = len(q_AHE), self.kv_heads, self.heads // self.kv_heads, self.head_width
        own, prompt, bias = wave.own, wave.prompt, wave.bias
        own.write(index, k_AKE, v_AKE)
        q = (q_AHE * self.scale).view(A, K, Q, E)
        own_scores = q @ own.keys[index].transpose(-1, -2)
        own_scores[..., own.length + 1 :] = -torch.inf
        # Rows of one prompt side by side, so that its keys are read once for all of them: (G, K, N Q, E).
        spread = own.spread(q)
        scores = own.gather(spread @ prompt.keys[index].transpose(-1, -2), Q)
        scores = scores if bias is None else scores + bias
        weights = torch.cat([scores, own_scores], -1).softmax(-1, dtype=torch.float32).to(q.dtype)
        P = scores.shape[-1]
        from_own = weights[..., P:] @ own.values[index]
        from_prompt = own.gather(own.spread(weights[..., :P]) @ prompt.values[index], Q)
        return (from_own + from_prompt).reshape(A, -1)


class PromptCache:
    """Keys and values of the prompts, one copy however many rows read them: (G, K, P, E) a layer."""

    def __init__(self, lengths_G: torch.Tensor, layers: Sequence[Sequence[torch.Tensor]]) -> None:
        """`layers`: keys and values of each."""
        self.lengths_G = lengths_G
        self.keys, self.values = ([layer[part] for layer in layers] for part in (0, 1))
        width = self.keys[0].shape[2]
        hidden_GP = torch.arange(width, device=lengths_G.device) >= lengths_G[:, None]
        empty = torch.zeros(hidden_GP.shape, device=lengths_G.device)
        self.bias = empty.masked_fill(hidden_GP, -torch.inf)[:, None, None] if bool(hidden_GP.any()) else None

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


class Wave:
    """Rows that began together: each has drawn as many tokens as the others."""

    def __init__(self, decoder: FastDecoder, rows: Rows) -> None:
        self.rows, self.layers = rows, len(decoder.layers)
        # Rows of one prompt (greedy beside a sample, say) are neighbours: it is encoded once.
        prompts = [(ids, len(list(same))) for ids, same in groupby(row.prompt_ids for row in rows.rows)]
        logits_GV, self.prompt = decoder.prefill([ids for ids, _ in prompts])
        device = logits_GV.device
        counts_G = torch.tensor([count for _, count in prompts], device=device)
        group_A = torch.arange(len(prompts), device=device).repeat_interleave(counts_G)
        self.own = RowCache(group_A, (decoder.kv_heads, decoder.head_width), logits_GV.dtype)
        self.tokens_A = rows.choose(logits_GV[group_A])

    def positions(self) -> torch.Tensor:
        """(A,) positions of the newest tokens, for which room is made."""
        self.own.reserve(self.layers)
        self.bias = None if self.prompt.bias is None else self.prompt.bias[self.own.group_A]
        return self.prompt.lengths_G[self.own.group_A] + self.own.length

    def drop(self, alive: int) -> None:
        """Drop rows that have ended, once it is worth it."""
        count = steady(alive)
        if count > DROP * len(self.tokens_A):
            return
        kept = self.rows.compact(count)
        self.tokens_A = self.tokens_A[kept]
        self.prompt.keep(self.own.keep(kept))


@torch.inference_mode()
def decode(module: nn.Module, queue: Queue) -> None:
    """Draw all rows of the queue to their ends: as rows end, those that wait take their places."""
    if not queue.rows:
        return
    # Rows that have ended are fed on until they are dropped: behind the longest prompt, to the largest limit.
    width = max(len(row.prompt_ids) for row in queue.rows) + max(row.limit for row in queue.rows)
    with fast_products():
        _decode(FastDecoder(module, width), queue)


def _decode(decoder: FastDecoder, queue: Queue) -> None:
    refill = REFILL.get(decoder.cos.device.type, DROP)
    waves: list[Wave] = []
    full = 0  # what there is room for, be it places or memory
    while True:
        alive = [wave.rows.alive for wave in waves]
        if sum(alive) <= refill * full and (rows := queue.take(sum(alive))) is not None:
            full = sum(alive) + len(rows.rows)
            waves.append(Wave(decoder, rows))
            continue
        waves = [wave for wave, count in zip(waves, alive, strict=True) if count]
        if not waves:
            return
        for wave, count in zip(waves, filter(None, alive), strict=True):
            wave.drop(count)
        for wave, logits_AV in zip(waves, decoder.step(waves), strict=True):
            wave.tokens_A = wave.rows.choose(logits_AV)


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat(parts) if len(parts) > 1 else parts[0]  # type: ignore[arg-type]


def _parted(x: torch.Tensor, sizes: Sequence[int]) -> Sequence[torch.Tensor]:
    return torch.split(x, sizes) if len(sizes) > 1 else (x,)  # type: ignore[arg-type]
