"""Prefixes: the keys and values of what a model has read, kept for those who go on from there.

A search asks of the same question again and again, and so does its scorer. Inside `remembered`, what was read without a
gradient is kept in blocks of tokens, each behind the block before it (a tree, as vLLM's prefix caching has it, Kwon et
al. 2023, arXiv:2309.06180), and a row is read from its first unknown block on. Weights that change, or that stand in
for others, are another tree: they are known by their storage and by how often they were written.
Shapes: R rows, T tokens of the longest, N tokens to read in X stretches of C; H heads, K key-value heads, E head width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in torch

from harness.toolbox.products import fill

BLOCK = 16
"""Tokens: fewer find more and cost more to find."""
MOST_BYTES = 1 << 28
"""Of one model's tree. When it is full nothing new is kept: of what is asked in turns, the oldest is needed next."""
STRETCHES = (16, 32, 64)
"""Tokens of one row whose attention is looked up together, if they are not all."""
COPY = 16
"""Tokens whose attention takes as long as copying a row's keys and values."""
Pair = tuple[torch.Tensor, torch.Tensor]
"""Keys and values."""


class Tree:
    """What one set of weights has read."""

    def __init__(self, weights: Sequence[torch.Tensor]) -> None:
        self.weights = weights
        """Held, so that their storage cannot become that of others."""
        self.blocks: dict[tuple[int, tuple[int, ...]], int] = {}
        """By the block before it (-1: none) and its tokens, where a block stands."""
        self.layers: list[Pair] = []
        """(blocks x BLOCK, K, E) of each layer."""
        self.most = 0

    def find(self, ids: Sequence[int], upto: int) -> list[int]:
        """Known blocks that the first `upto` ids begin with."""
        found: list[int] = []
        for start in range(0, upto - BLOCK + 1, BLOCK):
            block = self.blocks.get((found[-1] if found else -1, tuple(ids[start : start + BLOCK])))
            if block is None:
                break
            found.append(block)
        return found

    def add(self, ids: Sequence[int], found: list[int]) -> list[int]:
        """Places for the whole blocks of `ids` behind those `found`, as far as there is room; they are found now."""
        new: list[int] = []
        for start in range(BLOCK * len(found), len(ids) - BLOCK + 1, BLOCK):
            key = ((new or found or [-1])[-1], tuple(ids[start : start + BLOCK]))
            if key in self.blocks or len(self.blocks) >= self.most:
                break  # another row of this batch brings it
            self.blocks[key] = len(self.blocks)
            new.append(self.blocks[key])
        return new

    def grow(self, layers: int, shape: tuple[int, int]) -> None:
        """Make room for what was added; `shape` is K, E."""
        have, need = len(self.layers[0][0]) if self.layers else 0, BLOCK * max(1, len(self.blocks))
        if need <= have:
            return
        size = max(need, min(2 * have, BLOCK * self.most))
        with torch.inference_mode(mode=False):  # or who reads without that mode could not write into it
            empty = self.weights[0].new_zeros(size, *shape)
            grown = [(empty.clone(), empty.clone()) for _ in range(layers)]
            for new, old in zip(grown, self.layers, strict=bool(have)):
                for side in (0, 1):
                    new[side][:have] = old[side]
        self.layers = grown


def state_of(weights: Iterable[torch.Tensor]) -> tuple[tuple[int, int], ...]:
    """What the weights are now: their storage, and how often each was written."""
    return tuple((weight.data_ptr(), weight._version) for weight in weights)  # noqa: SLF001 - torch has no other


@dataclass
class Memory:
    """The trees of all weights that were read with."""

    trees: dict[tuple[tuple[int, int], ...], Tree] = field(default_factory=dict)

    def tree(self, weights: Sequence[torch.Tensor], layers: int, width: int) -> Tree:
        """That of these weights; a token of it takes keys and values of `width` numbers in each layer."""
        known = state_of(weights)
        if known not in self.trees:
            self.trees[known] = Tree([weight.detach() for weight in weights])
            self.trees[known].most = MOST_BYTES // (2 * BLOCK * layers * width * weights[0].itemsize)
        return self.trees[known]


_MEMORY: ContextVar[Memory | None] = ContextVar("memory", default=None)


@contextlib.contextmanager
def remembered() -> Iterator[None]:
    """Inside, what is read without a gradient is kept for what is read after it."""
    token = _MEMORY.set(Memory())
    try:
        yield
    finally:
        _MEMORY.reset(token)


def remembering() -> Memory | None:
    """Where to look things up, inside `remembered`."""
    return _MEMORY.get()


