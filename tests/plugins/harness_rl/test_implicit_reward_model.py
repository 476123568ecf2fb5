"""Implicit reward model: zero at the start, sums that add up, a reference that never moves and is kept."""

import copy
import dataclasses
import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in torch

from harness import Completion, Run
from harness.toolbox import collate, completion_logprob, frozen_copy, token_logprobs
from harness_rl import implicit_reward_model as module
from harness_rl.implicit_reward_model import (
    HEAD,
    ImplicitRewardModel,
    at_start,
    keep_start,
    learn,
    token_rewards,
    whole_steps,
)

TEXT = "T: 10+12=22. 22/2=11.\nA: 11"


@pytest.fixture
def start(make_model):
    """The random model before anything was done to it."""
    return frozen_copy(make_model())


@pytest.fixture
def judge(tiny_model):
    """The random model, moved away from the start that it keeps."""
    keep_start(tiny_model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in tiny_model.module.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    return tiny_model


@pytest.fixture
def sevens(toy_data):
    """Right is whatever holds a 7: a random model draws both kinds."""
    return dataclasses.replace(toy_data, verify=lambda problem, text: ("7" in text, text))


def completion(model, text, *, eos=True):
    tokens = tuple(model.encode_completion(text))
    return Completion(text, tokens if eos else tokens[:-1], (), "eos" if eos else "length")


def scores(model, *completions, **options):
    return ImplicitRewardModel(**options).score(model, "1+1?", completions, Run(0))


def same_weights(one, two):
    ours, theirs = one.module.state_dict(), two.module.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def reward(chance):
    """The r of a score, which is sigmoid(r)."""
    return math.log(chance / (1 - chance))


def step_rewards(score):
    """Rewards of the steps, from the chances up to each."""
    so_far = [0.0, *map(reward, score.steps)]
    return [after - before for before, after in pairwise(so_far)]


# -- the reward


def test_by_hand(judge, start):
    """Beta times the sum over tokens, `eos` included, of the two models' log-probabilities, read one by one."""
    ids, tokens = judge.encode_prompt("1+1?"), judge.encode_completion("A: 2")
    wanted = 0.0
    for place, token in enumerate(tokens, len(ids)):
        before = torch.tensor([[*ids, *tokens][:place]])
        now, then = (m.module(before).logits[0, -1].log_softmax(-1)[token].item() for m in (judge, start))
        wanted += 0.3 * (now - then)
    [score] = scores(judge, completion(judge, "A: 2"), beta=0.3)
    assert reward(score.total) == pytest.approx(wanted, abs=1e-5)
    assert abs(wanted) > 0.01


def test_at_the_start_every_reward_is_0(tiny_model):
    keep_start(tiny_model)
    for score in scores(tiny_model, completion(tiny_model, TEXT), completion(tiny_model, "A: 9")):
        assert score.total == 0.5
        assert set(score.steps) == {0.5}


def test_steps_add_up_to_the_whole_and_are_sums_over_their_tokens(judge, start):
    [score] = scores(judge, completion(judge, TEXT))
    pieces = ["T: 10+12=22.", " 22/2=11.", "\nA: 11"]  # a token a character, and `eos` behind the last
    rows = collate(judge, [(judge.encode_prompt("1+1?"), judge.encode_completion(TEXT))])
    with torch.no_grad():
        reward_T = token_rewards(judge, token_logprobs(start, rows), rows, 0.05)[0][rows.completion_mask[0]]
    ends = [12, 21, len(TEXT) + 1]
    assert [len("".join(pieces[: k + 1])) for k in range(3)] == [12, 21, len(TEXT)]
    wanted = [reward_T[a:b].sum().item() for a, b in zip([0, *ends], ends, strict=False)]
    assert step_rewards(score) == pytest.approx(wanted, abs=1e-5)
    assert sum(wanted) == pytest.approx(reward(score.total), abs=1e-5)
    assert len({round(step, 4) for step in wanted}) == 3


@pytest.mark.parametrize("text", ["", "A: 9", "no end", "1. 2.\n\n3. 4", " "])
def test_whatever_is_said_the_steps_add_up(judge, text):
    for eos in (True, False):
        said = completion(judge, text, eos=eos)
        [score] = scores(judge, said)
        assert sum(step_rewards(score)) == pytest.approx(reward(score.total), abs=1e-5)
        assert whole_steps(judge, said.tokens)[-1] == len(said.tokens)


def test_later_steps_change_nothing_and_nor_do_other_rows(judge):
    whole = "T: 10+12=22. 22/2=11. 11-1=10. 10+5=15."
    cuts = [completion(judge, whole[:end], eos=False) for end in (12, 21, 30, 39)]
    *prefixes, full = scores(judge, *cuts)
    assert len(full.steps) == 4
    for count, prefix in enumerate(prefixes, 1):
        assert prefix.steps == pytest.approx(full.steps[:count], abs=1e-6)
    assert scores(judge, cuts[0])[0].steps == pytest.approx(prefixes[0].steps, abs=1e-6)


# -- the reference in the checkpoint


def test_the_start_outlives_a_checkpoint(judge, start, tmp_path):
    judge.save(tmp_path)
    again = judge.restore(tmp_path)
    with at_start(again) as kept:
        assert same_weights(kept, start)
    assert same_weights(again, judge)
    one, two = (scores(model, completion(model, TEXT)) for model in (judge, again))
    assert one == two
    assert one[0].total != 0.5
    assert again.fingerprint() == judge.fingerprint()


def test_the_start_of_another_family_is_kept_whole(any_model):
    """Biases, and a words' head that is not tied to the embedding, as well."""
    start = frozen_copy(any_model)
    keep_start(any_model)
    for weight in any_model.module.parameters():
        torch.nn.init.ones_(weight)
    with at_start(any_model) as kept:
        assert same_weights(kept, start)
    assert all(bool((weight == 1).all()) for weight in any_model.module.parameters())
    saids = completion(any_model, TEXT), completion(any_model, "A: 9")
    keep_start(any_model)  # as if it had never been anything else: to the last bit, both read the same
    assert {score.total for score in scores(any_model, *saids)} == {0.5}


def test_the_policy_gets_its_weights_back_whatever_happens_at_the_start(judge):
    before, weights = judge.fingerprint(), [weight.data_ptr() for weight in judge.module.parameters()]
    with pytest.raises(KeyboardInterrupt), at_start(judge):
        raise KeyboardInterrupt
    assert judge.fingerprint() == before
    assert [weight.data_ptr() for weight in judge.module.parameters()] == weights


def test_no_model_is_copied_for_a_question_and_each_is_judged_by_the_weights_of_now(judge, monkeypatch):
    said = completion(judge, TEXT)
    monkeypatch.setattr(type(judge), "clone", lambda self: 1 / 0)
    [first] = scores(judge, said)
    with torch.no_grad():
        for weight in judge.module.parameters():
            weight.add_(0.02)
    [moved] = scores(judge, said)
    assert moved != first
    with torch.no_grad():
        judge.heads[HEAD].weight.copy_(torch.cat([weight.flatten() for weight in judge.module.parameters()])[None])
    assert scores(judge, said)[0].total == 0.5


def test_weights_in_bfloat16_are_lent_in_bfloat16(tiny_model):
    tiny_model.module.bfloat16()
    keep_start(tiny_model)
    with at_start(tiny_model) as kept:
        assert {weight.dtype for weight in kept.module.parameters()} == {torch.bfloat16}
    assert scores(tiny_model, completion(tiny_model, TEXT))[0].total == 0.5


def test_scoring_changes_no_weight_and_counts_both_models(judge):
    before, run = judge.fingerprint(), Run(0)
    run.watch(judge)
    said = [completion(judge, TEXT), completion(judge, "A: 9")]
    ImplicitRewardModel().score(judge, "1+1?", said, run)
    tokens = sum(len(judge.encode_prompt("1+1?")) + len(one.tokens) for one in said)
    assert run.ledger.scored_tokens == 2 * tokens
    assert run.ledger.trained_tokens == 0
    assert judge.fingerprint() == before


# -- training


def test_the_loss_begins_at_ln_2_and_its_gradient_lifts_right_and_lowers_wrong(tiny_model, start):
    """By hand: at r = 0 the gradient of the mean over R rows is - (l - 1/2) beta grad log pi / R."""
    ids = tiny_model.encode_prompt("1+1?")
    rows = collate(tiny_model, [(ids, tiny_model.encode_completion(text)) for text in ("A: 2", "A: 3344")])
    assert learn(tiny_model, start, rows, 0.4)["loss"] == pytest.approx(math.log(2), rel=1e-6)
    gradient = [weight.grad.clone() for weight in tiny_model.module.parameters()]
    tiny_model.module.zero_grad()
    right, wrong = completion_logprob(tiny_model, rows)
    (0.5 * 0.4 * (wrong - right) / 2).backward()
    for found, weight in zip(gradient, tiny_model.module.parameters(), strict=True):
        torch.testing.assert_close(found, weight.grad, rtol=1e-4, atol=1e-6)


def test_the_loss_of_rewards_by_hand(judge, start):
    said = [completion(judge, text) for text in ("A: 2", "A: 3344", "A: 55", "A: 6")]
    rows = collate(judge, [(judge.encode_prompt("1+1?"), one.tokens) for one in said])
    facts = learn(judge, start, rows, 0.7)
    rewards = [reward(score.total) for score in scores(judge, *said, beta=0.7)]
    signs = (1, 1, -1, -1)
    wanted = sum(math.log(1 + math.exp(-s * r)) for s, r in zip(signs, rewards, strict=True)) / 4
    assert facts["loss"] == pytest.approx(wanted, rel=1e-5)
    assert facts["ranked"] == sum(rewards[k] > rewards[k + 2] for k in range(2)) / 2


@pytest.mark.usefixtures("small_groups")
def test_a_step_has_the_gradient_of_the_loss_over_the_whole_batch(judge, start, plain_logprobs, apart):
    said = [judge.encode_completion(text) for text in ("A: 2", "A: 55", "A: 3344", "A: 6")]
    rows = collate(judge, [(judge.encode_prompt("1+1?"), tokens) for tokens in said])
    learn(judge, start, rows, 0.7)
    found = torch.cat([weight.grad.flatten() for weight in judge.module.parameters()])
    judge.module.zero_grad()
    reward_R = 0.7 * (plain_logprobs(judge, rows) - plain_logprobs(start, rows)).sum(-1)
    F.binary_cross_entropy_with_logits(reward_R, torch.tensor([1.0, 1.0, 0.0, 0.0])).backward()
    assert apart(found, torch.cat([weight.grad.flatten() for weight in judge.module.parameters()])) <= 1e-5


def test_it_learns_to_rank(train, tiny_model, sevens):
    method = ImplicitRewardModel(samples=16, problems=4, lr=3e-3, beta=0.3)
    run = train(method, tokens=50_000, data=sevens)
    assert run.curve[0]["loss"] == pytest.approx(math.log(2), rel=1e-5)
    assert run.curve[-1]["ranked"] > 0.8
    assert run.curve[-1]["loss"] < 0.6
    good, bad = method.score(tiny_model, "1+1?", [completion(tiny_model, t) for t in ("A: 3727b", "A: 3323b")], Run(0))
    assert good.total > bad.total
    # the reference reads what the policy reads, and nothing else is scored
    assert run.ledger.scored_tokens == run.ledger.trained_tokens > 0


def test_the_start_samples_and_is_the_reference_and_never_moves(train, tiny_model, sevens, monkeypatch):
    seen, real = [], module.sample_many

    def watch(policy, *args, **kwargs):
        seen.append(policy.fingerprint())
        return real(policy, *args, **kwargs)

    before, weights = tiny_model.fingerprint(), copy.deepcopy(tiny_model.module.state_dict())
    monkeypatch.setattr(module, "sample_many", watch)
    train(ImplicitRewardModel(samples=8, problems=4), tokens=8000, data=sevens)
    assert len(seen) > 2
    assert set(seen) == {before}
    with at_start(tiny_model) as kept:
        assert all(torch.equal(weights[k], v) for k, v in kept.module.state_dict().items())
    assert any(not torch.equal(weights[k], v) for k, v in tiny_model.module.state_dict().items())
    assert not tiny_model.heads[HEAD].weight.requires_grad


def test_nothing_to_compare_is_said(train, toy_data):
    never = dataclasses.replace(toy_data, verify=lambda problem, text: (False, None))
    run = train(ImplicitRewardModel(samples=2, problems=4), tokens=1000, data=never)
    assert {point["wasted"] for point in run.curve} == {1}
    assert run.ledger.trained_tokens == run.ledger.scored_tokens == 0
