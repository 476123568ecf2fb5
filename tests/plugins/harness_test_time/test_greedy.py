"""Greedy: one completion, the likeliest tokens, the same as the library's."""

import torch

from harness import Run
from harness_test_time.greedy import Greedy


def test_it_equals_generate(tiny_model):
    run = Run(0, problem_id="p", max_new_tokens=20)
    answer = Greedy().answer(tiny_model, "12+30?", run)
    ids = torch.tensor([tiny_model.encode_prompt("12+30?")])
    expected = tiny_model.module.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False, pad_token_id=tiny_model.pad
    )[0, ids.shape[1] :]
    assert list(answer.completions[0].tokens) == expected.tolist()
    assert run.ledger.sampled_tokens == len(expected)
