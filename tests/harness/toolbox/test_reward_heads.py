"""Scalar heads: where they read, how they start, and which pairs teach them."""

import torch

from harness import Completion, Run
from harness.toolbox import collate, final_values, ranked_pairs, scalar_head


def completion(model, text):
    tokens = tuple(model.encode_completion(text))
    return Completion(text, tokens, (0.0,) * len(tokens), "eos")


def test_a_head_starts_small_and_the_same_for_a_seed(make_model):
    model = make_model(hidden_size=64)
    heads = [scalar_head(model, seed) for seed in (1, 1, 2)]
    assert torch.equal(heads[0].weight, heads[1].weight)
    assert not torch.equal(heads[0].weight, heads[2].weight)
    assert 0.7 < float(torch.cat([heads[0].weight, heads[2].weight]).detach().std()) * 65**0.5 < 1.3
    assert float(heads[0].bias.detach().abs().sum()) == 0
    assert not scalar_head(model).weight.any()  # without a seed it says 0 of everything


def test_a_row_is_read_at_its_last_real_token(any_model):
    """Beside a longer row a short one is padded; its reward must not notice."""
    head = scalar_head(any_model, seed=1)
    prompt = any_model.encode_prompt("1+1?")
    short, long = any_model.encode_completion("A: 2"), any_model.encode_completion("A: 22222222222222")
    alone = final_values(any_model, collate(any_model, [(prompt, short)]), head)
    beside = final_values(any_model, collate(any_model, [(prompt, short), (prompt, long)]), head)
    assert torch.allclose(alone[0], beside[0], atol=1e-5)
    hidden = any_model.module(torch.tensor([prompt + short]), output_hidden_states=True).hidden_states[-1][0, -1]
    assert torch.allclose(alone[0], head(hidden)[0], atol=1e-5)


def test_pairs_are_right_against_wrong_of_the_same_problem(tiny_model, toy_data):
    problem, other = toy_data.problems[:2]
    drawn = [
        (problem, [completion(tiny_model, t) for t in ("A: 1", "A: 1", "A: 7", "A: 8", "x A: 1")]),
        (other, [completion(tiny_model, t) for t in ("A: 7", "A: 9")]),  # never right: nothing to compare
    ]
    right, wrong = ranked_pairs(tiny_model, drawn, lambda p, c: toy_data.verify(p, c.text)[0], Run(0), most=3)
    said = [[tiny_model.decode(tokens) for _, tokens in side] for side in (right, wrong)]
    assert sorted(said[0]) == ["A: 1", "x A: 1"]  # the double is one completion
    assert sorted(said[1]) == ["A: 7", "A: 8"]
    assert {tuple(prompt) for prompt, _ in right + wrong} == {tuple(tiny_model.encode_prompt(problem.prompt))}
