"""OREO: the soft Bellman equation on an MDP that can be solved, whose gradient is whose, and a value that ranks."""

import dataclasses
import math

import pytest
import torch

from harness import Completion, Run
from harness import registry as registries
from harness.plan import Pipeline, resolve
from harness.toolbox import collate, frozen_copy, roll_out, token_logprobs, verified
from harness_rl import oreo
from harness_rl.dpo import DPO
from harness_rl.oreo import HEAD, OREO, OREORandomReward, losses, read

PAIRS = [([1, 5, 6, 7], [8, 9, 2]), ([1, 5], [9, 2]), ([1, *range(30, 36)], [2]), ([1, 6], [7, 8, 9, 10, 11, 2])]
BETA = 0.5


@pytest.fixture
def scorer(tiny_model):
    tiny_model.heads[HEAD] = torch.nn.Linear(tiny_model.size.width, 1)
    return tiny_model


@pytest.fixture
def sevens(toy_data):
    """Right is whatever holds a 7: a random model draws both kinds."""
    return dataclasses.replace(toy_data, verify=lambda problem, text: ("7" in text, text))


def completion(model, text, *, ends=True):
    tokens = tuple(model.encode_completion(text))[: None if ends else -1]
    return Completion(text, tokens, (0.0,) * len(tokens), "eos" if ends else "length")


# -- an MDP of two steps with two actions each: every path is one row, its reward at the end


class Mdp:
    reference = torch.tensor([0.3, 0.7]), torch.tensor([[0.4, 0.6], [0.8, 0.2]])
    reward = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    paths = ((0, 0), (0, 1), (1, 0), (1, 1))

    def solution(self):
        """V* = beta log E_ref exp(next / beta) and pi* = ref exp((next - V*) / beta), from the end to the start."""
        first, second = self.reference
        value_2 = BETA * (second * (self.reward / BETA).exp()).sum(-1).log()
        policy_2 = second * ((self.reward - value_2[:, None]) / BETA).exp()
        value_1 = BETA * (first * (value_2 / BETA).exp()).sum().log()
        policy_1 = first * ((value_2 - value_1) / BETA).exp()
        return (value_1, value_2), (policy_1, policy_2)

    def rows(self, values, policies):
        """(4, 3) values and log-ratios of all paths behind a prompt of one token, rewards, mask.

        The last state, in which nothing is left to do, is worth the reward.
        """
        ends = [self.reward[a, b] for a, b in self.paths]
        value_RT = torch.stack(
            [torch.stack([values[0], values[1][a], end]) for (a, _), end in zip(self.paths, ends, strict=True)]
        )
        first, second = ((p.log() - r.log()) for p, r in zip(policies, self.reference, strict=True))
        ratio_RT = torch.stack([torch.stack([torch.zeros(()), first[a], second[a, b]]) for a, b in self.paths])
        mask_RT = torch.tensor([[False, True, True]]).expand(4, 3)
        return value_RT, ratio_RT, torch.stack(ends), mask_RT


def test_at_the_soft_optimum_both_losses_and_their_gradients_are_0():
    mdp = Mdp()
    values, policies = mdp.solution()
    assert policies[0].sum().item() == pytest.approx(1)
    torch.testing.assert_close(policies[1].sum(-1), torch.ones(2))
    leaves = [x.clone().requires_grad_() for x in (*values, *policies)]
    value, policy = losses(*mdp.rows(leaves[:2], leaves[2:]), BETA)
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert policy.item() == pytest.approx(0, abs=1e-12)
    for slope in torch.autograd.grad(value + policy, leaves):
        torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-5, rtol=0)


