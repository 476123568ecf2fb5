import pytest
import torch

from benchmarks.generate import ended, generate
from harness.toolbox import SampleRequest, draw


def test_greedy_is_ours_token_for_token_on_ragged_prompts(make_model):
    model = make_model(sharpness=0.3)
    prompts = [model.encode_prompt(text) for text in ("1+1?", "How many is 3+1?", "2")]
    ours = draw(model, [SampleRequest(tuple(ids), (0,), 0.0, 12) for ids in prompts])
    assert [rows for [rows] in generate(model, prompts, 1, 0.0, 12)] == [c.tokens for [c] in ours]


def test_samples_are_grouped_by_prompt_and_come_from_the_whole_distribution(tiny_model):
    torch.manual_seed(0)
    prompts = [tiny_model.encode_prompt(text) for text in ("1+1?", "2")]
    first, second = generate(tiny_model, prompts, 200, 1.0, 1)
    assert len(first) == len(second) == 200
    with torch.no_grad():
        likely = tiny_model.module(torch.tensor([prompts[0]])).logits[0, -1].softmax(-1)
    assert len(set(first)) > 50  # `top_k` is 50 where nobody turns it off
    frequent = max(set(first), key=first.count)
    assert first.count(frequent) / 200 == pytest.approx(float(likely[frequent[0]]), abs=0.08)


def test_what_follows_the_end_token_is_no_token_of_the_row():
    assert ended([5, 2, 0, 2], eos=2) == (5, 2)
    assert ended([5, 6], eos=2) == (5, 6)
