"""Instruction tuning: the mixture holds its shares, large tasks are capped, and unseen draws come with each pass."""

from collections import Counter

import pytest

from harness import Instruction, Run
from harness_finetuning.instruction_tuning import InstructionTuning, mixture

SIZES = {"large": 500, "middle": 60, "small": 10}
INSTRUCTIONS = [
    Instruction(f"{task}-{i}", task, f"{task} {i}?", f"A: {i % 10}")
    for task, size in SIZES.items()
    for i in range(size)
]


def test_shares_are_those_of_sizes_up_to_the_cap():
    counts = Counter(item.task for item in mixture(INSTRUCTIONS, cap=80, seed=1))
    assert counts == {"large": 80, "middle": 60, "small": 10}


def test_no_instruction_twice_in_a_pass_and_other_ones_in_the_next():
    first, second = (mixture(INSTRUCTIONS, cap=80, seed=seed) for seed in (1, 2))
    assert len({item.id for item in first}) == len(first)
    large = [{item.id for item in drawn if item.task == "large"} for drawn in (first, second)]
    assert large[0] != large[1]
    assert mixture(INSTRUCTIONS, cap=80, seed=1) == first


def test_what_is_trained_on_has_the_shares_of_the_mixture(tiny_model, toy_data, monkeypatch):
    seen = Counter()

    def count(model, examples):
        seen.update(prompt.split()[0] for prompt, _ in examples)
        model.module(**model.tokenizer("1", return_tensors="pt"))  # the meter must see a pass
        return 1.0

    monkeypatch.setattr("harness_finetuning.instruction_tuning.completion_loss", count)
    monkeypatch.setattr("harness_finetuning.instruction_tuning.update", lambda optimizer: None)
    run = Run(0, budget=40)
    run.watch(tiny_model)
    data = with_instructions(toy_data)
    InstructionTuning(cap=80, batch_size=30).train(tiny_model, data, run)
    total = seen.total()
    assert total >= 40 * 20
    for task, most in {"large": 80, "middle": 60, "small": 10}.items():
        share = most / 150
        assert abs(seen[task] - total * share) <= 3 * (total * share * (1 - share)) ** 0.5


def with_instructions(data, instructions=INSTRUCTIONS):
    return type(data)(data.problems, data.dev, data.verify, data.render_target, instructions=instructions)


def test_it_learns_within_its_budget(train, toy_data):
    run = train(InstructionTuning(lr=1e-2, batch_size=8), tokens=6000, data=with_instructions(toy_data))
    assert run.curve[-1]["loss"] < 0.7 * run.curve[0]["loss"]
    assert 6000 <= run.spent < 6000 + 8 * 30


def test_the_same_seed_gives_the_same_weights(train, make_model, toy_data):
    models = [make_model(seed=3) for _ in range(2)]
    for model in models:
        train(InstructionTuning(batch_size=8), tokens=1500, data=with_instructions(toy_data), model=model)
    assert models[0].fingerprint() == models[1].fingerprint()


def test_without_instructions_it_says_so(tiny_model, toy_data):
    with pytest.raises(ValueError, match="nothing to train on"):
        InstructionTuning().train(tiny_model, toy_data, Run(0, budget=10))
