"""Chain-of-thought SFT: the target is the worked solution and then the answer."""

import dataclasses

import pytest

from harness import Run
from harness_finetuning import cot_sft
from harness_finetuning.cot_sft import CoTSFT


def test_targets_hold_the_rationale_and_round_trip_through_the_verifier(tiny_model, toy_data, monkeypatch):
    seen = []
    monkeypatch.setattr(cot_sft, "fine_tune", lambda model, examples, *rest: seen.extend(examples))
    CoTSFT().train(tiny_model, toy_data, Run(0, budget=100))
    problems = {p.prompt: p for p in toy_data.problems}
    assert len(seen) == len(problems)
    for prompt, target in seen:
        assert target.startswith(problems[prompt].rationale)
        assert toy_data.verify(problems[prompt], target)[0]


def test_problems_without_a_rationale_are_left_out(tiny_model, toy_data):
    bare = [dataclasses.replace(p, rationale=None) for p in toy_data.problems]
    with pytest.raises(ValueError, match="nothing to train on"):
        CoTSFT().train(tiny_model, dataclasses.replace(toy_data, problems=bare), Run(0, budget=10))


def test_it_learns_to_think_unasked(train, tiny_model, toy_data):
    run = train(CoTSFT(lr=1e-2, batch_size=4), tokens=25_000)
    assert run.curve[-1]["loss"] < 0.2 * run.curve[0]["loss"]
    from harness.toolbox import sample

    [completion] = sample(tiny_model, toy_data.problems[3].prompt, Run(0, max_new_tokens=30), temperature=0.0)
    assert completion.text.startswith("T: ")
    assert completion.finish == "eos"
