"""RLHF: a reward model from pairs, then the policy against it; proxy and gold apart, KL, limits, the control."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in torch

from harness import Run
from harness.toolbox import kl_estimate, roll_out, scalar_head, token_logprobs
from harness_rl import rlhf
from harness_rl.rlhf import RLHF, RLHFRandomReward, learn_reward, leave_one_out, rewards


def letters(data):
    """Right is whatever holds an l: the random model draws both kinds."""
    return dataclasses.replace(data, verify=lambda problem, text: ("l" in text, text))


def rollouts_of(model, data, n=8, reward=lambda p, c: float("l" in c.text)):
    return roll_out(model, data.problems[:4], Run(3, budget=50_000, max_new_tokens=12), n, reward)


def test_the_baseline_is_the_mean_of_the_others_by_hand():
    found = leave_one_out(torch.tensor([[1.0, 0.0, 0.5], [2.0, 2.0, 2.0]]))
    # the others' means: .25, .75, .5
    torch.testing.assert_close(found, torch.tensor([[0.75, -0.75, 0.0], [0.0, 0.0, 0.0]]))
    torch.testing.assert_close(leave_one_out(torch.tensor([[1.0, 0.0]])), torch.tensor([[1.0, -1.0]]))


def head_of(model, seed=None):
    return scalar_head(model, seed, features=2)


def test_the_reward_is_of_the_last_token_and_of_the_least_and_summed_log_probability(tiny_model, toy_data):
    rollouts = rollouts_of(tiny_model, toy_data)
    head = head_of(tiny_model)
    with torch.no_grad():
        head.weight[0, -2:] = torch.tensor([2.0, 0.5])
    reward_R, logprob_RT = rewards(tiny_model, head, rollouts.sequences)
    for row, completion in enumerate(rollouts.completions):
        wanted = 2 * min(completion.logprobs) + 0.5 * sum(completion.logprobs)
        assert reward_R[row].item() == pytest.approx(wanted, abs=1e-3)
        assert logprob_RT[row].sum().item() == pytest.approx(sum(completion.logprobs), abs=1e-3)
    with torch.no_grad():
        head.weight.zero_()[0, 0] = 1.0
        states = tiny_model.module(rollouts.sequences.input_ids, output_hidden_states=True).hidden_states[-1]
    last_R = states[torch.arange(32), rollouts.sequences.lengths - 1, 0]
    torch.testing.assert_close(rewards(tiny_model, head, rollouts.sequences)[0].detach(), last_R, rtol=1e-4, atol=1e-5)


def test_all_comparisons_of_a_problem_count_and_none_between_problems(tiny_model, toy_data):
    """By hand: the mean over problems of the mean over their pairs; a problem where all are as good has none."""
    rollouts = rollouts_of(tiny_model, toy_data, reward=lambda p, c: float("l" in c.text) if p.id != "p3" else 1.0)
    head = head_of(tiny_model, seed=4)
    value_R = rewards(tiny_model, head, rollouts.sequences)[0].tolist()
    losses, ranked = [], []
    for first in range(0, 32, 8):
        rows = range(first, first + 8)
        gaps = [value_R[a] - value_R[b] for a in rows for b in rows if rollouts.rewards[a] > rollouts.rewards[b]]
        if gaps:
            losses.append(sum(math.log1p(math.exp(-gap)) for gap in gaps) / len(gaps))
            ranked.append(sum(gap > 0 for gap in gaps) / len(gaps))
    facts = learn_reward(tiny_model, head, rollouts)
    assert facts["judge_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert facts["ranked"] == pytest.approx(sum(ranked) / len(ranked))
    assert facts["wasted"] == 1 - len(losses) / 4 >= 0.25


def test_the_head_has_the_gradient_that_it_has_where_the_start_has_one_too(tiny_model, toy_data, plain_logprobs, apart):
    """Eq. (1) over the whole batch by the module's own pass, the problem that cannot be compared read as well."""
    rollouts = rollouts_of(tiny_model, toy_data, reward=lambda p, c: float("l" in c.text) if p.id != "p3" else 1.0)
    head, rows = head_of(tiny_model, seed=4), rollouts.sequences
    learn_reward(tiny_model, head, rollouts)
    found = torch.cat([p.grad.flatten() for p in head.parameters()])
    head.zero_grad()
    hidden_RTD = tiny_model.module(rows.input_ids, rows.attention_mask, output_hidden_states=True).hidden_states[-1]
    logprob_RT, last_R = plain_logprobs(tiny_model, rows), rows.lengths - 1
    read_RF = torch.cat(
        [hidden_RTD[range(32), last_R], logprob_RT.amin(-1, keepdim=True), logprob_RT.sum(-1, keepdim=True)], -1
    )
    losses = []
    for value_n, right_n in zip(head(read_RF).view(-1, 8), rollouts.rewards.view(-1, 8) > 0, strict=True):
        if 0 < right_n.sum() < 8:
            losses.append(-F.logsigmoid(value_n[right_n][:, None] - value_n[~right_n]).mean())
    torch.stack(losses).mean().backward()
    assert len(losses) > 1
    assert tiny_model.module.get_input_embeddings().weight.grad.any()
    assert apart(found, torch.cat([p.grad.flatten() for p in head.parameters()])) <= 1e-5