@pytest.mark.parametrize("part", range(4))
def test_away_from_it_the_loss_rises(part):
    mdp = Mdp()
    found = [list(x) for x in mdp.solution()]
    change = found[part // 2][part % 2]
    if part < 2:
        found[0][part] = change + 0.1
    else:
        tilted = change * torch.tensor([1.2, 1.0])
        found[1][part - 2] = tilted / tilted.sum(-1, keepdim=True)
    value, policy = losses(*mdp.rows(*found), BETA)
    assert value.item() > 1e-4
    assert policy.item() == pytest.approx(value.item() * 3 / 2)  # the same squares, but for the 0 of the last state


def test_descending_both_finds_the_optimum():
    """From the reference and V = 0, on all paths at equal odds: off-policy data will do."""
    mdp = Mdp()
    values, policies = mdp.solution()
    guess_V = [torch.zeros(()).requires_grad_(), torch.zeros(2).requires_grad_()]
    logits = [p.log().clone().requires_grad_() for p in mdp.reference]
    optimizer = torch.optim.Adam([*guess_V, *logits], lr=0.02)
    for _ in range(600):
        value, policy = losses(*mdp.rows(guess_V, [x.softmax(-1) for x in logits]), BETA)
        optimizer.zero_grad()
        (value + policy).backward()
        optimizer.step()
    for found, best in zip([*guess_V, *(x.softmax(-1) for x in logits)], [*values, *policies], strict=True):
        torch.testing.assert_close(found.detach(), best, atol=0.01, rtol=0)


# -- sums, masks, gradients


def test_losses_by_hand_on_rows_of_unequal_length():
    """A prompt of one token; completions of two and one; the padding of the second row holds nothing that counts."""
    value = torch.tensor([[0.5, 0.25, 0.75], [0.75, 0.5, 9.0]], requires_grad=True)
    ratio = torch.tensor([[0.0, 1.0, -0.5], [0.0, 2.0, 0.0]], requires_grad=True)
    mask = torch.tensor([[False, True, True], [False, True, False]])
    of_value, of_policy = losses(value, ratio, torch.tensor([1.0, 0.0]), mask, BETA)
    # V + beta S - R: 0.5 + 0.5 * 0.5 - 1, 0.25 - 0.5 * 0.5 - 1, 0.75 + 0.5 * 2; behind the last tokens V - R
    errors, ends = [-0.25, -1.0, 1.75], [0.75 - 1, 0.5 - 0]
    assert of_policy.item() == pytest.approx(sum(e * e for e in errors) / 3)
    assert of_value.item() == pytest.approx(sum(e * e for e in errors + ends) / 5)
    slope_V, none = torch.autograd.grad(of_value, [value, ratio], allow_unused=True)
    torch.testing.assert_close(slope_V, torch.tensor([[-0.25, -1.0, -0.25], [1.75, 0.5, 0]]) * 2 / 5)
    assert none is None  # the value's loss moves V alone
    none, slope_pi = torch.autograd.grad(of_policy, [value, ratio], allow_unused=True)
    assert none is None
    # Through the suffix, the second token would have both errors: -0.25 - 1.
    torch.testing.assert_close(slope_pi, torch.tensor([[0, -0.25, -1.0], [0, 1.75, 0]]) * BETA * 2 / 3)


def test_a_value_has_seen_its_token_and_none_behind_it(scorer):
    rows = collate(scorer, PAIRS)
    value_RT, logprob_RT = read(scorer, rows)
    hidden = scorer.module(torch.tensor([PAIRS[0][0] + PAIRS[0][1]]), output_hidden_states=True).hidden_states[-1][0]
    torch.testing.assert_close(value_RT[0, 3:7], scorer.heads[HEAD](hidden).squeeze(-1)[3:], rtol=1e-4, atol=1e-5)
    before_RT = rows.completion_mask.roll(-1, 1)
    assert torch.equal(value_RT != 0, rows.completion_mask | before_RT)
    assert torch.equal(logprob_RT != 0, rows.completion_mask)
    changed = collate(scorer, [(prompt, [*tokens[:-1], 40]) for prompt, tokens in PAIRS])  # another last token
    found_RT = read(scorer, changed)[0]
    torch.testing.assert_close(found_RT[before_RT], value_RT[before_RT])
    last_RT = rows.completion_mask & ~before_RT
    assert not torch.isclose(found_RT[last_RT], value_RT[last_RT]).any()


def test_one_pass_gives_the_log_probabilities_of_the_model(any_model):
    any_model.heads[HEAD] = torch.nn.Linear(any_model.size.width, 1)
    rows, run = collate(any_model, PAIRS), Run(0)
    run.watch(any_model)
    found = read(any_model, rows)[1]
    assert run.ledger.trained_tokens == int(rows.lengths.sum())
    torch.testing.assert_close(found, token_logprobs(any_model, rows), rtol=1e-4, atol=1e-5)


def test_the_value_leaves_the_policy_alone(scorer):
    value_RT, logprob_RT = read(scorer, collate(scorer, PAIRS))
    value_RT.sum().backward()
    assert all(p.grad is None for p in scorer.module.parameters())
    assert scorer.heads[HEAD].weight.grad.any()
    logprob_RT.sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in scorer.module.parameters())


# -- data


def test_data_are_drawn_once_and_read_by_the_start(train, tiny_model, sevens, monkeypatch):
    start, seen = frozen_copy(tiny_model), []
    real = OREO.collect

    def collect(self, *args):
        seen.extend(real(self, *args))
        return seen

    monkeypatch.setattr(OREO, "collect", collect)
    run = train(OREO(problems=4), tokens=20_000, data=sevens)
    for rows, reward_R, reference_RT in seen:
        with torch.no_grad():
            torch.testing.assert_close(reference_RT, token_logprobs(start, rows), rtol=1e-4, atol=1e-4)
        assert reward_R.mean() == 0.5
    drawing = [point for point in run.curve if "wasted" in point]
    assert run.curve[: len(drawing)] == drawing  # never again once training has begun
    assert 0.4 * 20_000 <= drawing[-1]["tokens"] < 0.6 * 20_000
    assert run.curve[len(drawing)]["kl"] == pytest.approx(0, abs=1e-6)


def test_with_nothing_to_compare_it_says_so(train, toy_data):
    data = dataclasses.replace(toy_data, verify=lambda problem, text: (True, text))
    with pytest.raises(ValueError, match="both right and wrong"):
        train(OREO(), data=data)