class Recalled:
    """Rows of which a tree knows the beginnings, and what of them is left to read; stands in for `llama.Packed`.

    ids, positions: (N,) of the tokens to read.
    """

    def __init__(self, tree: Tree, ids_RT: torch.Tensor, mask_RT: torch.Tensor, chosen_RT: torch.Tensor) -> None:
        """Look up the rows. What is chosen is read in any case: its hidden states are kept nowhere."""
        self.tree, self.device, (self.rows, self.width) = tree, ids_RT.device, ids_RT.shape
        real_RT, place_T = mask_RT.bool(), torch.arange(self.width, device=self.device)
        first_R = torch.where(chosen_RT, place_T, self.width).min(-1).values
        known_R = self._look_up(ids_RT.tolist(), real_RT.sum(-1).tolist(), first_R.tolist()).to(self.device)
        unread_RT = real_RT & (place_T >= known_R[:, None])
        # A token that the row before reads as well, with all before it the same, is read once.
        as_before = ((ids_RT[1:] == ids_RT[:-1]) & real_RT[1:] & real_RT[:-1]).cumprod(-1).bool() & unread_RT[:-1]
        new_RT = unread_RT.clone()
        new_RT[1:] &= ~as_before
        new_RT = fill(new_RT)
        place_RT = torch.arange(self.rows * self.width, device=self.device).view(self.rows, self.width)
        reader_RT = torch.where(new_RT, place_RT, 0).cummax(0).values  # the last row above that reads it
        self.number = (new_RT.view(-1).cumsum(0) - 1)[reader_RT.view(-1)]
        """(R T,) which of the N tokens stands at each unread place."""
        self.unread = unread_RT.view(-1).nonzero()[:, 0]
        self.ids, self.positions = ids_RT[new_RT], place_T.expand_as(ids_RT)[new_RT]
        self._ask(new_RT)

    def _ask(self, new_RT: torch.Tensor) -> None:
        """Lay what is read out for attention: in X stretches of at most C tokens, each of one row."""
        count_R = new_RT.sum(-1)
        self.stretch = _best_stretch(count_R)
        stretches_R = -(-count_R // self.stretch)
        self.row_X = torch.arange(self.rows, device=self.device).repeat_interleave(stretches_R)
        row_N, first_R = new_RT.nonzero()[:, 0], (stretches_R.cumsum(0) - stretches_R) * self.stretch
        rank_N = torch.arange(len(row_N), device=self.device) - (count_R.cumsum(0) - count_R)[row_N]
        self.slots = first_R[row_N] + rank_N
        """(N,) where each stands in X x C."""
        place_S = self.positions.new_zeros(len(self.row_X) * self.stretch).index_copy_(0, self.slots, self.positions)
        place_T = torch.arange(self.width, device=self.device)
        self.mask_X1CT = place_T <= place_S.view(-1, 1, self.stretch, 1)

    def _look_up(self, ids_R: Sequence[Sequence[int]], lengths: Sequence[int], first: Sequence[int]) -> torch.Tensor:
        """(R,) tokens of each row that are known. Notes where they are kept, and what will be kept from now on."""
        past, into, out, known = torch.zeros(self.rows, self.width, dtype=torch.long), [], [], []
        for row, (ids, length, upto) in enumerate(zip(ids_R, lengths, first, strict=True)):
            found = self.tree.find(ids, min(length - 1, upto))
            start = BLOCK * len(found)
            past[row, :start] = _places(found)
            new = self.tree.add(ids[:length], found)
            into += new
            out.append(torch.arange(start, start + BLOCK * len(new)) + row * self.width)
            known.append(start)
        self.past = past.view(-1).to(self.device)
        """(R T,) where the keys of each known place are kept."""
        self.into, self.out = _places(into).to(self.device), torch.cat(out).to(self.device)
        """Where what is kept from now on goes, and where it stands in R x T."""
        return torch.tensor(known)

    def numbers(self, chosen_RT: torch.Tensor) -> torch.Tensor:
        """(C,) which of the N tokens stand at the chosen places, row by row."""
        return self.number[chosen_RT.reshape(-1).nonzero()[:, 0]]

    def whole(self, layer: int, side: int, new: torch.Tensor) -> torch.Tensor:
        """(R, K, T, E) keys or values: of the N tokens, and what is kept of the rest."""
        kept = self.tree.layers[layer][side]
        kept.index_copy_(0, self.into, new.index_select(0, self.number[self.out]))  # rows of this batch look there, too
        whole = kept.index_select(0, self.past)
        whole.index_copy_(0, self.unread, new.index_select(0, self.number[self.unread]))
        return whole.view(self.rows, self.width, *new.shape[1:]).transpose(1, 2)

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
        """(N, H E) of (N, H, E) queries to (R, H, T, E) keys and values."""
        asked = q.new_zeros(len(self.row_X) * self.stretch, *q.shape[1:]).index_copy_(0, self.slots, q)
        asked = asked.view(-1, self.stretch, *q.shape[1:]).transpose(1, 2)
        k, v = (x.index_select(0, self.row_X) for x in (k, v))
        found = F.scaled_dot_product_attention(asked, k, v, attn_mask=self.mask_X1CT, scale=scale)
        return found.transpose(1, 2).reshape(len(self.row_X) * self.stretch, -1).index_select(0, self.slots)


def _best_stretch(count_R: torch.Tensor) -> int:
    """Tokens a stretch: short ones hold less padding, but each has its row's keys and values copied."""
    longest = int(count_R.max())
    sizes = [size for size in STRETCHES if size < longest] + [longest]
    return min(sizes, key=lambda size: int((-(-count_R // size)).sum()) * (size + COPY))


def _places(blocks: Sequence[int]) -> torch.Tensor:
    return (torch.tensor(blocks, dtype=torch.long)[:, None] * BLOCK + torch.arange(BLOCK)).flatten()