def test_eq_1_costs_ln_2_at_the_start_and_the_reward_model_learns_to_rank(tiny_model, toy_data):
    head, rollouts = head_of(tiny_model), rollouts_of(tiny_model, toy_data)
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.1)
    facts = learn_reward(tiny_model, head, rollouts)
    assert facts["judge_loss"] == pytest.approx(math.log(2))
    assert facts["wasted"] < 1
    for _ in range(60):
        optimizer.step()
        optimizer.zero_grad()
        facts = learn_reward(tiny_model, head, rollouts)
    assert facts["ranked"] > 0.95


def test_what_cannot_be_compared_is_logged_and_leaves_the_reward_model_alone(tiny_model, toy_data):
    head = head_of(tiny_model)
    assert learn_reward(tiny_model, head, rollouts_of(tiny_model, toy_data, reward=lambda p, c: 1.0)) == {"wasted": 1.0}
    assert all(parameter.grad is None for parameter in head.parameters())


def test_one_budget_pays_for_both_phases(train, toy_data):
    run = train(RLHF(judge_share=0.3), tokens=12_000, data=letters(toy_data))
    judging = [point["tokens"] for point in run.curve if "wasted" in point]
    policy = [point for point in run.curve if "proxy" in point]
    assert judging
    assert policy
    assert max(judging) < policy[0]["tokens"]
    assert max(judging[:-1]) < 0.3 * 12_000 <= policy[0]["tokens"]
    assert policy[0]["proxy"] == pytest.approx(0, abs=1e-5)  # centred on the start's own samples
    assert policy[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert {"proxy", "gold", "kl", "length", "cut"} <= policy[-1].keys()
    assert "reward" not in policy[-1]


def test_the_policy_pleases_the_proxy_and_gold_follows_where_the_proxy_is_true(train, toy_data):
    run = train(RLHF(lr=3e-3, judge_lr=0.1, samples=8, problems=12, kl_coef=0.0), tokens=80_000, data=letters(toy_data))
    policy = [point for point in run.curve if "proxy" in point]
    assert sum(point["proxy"] for point in policy[-3:]) / 3 > 0.1  # and 0 at the start
    assert sum(point["gold"] for point in policy[-3:]) / 3 > policy[0]["gold"] + 0.2


def test_each_phase_has_a_schedule_of_its_own(train, toy_data, monkeypatch):
    """Rates go down to nothing over the phase's part of the budget, not over all of it."""
    rates, real = {}, rlhf.set_rate

    def remember(optimizer, rate):
        rates.setdefault(id(optimizer), []).append(rate)
        real(optimizer, rate)

    monkeypatch.setattr(rlhf, "set_rate", remember)
    train(RLHF(judge_share=0.5, problems=2, judge_lr=1e-3, lr=1e-3), tokens=12_000, data=letters(toy_data))
    judge, policy = rates.values()
    for phase in (judge, policy):
        assert len(phase) > 4
        assert max(phase) > 0.9e-3
        assert phase[-1] < 0.2e-3


def distance(model, start, data):
    rollouts = rollouts_of(model, data)
    with torch.no_grad():
        kl = kl_estimate(token_logprobs(model, rollouts.sequences), token_logprobs(start, rollouts.sequences))
    return float(kl.sum()) / rollouts.sequences.tokens


def test_a_huge_kl_coefficient_keeps_the_policy_at_the_start(make_model, train, toy_data):
    found = {}
    for kl_coef in (0.0, 100.0):
        model = make_model()
        train(RLHF(problems=4, lr=1e-3, kl_coef=kl_coef, samples=8), tokens=25_000, data=letters(toy_data), model=model)
        found[kl_coef] = distance(model, make_model(), toy_data)
    assert found[100.0] < 0.02
    assert found[100.0] < found[0.0] / 4


def test_a_constant_reward_model_teaches_nothing(train, tiny_model):
    before = tiny_model.fingerprint()
    run = train(RLHF(), tokens=6000)  # the random model is never right: no pair, so the proxy is 0 of everything
    assert tiny_model.fingerprint() == before
    assert all(point.get("wasted", 1.0) == 1 for point in run.curve)
    assert run.curve[-1]["proxy"] == 0


@pytest.mark.usefixtures("small_groups")
def test_the_gradient_of_a_step_by_hand(tiny_model, toy_data, make_model, plain_logprobs, apart):
    """- sum_i (A_i log pi(y_i) - kl_coef sum_t k2_it) over all tokens; the verifier is in none of it."""
    rollouts, start = rollouts_of(tiny_model, toy_data, n=4), make_model(seed=1)
    proxy_R = torch.linspace(-1, 1, 16)
    with torch.no_grad():
        start_RT = token_logprobs(start, rollouts.sequences)
    facts = RLHF(kl_coef=0.5).step(tiny_model, start_RT, rollouts, proxy_R)
    found = torch.cat([parameter.grad.flatten() for parameter in tiny_model.module.parameters()])
    tiny_model.module.zero_grad()
    logprob_RT = plain_logprobs(tiny_model, rollouts.sequences)
    gain_R = leave_one_out(proxy_R.view(4, 4)).view(-1) * logprob_RT.sum(-1)
    loss = (0.5 * (logprob_RT - start_RT).square().sum() / 2 - gain_R.sum()) / rollouts.sequences.tokens
    loss.backward()
    assert apart(found, torch.cat([parameter.grad.flatten() for parameter in tiny_model.module.parameters()])) <= 1e-5
    kl = float(kl_estimate(logprob_RT.detach(), start_RT).sum()) / rollouts.sequences.tokens
    assert facts["kl"] == pytest.approx(kl, rel=1e-4)
    assert facts["entropy"] == pytest.approx(-float(logprob_RT.detach().sum()) / rollouts.sequences.tokens, rel=1e-4)
    assert facts["gold"] == pytest.approx(float(rollouts.rewards.mean()))
    assert facts["proxy"] == pytest.approx(0, abs=1e-6)


def test_the_start_draws_the_pairs_and_never_moves(train, tiny_model, toy_data, monkeypatch):
    drawn, real = [], rlhf.roll_out

    def remember(model, *args):
        drawn.append((model is tiny_model, model.fingerprint()))
        return real(model, *args)

    monkeypatch.setattr(rlhf, "roll_out", remember)
    before = tiny_model.fingerprint()
    train(RLHF(problems=4), tokens=12_000, data=letters(toy_data))
    assert {fingerprint for policy, fingerprint in drawn if not policy} == {before}
    assert len({fingerprint for policy, fingerprint in drawn if policy}) > 2
    assert not tiny_model.heads  # the reward model is thrown away


@pytest.mark.parametrize("name", ["samples", "judged"])
def test_a_single_sample_has_no_other_beside_it(name):
    with pytest.raises(ValueError, match=f"rlhf: {name} must be 2 or more, to have something to compare, not 1"):
        RLHF(**{name: 1})


def test_the_control_learns_from_a_coin(make_model, train, toy_data):
    nobody = dataclasses.replace(toy_data, verify=lambda problem, text: (False, None))
    prints = []
    for seed_model in (make_model(), make_model()):
        run = train(RLHFRandomReward(), tokens=8000, data=nobody, model=seed_model)
        prints.append(seed_model.fingerprint())
        assert any(point.get("wasted", 1) < 1 for point in run.curve)  # though the verifier calls nothing right
        assert all(point["gold"] == 0 for point in run.curve if "gold" in point)
    assert prints[0] == prints[1] != make_model().fingerprint()
    assert RLHFRandomReward.family == "control"
    assert {method.name for method in rlhf.harness_methods()} == {"rlhf", "rlhf-random-reward"}
