"""mIPO: means inside the square by hand, IPO at one a group, an estimate without bias, groups of the same problem."""

import dataclasses

import pytest
import torch

from harness import Run
from harness.toolbox import collate, completion_logprob, frozen_copy
from harness_rl.ipo import ipo_loss
from harness_rl.mipo import MIPO, MIPORandomReward, mipo_loss

RATIO = torch.tensor([1.0, 3.0, 0.0, 1.0, -2.0, 0.0, 2.0, 1.0])  # two problems, two a group: right ones, wrong ones


@pytest.fixture
def sevens(toy_data):
    """Right is whatever holds a 7: a random model draws both kinds."""
    return dataclasses.replace(toy_data, verify=lambda problem, text: ("7" in text, text))


def test_by_hand():
    # margins 3 and -1, target 0.5; variances 2 + 2 and 0.5 + 0.5, halved
    by_hand = ((3 - 0.5) ** 2 - 4 / 2 + (-1 - 0.5) ** 2 - 1 / 2) / 2
    assert mipo_loss(RATIO, 2, beta=1.0).item() == pytest.approx(by_hand, rel=1e-6)


def test_it_is_not_the_mean_of_the_squares_of_all_pairs():
    right, wrong = RATIO[:4].view(2, 2), RATIO[4:].view(2, 2)
    pairs = (right[:, :, None] - wrong[:, None, :] - 0.5).square().mean().item()
    assert mipo_loss(RATIO, 2, beta=1.0).item() < pairs - 1


def test_one_a_group_is_ipo():
    for beta in (0.1, 2.0):
        assert mipo_loss(RATIO, 1, beta).item() == ipo_loss(RATIO, beta).item()


