"""Which token comes next, and when a row ends: shared by every decoder, so that all of them draw the same samples.

A row takes exactly one uniform number a token, from a counter-based generator keyed by the sample's seed, and turns it
into a token by the inverse of the cumulative distribution. So a sample depends on weights, prompt, temperature and seed
alone, not on what else is in its batch (up to the noise of floating point).
Shapes: R rows of the batch, A of them still in it, T tokens of the longest, V words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from harness.contracts import Completion, FinishReason
from harness.toolbox.pieces import Pieces

TAIL = 4
"""Tokens looked at beyond a stop string's length: a decoder may treat the first token of a text differently."""
BROKEN = "\N{REPLACEMENT CHARACTER}"
"""What a part of a character is decoded to."""


@dataclass(frozen=True)
class Row:
    """One sample to be drawn."""

    prompt_ids: tuple[int, ...]
    seed: int
    temperature: float
    limit: int
    """Most tokens to be drawn, at least 1."""
    stop: tuple[str, ...] = ()


def uniforms(seed: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """(count,) numbers in [0, 1): the first ones are the same whatever `count`."""
    return np.random.Generator(np.random.Philox(key=seed)).random(count, dtype=np.float32)


class Rows:
    """The rows of one batch in lockstep: token t of every row is chosen in the same step."""

    def __init__(self, rows: Sequence[Row], eos: int, device: torch.device, pieces: Pieces) -> None:
        self.rows, self.eos, self.pieces = rows, eos, pieces
        width = max(row.limit for row in rows)
        self.tokens_TR = torch.zeros(width, len(rows), dtype=torch.long, device=device)
        self.logprobs_TR = torch.zeros(width, len(rows), device=device)
        self.length_R = torch.zeros(len(rows), dtype=torch.long, device=device)
        drawn = np.zeros((width, len(rows)), dtype=np.float32)
        for place, row in enumerate(rows):
            if row.temperature > 0:
                drawn[: row.limit, place] = uniforms(row.seed, row.limit)
        self.uniform_TR = torch.from_numpy(drawn).to(device)
        self.limit_R = torch.tensor([row.limit for row in rows], device=device)
        self.heat_R = torch.tensor([row.temperature for row in rows], device=device)
        self.step = 0
        self._set_active(torch.arange(len(rows), device=device))

    def _set_active(self, active_A: torch.Tensor) -> None:
        self.active_A = active_A
        self.done_A = torch.zeros(len(active_A), dtype=torch.bool, device=active_A.device)
        self.limit_A = self.limit_R[active_A]
        self.shortest = int(self.limit_A.min()) if len(active_A) else 0
        heat_A = self.heat_R[active_A]
        self.greedy_A = heat_A == 0
        self.all_greedy, self.any_greedy = bool(self.greedy_A.all()), bool(self.greedy_A.any())
        heat_A = torch.where(self.greedy_A, torch.ones_like(heat_A), heat_A)  # log-probs of greedy tokens: at T=1
        self.heat_A1 = None if bool((heat_A == 1).all()) else heat_A[:, None]
        self.stoppable = [(a, r) for a, r in enumerate(active_A.tolist()) if self.rows[r].stop]

    @property
    def alive(self) -> int:
        """Rows that go on."""
        return len(self.done_A) - int(self.done_A.sum())

    def choose(self, logits_AV: torch.Tensor) -> torch.Tensor:
        """Choose the next token of each active row from its logits: (A,) ids, of which those of ended rows are moot."""
        logits_AV = logits_AV.float() if self.heat_A1 is None else logits_AV.float() / self.heat_A1
        if self.all_greedy:
            tokens_A = logits_AV.argmax(-1)
            logprob_A = logits_AV.gather(-1, tokens_A[:, None])[:, 0] - logits_AV.logsumexp(-1)
        else:
            probs_AV = logits_AV.softmax(-1)
            cdf_AV = probs_AV.cumsum(-1)
            # Scaled by the last value, as the sum is not exactly 1; `right` skips words of probability 0.
            target_A = self.uniform_TR[self.step, self.active_A] * cdf_AV[:, -1]
            tokens_A = torch.searchsorted(cdf_AV, target_A[:, None], right=True)[:, 0]
            tokens_A = tokens_A.clamp_(max=logits_AV.shape[-1] - 1)
            if self.any_greedy:
                tokens_A = torch.where(self.greedy_A, logits_AV.argmax(-1), tokens_A)
            logprob_A = probs_AV.gather(-1, tokens_A[:, None])[:, 0].log()
        self._record(tokens_A, logprob_A)
        return tokens_A

    def _record(self, tokens_A: torch.Tensor, logprob_A: torch.Tensor) -> None:
        self.tokens_TR[self.step, self.active_A] = tokens_A
        self.logprobs_TR[self.step, self.active_A] = logprob_A
        self.step += 1
        ended_A = tokens_A == self.eos
        if self.step >= self.shortest:
            ended_A = ended_A | (self.limit_A <= self.step)
        if self.stoppable:
            newest, done = tokens_A.tolist(), self.done_A.tolist()
            for a, row in self.stoppable:
                if not done[a] and self._may_stop(row, newest[a]) and self._meets_stop(row):
                    ended_A[a] = True
        newly_A = ended_A & ~self.done_A
        self.length_R[self.active_A[newly_A]] = self.step
        self.done_A |= ended_A

    def _may_stop(self, row: int, token: int) -> bool:
        """Whether a token can bring the last character of a stop string. A blank may be lost where it stands alone."""
        piece = self.pieces[token]
        return BROKEN in piece or any(word[-1] in piece or word[-1] == " " for word in self.rows[row].stop)

    def _meets_stop(self, row: int) -> bool:
        stop = self.rows[row].stop
        tail = max(map(len, stop)) + TAIL
        text = self.pieces.decode(self.tokens_TR[max(0, self.step - tail) : self.step, row].tolist())
        return any(word in text for word in stop)

    def compact(self, count: int) -> torch.Tensor:
        """Drop rows that have ended, down to `count`, at least those that go on.

        Returns the (count,) places, among the active ones, of those that stay.
        """
        kept = self.done_A.int().argsort(stable=True)[:count].sort().values
        done_A = self.done_A[kept]
        self._set_active(self.active_A[kept])
        self.done_A = done_A
        return kept

    def completions(self) -> list[Completion]:
        """What was drawn, in the order of the rows."""
        lengths = self.length_R.tolist()
        tokens, logprobs = self.tokens_TR.T.tolist(), self.logprobs_TR.T.tolist()
        return [
            self._completion(row, tuple(tokens[row][:length]), tuple(logprobs[row][:length]))
            for row, length in enumerate(lengths)
        ]

    def _completion(self, row: int, tokens: tuple[int, ...], logprobs: tuple[float, ...]) -> Completion:
        ended = tokens[-1] == self.eos
        text = self.pieces.decode(tokens[:-1] if ended else tokens)
        cuts = [place for word in self.rows[row].stop if (place := text.find(word)) >= 0]
        reason: FinishReason = "stop" if cuts else "eos" if ended else "length"
        return Completion(text[: min(cuts)] if cuts else text, tokens, logprobs, reason)