def test_a_reward_that_is_no_number_names_its_problem(train, toy_data):
    with pytest.raises(ValueError, match="problem p"):
        train(OREO(), data=dataclasses.replace(toy_data, verify=lambda problem, text: (math.nan, text)))


# -- the run


def test_policy_and_value_learn_what_is_right(train, tiny_model, sevens):
    def solved():
        rollouts = roll_out(tiny_model, sevens.problems, Run(3, max_new_tokens=12), 16, verified(sevens))
        return float(rollouts.rewards.mean())

    method, before = OREO(problems=4, lr=1e-3, value_lr=1e-2), solved()
    run = train(method, tokens=40_000, data=sevens)
    steps = [point for point in run.curve if "loss" in point]
    assert steps[0]["loss"] == pytest.approx(0.25, abs=1e-3)  # V = 1/2 of rewards 0 and 1
    assert steps[-1]["loss"] < 0.22
    assert solved() > 2 * before
    scores = method.score(tiny_model, "1+1?", [completion(tiny_model, t) for t in ("b327", "b323")], Run(0))
    assert scores[0].total > scores[1].total


def test_without_the_kl_the_policy_goes_further(train, make_model, sevens):
    ends = []
    for alpha in (0.0, 1.0):
        run = train(OREO(problems=4, alpha=alpha, lr=1e-3), tokens=20_000, data=sevens, model=make_model())
        ends.append(run.curve[-1]["kl"])
    assert ends[0] > 2 * ends[1]


def test_the_same_seed_gives_the_same_weights(train, make_model):
    prints = []
    for _ in range(2):
        model = make_model()
        train(OREORandomReward(problems=4), tokens=6000, model=model)
        prints.append(model.fingerprint())
    assert prints[0] == prints[1]


def test_the_control_hears_a_coin(train, toy_data):
    run = train(OREORandomReward(problems=4), tokens=6000)
    rewards = [point["reward"] for point in run.curve if "reward" in point]
    assert 0.2 < sum(rewards) / len(rewards) < 0.8


# -- the scorer


def test_scores_come_one_a_completion_whatever_stands_beside_it(scorer):
    texts = ["A: 2", "A: 3333333333", "A: 4"]
    together = OREO().score(scorer, "1+1?", [completion(scorer, t) for t in texts], Run(0))
    alone = [OREO().score(scorer, "1+1?", [completion(scorer, t)], Run(0))[0] for t in texts]
    assert [s.total for s in together] == pytest.approx([s.total for s in alone], abs=1e-5)
    assert len({round(s.total, 6) for s in together}) == 3


def test_a_prefix_is_worth_the_value_at_its_end(scorer):
    finished, open_ended = completion(scorer, "A: 2"), completion(scorer, "A: 2", ends=False)
    nothing = Completion("", (), (), "length")
    scores = OREO().score(scorer, "1+1?", [finished, open_ended, nothing], Run(0))
    ids = scorer.encode_prompt("1+1?")
    for score, said in zip(scores, (finished, open_ended, nothing), strict=True):
        ends = scorer.module(torch.tensor([[*ids, *said.tokens]]), output_hidden_states=True).hidden_states[-1][0, -1]
        assert score.total == pytest.approx(scorer.heads[HEAD](ends).item(), abs=1e-5)
    with torch.no_grad():  # and that is what was trained
        value_RT, _ = read(scorer, collate(scorer, [(ids, finished.tokens)]))
    assert scores[0].total == pytest.approx(value_RT[0, -1].item(), abs=1e-5)


@pytest.mark.parametrize("name", ["oreo", "oreo-random-reward"])
def test_alone_it_has_a_row_for_its_policy_and_rows_for_what_it_scores(name):
    registry = registries.load()
    found = resolve(name, registry)
    assert found[0] == Pipeline(("cot-sft", name), None, "greedy")
    assert Pipeline(("cot-sft",), name, "best-of-n") in found[1:]
    assert all(pipeline.scorer == name for pipeline in found[1:])


def test_its_policy_is_trained_on_from_its_checkpoint(train, tiny_model, sevens, tmp_path):
    train(OREO(problems=4), tokens=8000, data=sevens)
    tiny_model.save(tmp_path)
    again = tiny_model.restore(tmp_path)
    train(DPO(), tokens=2000, model=again)
    assert again.fingerprint() != tiny_model.fingerprint()
    assert torch.equal(again.heads[HEAD].weight, tiny_model.heads[HEAD].weight)


def test_policy_and_value_are_saved_together(train, tiny_model, sevens, tmp_path):
    train(OREO(problems=4), tokens=8000, data=sevens)
    tiny_model.save(tmp_path / "stage")
    again = tiny_model.restore(tmp_path / "stage")
    said = [completion(tiny_model, "A: 7")]
    [before], [after] = (OREO().score(model, "1+1?", said, Run(0)) for model in (tiny_model, again))
    assert after.total == pytest.approx(before.total, rel=1e-6)  # the last bits depend on where weights lie in memory
    assert oreo.HEAD in again.heads
