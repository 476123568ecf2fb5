"""Decode-beam: beam search over tokens, for the completion that the model itself finds likeliest.

Papers: Sutskever et al. 2014, arXiv:1409.3215, sec. 3.2 (a hypothesis that ends leaves the beam, which gets narrower);
Wu et al. 2016, arXiv:1609.08144, sec. 7, eq. (14): argmax_y log p(y | x) / lp(y), lp(y) = ((5 + |y|) / 6)^alpha.
No scorer and no chance takes part; a likelier text need not be a righter one. With one beam it is greedy decoding.
Data: none. Cost: as `beams` samples of the question: each token that a beam was given is a sampled one, those of beams
that were dropped as well, and the cache holds what was read before.
Left out: Wu et al.'s coverage penalty and their pruning. Shapes: L live beams, T tokens that are read at once, V words.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from harness import Answer, BudgetSpentError, Completion, Model, Prompt, Run, hookimpl
from harness.paying import uncounted
from harness.toolbox import SampleRequest, charge, check_fields


@dataclass(frozen=True)
class Beam:
    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    ended: bool = False

    @property
    def total(self) -> float:
        """Its log p(y | x), in nats."""
        return math.fsum(self.logprobs)


class Reader:
    """Reads beams on from where they were; all are of one length, so that none is padded."""

    def __init__(self, model: Model, prompt_ids: list[int]) -> None:
        self.module, self.device = model.module, torch.device(model.device.name)
        self.cache: Any = None
        self.ids_LT = torch.tensor([prompt_ids], device=self.device)

    @torch.no_grad()
    def logprobs(self) -> torch.Tensor:
        """(L, V) log-probabilities in nats of what comes next."""
        with uncounted():  # what was emitted is charged once, at the end, with what it took to read it
            out = self.module(input_ids=self.ids_LT, past_key_values=self.cache, use_cache=True)
        self.cache = out.past_key_values
        logprob_LV: torch.Tensor = out.logits[:, -1].float().log_softmax(-1)
        return logprob_LV

    def follow(self, steps: list[tuple[int, int]]) -> None:
        """Go on with these beams: (place of the one it goes on from, its new token)."""
        parents_L, tokens_L = torch.tensor(steps, device=self.device).unbind(-1)
        self.cache.reorder_cache(parents_L)
        self.ids_LT = tokens_L[:, None]


@dataclass(frozen=True)
class DecodeBeam:
    name: ClassVar[str] = "decode-beam"
    family: ClassVar[str] = "test-time"
    after: ClassVar[tuple[str, ...]] = ("cot-sft",)
    scales: ClassVar[str] = "beams"
    beams: int = 4
    """Hypotheses, finished or not."""
    length_penalty: float = 0.6
    """Wu et al.'s alpha: 0 compares finished texts by their likelihood, which favours short ones."""

    def __post_init__(self) -> None:
        check_fields(
            self,
            ("beams", self.beams >= 1, "1 or more"),
            ("length_penalty", 0 <= self.length_penalty < math.inf, "0 or above"),
        )

    def answer(self, model: Model, prompt: Prompt, run: Run) -> Answer:
        ids = model.encode_prompt(prompt)
        limit = min(run.max_new_tokens, model.context - len(ids))
        if run.left < 1:
            msg = f"no token is left of the budget of {run.budget}"
            raise BudgetSpentError(msg)
        found, widths = self.search(model, ids, limit, int(min(run.left, self.beams * max(0, limit))))
        # Beams go through the books as as many samples; the tokens themselves are of no account there.
        lengths = [sum(width > place for width in widths) for place in range(max(widths, default=0))]
        rows = [Completion("", (0,) * length, (), "length") for length in lengths]
        charge(run, model, SampleRequest(tuple(ids), ()), rows)
        ranked = sorted(found, key=lambda beam: -self.worth(beam))  # a tie: the first to end
        completions = tuple(completed(model, beam) for beam in ranked)
        return Answer(completions[0].text, completions)

    def search(self, model: Model, ids: list[int], limit: int, left: int) -> tuple[list[Beam], list[int]]:
        """The beams that ended, or where none did those that go on, and how many tokens each step emitted."""
        reader, live, ended, widths = Reader(model, ids), [Beam()], list[Beam](), list[int]()
        while live and len(widths) < limit and not self.decided(ended, live, limit):
            rest = left - sum(widths)
            # No wider than the budget lets every beam go on to the limit, so that it cuts off one beam at the most.
            width = min(self.beams - len(ended), max(1, rest // (limit - len(widths))))
            if rest < width:
                break
            logprob_LV = reader.logprobs()
            total_LV = torch.tensor([[beam.total] for beam in live], device=logprob_LV.device) + logprob_LV
            best = total_LV.flatten().argsort(descending=True, stable=True)[:width]  # a tie: the better beam's token
            steps = [divmod(place, total_LV.shape[1]) for place in best.tolist()]
            said = zip(steps, logprob_LV.flatten()[best].tolist(), strict=True)
            new = [Beam((*live[p].tokens, w), (*live[p].logprobs, lp), w == model.eos) for (p, w), lp in said]
            widths.append(len(new))
            ended += [beam for beam in new if beam.ended]
            if live := [beam for beam in new if not beam.ended]:
                reader.follow([step for step in steps if step[1] != model.eos])
        return ended or live, widths

    def worth(self, beam: Beam) -> float:
        return beam.total / self.penalty(len(beam.tokens))

    def penalty(self, length: int) -> float:
        return math.pow((5 + length) / 6, self.length_penalty)  # lp of eq. (14)

    def decided(self, ended: list[Beam], live: list[Beam], limit: int) -> bool:
        """Whether no beam that goes on can win: were all to come certain, it is as it is now over the largest lp."""
        most = max(beam.total for beam in live) / self.penalty(limit)
        return any(self.worth(beam) >= most for beam in ended)


def completed(model: Model, beam: Beam) -> Completion:
    spoken = beam.tokens[:-1] if beam.ended else beam.tokens
    return Completion(model.decode(spoken), beam.tokens, beam.logprobs, "eos" if beam.ended else "length")


@hookimpl
def harness_methods() -> list[type]:
    return [DecodeBeam]
