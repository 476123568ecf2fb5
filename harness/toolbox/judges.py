"""Judges: a model says which of two completions of the same problem is better, in one of two ways.

By its scores of each, read one at a time: a small judge can do no more. By its next word, 1 or 2, behind a prompt that
holds both: for judges that follow instructions. What it does not say is NaN.
Shapes: B problems, R = 2B rows, V words.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from harness.contracts import Model
from harness.toolbox.batching import collate, encode_pairs
from harness.toolbox.logprobs import completion_logits, completion_logprob
from harness.toolbox.rollouts import Rollouts

Judge = Callable[[Rollouts], tuple[torch.Tensor, torch.Tensor]]
"""(B,) logit of `the one in front is better`, with the first completion in front and with the second; NaN: not said."""
ASK = "{question}\n\nAnswer 1:\n{one}\n\nAnswer 2:\n{two}\n\nWhich answer is right? Reply with 1 or 2 only."


@torch.no_grad()
def compare_by_scores(
    judge: Model, rollouts: Rollouts, cue: str, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gap of the judge's mean log-probabilities of the two texts; it reads each alone, so orders cannot differ."""
    said = iter(rollouts.completions)
    asked = [(f"{p.prompt} {cue}".strip(), next(said).text) for p in rollouts.problems for _ in range(2)]
    rows = encode_pairs(judge, asked)
    mean_R = completion_logprob(judge, rows) / rows.completion_mask.sum(-1)  # 0/0 of one that does not fit
    first_B, second_B = rollouts.by_problem(mean_R).unbind(-1)
    gap_B = (first_B - second_B) / temperature
    return gap_B, -gap_B


@torch.no_grad()
def compare_by_tokens(judge: Model, rollouts: Rollouts) -> tuple[torch.Tensor, torch.Tensor]:
    """The gap of the logits of 1 and 2 behind a prompt that holds both texts, in both orders."""
    (one, *more), (two, *_) = (judge.encode_completion(word)[:-1] for word in "12")
    if more or one == two:
        msg = f"{judge.name} has no token for 1 and for 2 to compare by: set compare to 'scores'"
        raise ValueError(msg)
    texts, questions = [c.text for c in rollouts.completions], [p.prompt for p in rollouts.problems]
    triples = zip(questions * 2, texts[::2] + texts[1::2], texts[1::2] + texts[::2], strict=True)
    asked = [judge.encode_prompt(ASK.format(question=q, one=a, two=b)) for q, a, b in triples]
    logits_RV = completion_logits(judge, collate(judge, [(ids, [one]) for ids in asked]))[0].float()
    likeliest_R = logits_RV.argmax(-1)
    whole_R = torch.tensor([len(ids) < judge.context for ids in asked], device=likeliest_R.device)  # nothing was cut
    said_R = whole_R & ((likeliest_R == one) | (likeliest_R == two))
    forth_B, back_B = (logits_RV[:, one] - logits_RV[:, two]).where(said_R, torch.nan).chunk(2)
    return forth_B, back_B