@pytest.mark.parametrize("k", [2, 5])
def test_its_mean_over_many_small_groups_is_the_square_of_the_expectations(k):
    """Expectations 0.4 and -0.1, deviations 1 and 2; without its correction it would be 5 / k too large."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 200_000, k, generator=generator)
    ratio = noise * torch.tensor([1.0, 2.0]).view(2, 1, 1) + torch.tensor([0.4, -0.1]).view(2, 1, 1)
    mean = mipo_loss(ratio.flatten(), k, beta=0.25).item()
    assert mean == pytest.approx((0.5 - 2) ** 2, abs=0.06)
    many = noise.mean((1, 2)) * torch.tensor([1.0, 2.0]) + torch.tensor([0.4, -0.1])
    assert mean == pytest.approx((many[0] - many[1] - 2).square().item(), abs=0.06)  # one large group


def test_the_loss_may_be_below_zero_and_learns_all_the_same():
    ratio = torch.tensor([2.0, -1.0, 0.0, 0.0], requires_grad=True)  # a margin of 0.5, as aimed at, but spread out
    loss = mipo_loss(ratio, 2, beta=1.0)
    assert loss.item() == pytest.approx(-4.5 / 2)
    (gradient,) = torch.autograd.grad(loss, ratio)
    assert gradient.tolist() == pytest.approx([-1.5, 1.5, 0.0, 0.0])  # by hand: - (y - mean) / (k - 1) * 2 / k


def test_at_the_start_swapping_the_groups_flips_its_gradient():
    ratio = torch.zeros(8, requires_grad=True)
    (one,) = torch.autograd.grad(mipo_loss(ratio, 2, 0.3), ratio)
    assert (one[:4] < 0).all()  # descending raises the right ones
    (two,) = torch.autograd.grad(mipo_loss(torch.cat([ratio[4:], ratio[:4]]), 2, 0.3), ratio)
    assert torch.equal(one, -two)


def test_groups_are_of_one_problem_right_ones_first_in_the_order_drawn(tiny_model, toy_data, sevens, monkeypatch):
    from harness_rl import mipo as module

    drawn, real = [], module.sample_many
    monkeypatch.setattr(module, "sample_many", lambda *a, **k: drawn.extend(real(*a, **k)) or drawn)
    method, run = MIPO(samples=12, group=2), Run(3, budget=100_000, max_new_tokens=20)
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
    from harness_rl import mipo as module

    drawers, real = [], module.sample_many

    def spy(model, *args, **kwargs):
        drawers.append((model, model.fingerprint()))
        return real(model, *args, **kwargs)

    monkeypatch.setattr(module, "sample_many", spy)
    before = frozen_copy(tiny_model)
    run = train(MIPO(problems=6, lr=2e-3), tokens=30_000, data=sevens)
    learnt = [point for point in run.curve if point["wasted"] < 1]
    assert learnt[0]["loss"] == pytest.approx(0.25, rel=1e-4)  # 1 / (2 beta) squared, no spread yet
    assert learnt[-1]["margin"] > 0.05
    assert {fingerprint for _, fingerprint in drawers} == {before.fingerprint()} != {tiny_model.fingerprint()}
    assert run.ledger.scored_tokens == run.ledger.trained_tokens
    prompt = tiny_model.encode_prompt("1+1?")
    rows = collate(tiny_model, [(prompt, tiny_model.encode_completion(text)) for text in ("A: 77", "A: 33")])
    gain = completion_logprob(tiny_model, rows) - completion_logprob(before, rows)
    assert gain[0] > gain[1]


def test_log_ratios_are_means_against_the_start(train, tiny_model, make_model, sevens, monkeypatch):
    """The margin of the first step from log-probabilities taken without the toolbox, with a start unlike the policy."""
    from harness_rl import mipo as module

    policy, start, seen = frozen_copy(tiny_model), frozen_copy(make_model(seed=1)), []
    monkeypatch.setattr(module, "frozen_copy", lambda _: start)
    monkeypatch.setattr(module, "collate", lambda model, rows: seen.append(rows) or collate(model, rows))

    def ratio(ids, target):
        with torch.no_grad():
            both = [m.module(torch.tensor([[*ids, *target]])).logits[0].log_softmax(-1) for m in (policy, start)]
        values = [float(both[0][i, t] - both[1][i, t]) for i, t in enumerate(target, len(ids) - 1)]
        return sum(values) / len(values)

    run = train(MIPO(problems=6, samples=16), tokens=1000, data=sevens)
    ratios = [ratio(*row) for row in seen[0]]
    half = len(ratios) // 2
    assert half >= 2
    assert run.curve[0]["margin"] == pytest.approx((sum(ratios[:half]) - sum(ratios[half:])) / half, rel=1e-3, abs=1e-4)


def test_where_nothing_can_be_compared_it_says_so_and_nothing_moves(train, tiny_model, toy_data):
    before = tiny_model.fingerprint()
    run = train(MIPO(problems=4), tokens=3000)  # a random model is never right
    assert run.curve
    assert all(point["wasted"] == 1 for point in run.curve)
    assert tiny_model.fingerprint() == before


def test_a_prompt_that_fills_the_context_is_left_out(train, tiny_model, toy_data):
    full = dataclasses.replace(toy_data.problems[0], prompt="1" * 200)
    train_on = dataclasses.replace(toy_data, problems=[full, *toy_data.problems[1:4]])
    run = train(MIPORandomReward(problems=4), tokens=6000, data=train_on)
    assert {point["wasted"] for point in run.curve} <= {1.0, 0.75, 0.5, 0.25}
    assert run.ledger.dropped_rows == 0


def test_labels_of_the_control_are_those_of_a_coin(train, toy_data):
    data = dataclasses.replace(toy_data, verify=lambda *_: pytest.fail("the control read the verifier"))
    run = train(MIPORandomReward(problems=6), tokens=8000, data=data)
    assert min(point["wasted"] for point in run.curve) < 0.5
    assert MIPORandomReward.family == "control"


@pytest.mark.parametrize("group", [0, 5])
def test_two_groups_must_be_had_of_the_samples(group):
    with pytest.raises(ValueError, match=f"group is {group}, but must be 1 to half of samples, which is 8"):
        MIPO(samples=8, group=group)
