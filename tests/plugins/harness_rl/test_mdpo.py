"""mDPO: means inside the sigmoid by hand, DPO at one a group, groups of the same problem, a start that stays."""

import dataclasses
import math

import pytest
import torch

from harness import Run
from harness.toolbox import collate, completion_logprob, frozen_copy
from harness_rl.dpo import dpo_loss
from harness_rl.mdpo import MDPO, MDPORandomReward, mdpo_loss

RATIO = torch.tensor([1.0, 3.0, 0.0, 1.0, -2.0, 0.0, 2.0, 1.0])  # two problems, two a group: right ones, wrong ones


@pytest.fixture
def sevens(toy_data):
    """Right is whatever holds a 7: a random model draws both kinds."""
    return dataclasses.replace(toy_data, verify=lambda problem, text: ("7" in text, text))


def test_by_hand():
    # means 2 and 0.5 of the right, -1 and 1.5 of the wrong: margins 3 and -1
    by_hand = (math.log(1 + math.exp(-0.6)) + math.log(1 + math.exp(0.2))) / 2
    assert mdpo_loss(RATIO, 2, 0.2).item() == pytest.approx(by_hand, rel=1e-6)


def test_it_is_not_the_mean_of_the_losses_of_all_pairs():
    right, wrong = RATIO[:4].view(2, 2), RATIO[4:].view(2, 2)
    pairs = torch.nn.functional.softplus(-0.2 * (right[:, :, None] - wrong[:, None, :])).mean().item()
    assert mdpo_loss(RATIO, 2, 0.2).item() < pairs - 1e-3


def test_one_a_group_is_dpo():
    reference = torch.arange(8.0)
    for beta in (0.1, 2.0):
        assert mdpo_loss(RATIO, 1, beta).item() == pytest.approx(dpo_loss(RATIO + reference, reference, beta).item())


def test_at_the_start_the_loss_is_ln_2_and_swapping_the_groups_flips_its_gradient():
    ratio = torch.zeros(8, requires_grad=True)
    loss = mdpo_loss(ratio, 2, 0.3)
    assert loss.item() == pytest.approx(math.log(2))
    (one,) = torch.autograd.grad(loss, ratio)
    assert (one[:4] < 0).all()  # descending raises the right ones
    (two,) = torch.autograd.grad(mdpo_loss(torch.cat([ratio[4:], ratio[:4]]), 2, 0.3), ratio)
    assert torch.equal(one, -two)


def test_groups_are_of_one_problem_right_ones_first_in_the_order_drawn(tiny_model, toy_data, sevens, monkeypatch):
    from harness_rl import mdpo as module

    drawn, real = [], module.sample_many
    monkeypatch.setattr(module, "sample_many", lambda *a, **k: drawn.extend(real(*a, **k)) or drawn)
    method, run = MDPO(samples=12, group=2), Run(3, budget=100_000, max_new_tokens=20)
    rows = method.draw_groups(tiny_model, toy_data.problems, run, method.reward(sevens, run))
    half, expected = len(rows) // 2, ([], [])
    for problem, completions in zip(toy_data.problems, drawn, strict=True):
        prompt = tiny_model.encode_prompt(problem.prompt)
        kinds = [[c.tokens for c in completions if ("7" in c.text) is kind] for kind in (True, False)]
        if min(map(len, kinds)) >= 2:
            for side, kind in zip(expected, kinds, strict=True):
                side.extend((prompt, tokens) for tokens in kind[:2])
    assert 0 < half < 2 * len(toy_data.problems)  # some problems have both kinds, some have not
    assert (rows[:half], rows[half:]) == expected


def test_it_raises_right_groups_over_wrong_ones_and_the_start_that_draws_stays(train, tiny_model, sevens, monkeypatch):
    from harness_rl import mdpo as module

    drawers, real = [], module.sample_many

    def spy(model, *args, **kwargs):
        drawers.append((model, model.fingerprint()))
        return real(model, *args, **kwargs)

    monkeypatch.setattr(module, "sample_many", spy)
    before = frozen_copy(tiny_model)
    run = train(MDPO(problems=6, lr=2e-3), tokens=30_000, data=sevens)
    learnt = [point for point in run.curve if point["wasted"] < 1]
    assert learnt[0]["loss"] == pytest.approx(math.log(2), rel=1e-4)
    assert learnt[-1]["margin"] > 0.5
    assert {fingerprint for _, fingerprint in drawers} == {before.fingerprint()} != {tiny_model.fingerprint()}
    assert run.ledger.scored_tokens == run.ledger.trained_tokens
    prompt = tiny_model.encode_prompt("1+1?")
    rows = collate(tiny_model, [(prompt, tiny_model.encode_completion(text)) for text in ("A: 77", "A: 33")])
    gain = completion_logprob(tiny_model, rows) - completion_logprob(before, rows)
    assert gain[0] > gain[1]


def test_log_ratios_are_sums_against_the_start(train, tiny_model, make_model, sevens, monkeypatch):
    """The margin of the first step from log-probabilities taken without the toolbox, with a start unlike the policy."""
    from harness_rl import mdpo as module

    policy, start, seen = frozen_copy(tiny_model), frozen_copy(make_model(seed=1)), []
    monkeypatch.setattr(module, "frozen_copy", lambda _: start)
    monkeypatch.setattr(module, "collate", lambda model, rows: seen.append(rows) or collate(model, rows))

    def ratio(ids, target):
        with torch.no_grad():
            both = [m.module(torch.tensor([[*ids, *target]])).logits[0].log_softmax(-1) for m in (policy, start)]
        values = [float(both[0][i, t] - both[1][i, t]) for i, t in enumerate(target, len(ids) - 1)]
        return sum(values)

    run = train(MDPO(problems=6, samples=16), tokens=1000, data=sevens)
    ratios = [ratio(*row) for row in seen[0]]
    half = len(ratios) // 2
    assert half >= 2
    assert run.curve[0]["margin"] == pytest.approx((sum(ratios[:half]) - sum(ratios[half:])) / half, rel=1e-3, abs=1e-4)


def test_where_nothing_can_be_compared_it_says_so_and_nothing_moves(train, tiny_model, toy_data):
    before = tiny_model.fingerprint()
    run = train(MDPO(problems=4), tokens=3000)  # a random model is never right
    assert run.curve
    assert all(point["wasted"] == 1 for point in run.curve)
    assert tiny_model.fingerprint() == before


def test_a_prompt_that_fills_the_context_is_left_out(train, tiny_model, toy_data):
    full = dataclasses.replace(toy_data.problems[0], prompt="1" * 200)
    train_on = dataclasses.replace(toy_data, problems=[full, *toy_data.problems[1:4]])
    run = train(MDPORandomReward(problems=4), tokens=6000, data=train_on)
    assert {point["wasted"] for point in run.curve} <= {1.0, 0.75, 0.5, 0.25}
    assert run.ledger.dropped_rows == 0


def test_labels_of_the_control_are_those_of_a_coin(train, toy_data):
    data = dataclasses.replace(toy_data, verify=lambda *_: pytest.fail("the control read the verifier"))
    run = train(MDPORandomReward(problems=6), tokens=8000, data=data)
    assert min(point["wasted"] for point in run.curve) < 0.5
    assert MDPORandomReward.family == "control"


@pytest.mark.parametrize("group", [0, 5])
def test_two_groups_must_be_had_of_the_samples(group):
    with pytest.raises(ValueError, match=f"group is {group}, but must be 1 to half of samples, which is 8"):
        MDPO(samples=8, group=group)
