"""TRPO: the solver against a direct solve, F against the Jacobian, and a step that is safe or not taken."""

import dataclasses
import math
from collections import defaultdict

import pytest
import torch

from harness import Run
from harness.toolbox import collate, frozen_copy, linear_layers, token_logprobs
from harness_rl import trpo
from harness_rl.trpo import TRPO, TRPORandomReward, conjugate_gradient, fisher_product, mean_gain, mean_kl, read
from harness_rl.trpo import parameters_to_vector as flat

PAIRS = [([1, 5, 6, 7], [8, 9, 2]), ([1, 5], [9, 2]), ([1, *range(30, 36)], [2]), ([1, 6], [7, 8, 9, 10, 11, 2])]
ADVANTAGES = torch.tensor([1.0, -1.0, 0.25, 0.5])


@pytest.fixture
def rows(tiny_model):
    return collate(tiny_model, PAIRS)


def spied(monkeypatch):
    """All calls of `TRPO.step`: fingerprint before, facts, fingerprint after."""
    calls, real = [], TRPO.step

    def step(self, model, weights, rows, advantage_R):
        before = model.fingerprint()
        facts = real(self, model, weights, rows, advantage_R)
        calls.append((before, facts, model.fingerprint()))
        return facts

    monkeypatch.setattr(TRPO, "step", step)
    return calls


# -- the solver


def test_on_a_quadratic_the_solver_equals_the_direct_solve():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    matrix, target = root @ root.T + torch.eye(6), torch.randn(6, generator=generator, dtype=torch.float64)
    solution = conjugate_gradient(lambda v: matrix @ v, target, 6)
    torch.testing.assert_close(solution, torch.linalg.solve(matrix, target))
    early = conjugate_gradient(lambda v: matrix @ v, target, 2)  # not solved, and still v^T F v is known
    torch.testing.assert_close(early @ target, early @ matrix @ early)
    assert not torch.allclose(early, solution)


def test_a_solved_system_is_left_alone():
    solution = conjugate_gradient(lambda v: 2 * v, torch.tensor([2.0, 4.0]), 50)
    torch.testing.assert_close(solution, torch.tensor([1.0, 2.0]))


# -- KL, F and the surrogate


def test_kl_and_gain_by_hand(tiny_model):
    old, new = torch.tensor([[0.5, 0.5], [0.9, 0.1]]).log(), torch.tensor([[0.25, 0.75], [0.9, 0.1]]).log()
    assert mean_kl(old, new).item() == pytest.approx(0.5 * (0.5 * math.log(2) + 0.5 * math.log(0.5 / 0.75)), rel=1e-5)
    one = collate(tiny_model, [([1, 5], [0, 1])])  # tokens 0 and 1: ratios 0.5 and 1
    assert mean_gain(one, torch.tensor([2.0]), old, new).item() == pytest.approx((0.5 - 1) * 2 / 2)


def test_means_are_over_tokens_and_each_has_its_rows_advantage(tiny_model, rows):
    with torch.no_grad():
        old = read(tiny_model, rows)
        change = torch.randn(old.shape, generator=torch.Generator().manual_seed(0)).mul(0.1)
        new = (old + change).log_softmax(-1)
    ids, expected, at = rows.input_ids[rows.completion_mask].tolist(), 0.0, 0
    for advantage, (_, completion) in zip(ADVANTAGES.tolist(), PAIRS, strict=True):
        for _ in completion:
            expected += (math.exp(new[at, ids[at]] - old[at, ids[at]]) - 1) * advantage
            at += 1
    assert mean_gain(rows, ADVANTAGES, old, new).item() == pytest.approx(expected / 12, rel=1e-4)
    picked = rows.select(torch.tensor([3, 1]))
    with torch.no_grad():
        old, logprobs = read(tiny_model, picked), token_logprobs(tiny_model, picked).sum(-1)
    doubled = old + math.log(2)
    assert mean_gain(picked, ADVANTAGES[[3, 1]], old, doubled).item() == pytest.approx((6 * 0.5 - 2) / 8, rel=1e-4)
    by_row = torch.stack(
        [x.sum() for x in old.gather(-1, picked.input_ids[picked.completion_mask][:, None]).split([6, 2])]
    )
    torch.testing.assert_close(by_row, logprobs)


@pytest.mark.usefixtures("either_product")
def test_where_the_policy_stands_the_kl_and_its_gradient_are_0(tiny_model, rows):
    weights = TRPO().unfreeze(tiny_model)
    new = read(tiny_model, rows)
    kl = mean_kl(new.detach(), new)
    assert kl.item() == 0
    assert flat(torch.autograd.grad(kl, weights)).abs().max() < 1e-6
    assert flat(torch.autograd.grad(read(tiny_model, rows).sum(), weights)).abs().max() > 1e-3


def test_f_is_the_hessian_of_the_kl_over_the_whole_vocabulary(any_model):
    """F v against J^T (diag p - p p^T) J v / K, J v by differences."""
    rows = collate(any_model, PAIRS)
    weights = [[*linear_layers(any_model).values()][-1].weight]
    vector = torch.randn(weights[0].numel(), generator=torch.Generator().manual_seed(0))
    small, start = 1e-2, weights[0].detach().clone()
    logits = []
    for sign in (1, -1):
        with torch.no_grad():
            weights[0].copy_(start + sign * small * vector.view_as(start))
            logits.append(trpo.completion_logits(any_model, rows)[0])
            weights[0].copy_(start)
    along = (logits[0] - logits[1]) / (2 * small)  # J v, (K, V)
    new, _ = trpo.completion_logits(any_model, rows)
    chances = new.detach().softmax(-1)
    curved = chances * (along - (chances * along).sum(-1, keepdim=True))
    expected = flat(torch.autograd.grad(new, weights, curved / len(new)))
    found = fisher_product(any_model, rows, weights, vector)
    torch.testing.assert_close(found, expected, rtol=0.01, atol=0.01 * float(expected.abs().max()))
    assert vector @ found > 0


@pytest.mark.usefixtures("either_product")
def test_f_reaches_through_attention(tiny_model, rows):
    """Its fused kernel cannot be differentiated twice; F must be symmetric in the first layer's weights as well."""
    weights = [layer.weight for layer in linear_layers(tiny_model).values()]
    generator = torch.Generator().manual_seed(0)
    one, two = (torch.randn(flat(weights).numel(), generator=generator) for _ in range(2))
    left, right = (u @ fisher_product(tiny_model, rows, weights, v) for u, v in ((one, two), (two, one)))
    assert left.item() == pytest.approx(right.item(), rel=1e-3)


# -- the step


@pytest.mark.usefixtures("either_product")
def test_a_step_climbs_within_its_region_and_moves_the_last_layers_alone(tiny_model, rows):
    before, method = frozen_copy(tiny_model), TRPO(linears=7, iterations=10)
    weights = method.unfreeze(tiny_model)
    facts = method.step(tiny_model, weights, rows, ADVANTAGES)
    with torch.no_grad():
        old, new = read(before, rows), read(tiny_model, rows)
    assert facts["accepted"] == 1
    assert 0 < mean_kl(old, new).item() == pytest.approx(facts["step_kl"], rel=1e-4)
    assert facts["step_kl"] <= method.delta
    assert 0 < mean_gain(rows, ADVANTAGES, old, new).item() == pytest.approx(facts["gain"], rel=1e-4)
    moved = [n for n, p in tiny_model.module.named_parameters() if not torch.equal(p, before.module.get_parameter(n))]
    assert len(moved) == 7
    assert all(name.startswith("model.layers.1.") and "proj" in name for name in moved)


def test_without_damping_the_first_try_is_as_long_as_the_region_allows(tiny_model, rows):
    """sqrt(2 delta / v^T F v): to second order the KL is delta."""
    method = TRPO(linears=1, iterations=30, damping=1e-4, delta=1e-4)
    facts = method.step(tiny_model, method.unfreeze(tiny_model), rows, ADVANTAGES)
    assert facts["accepted"] == 1
    first = facts["step_kl"] / trpo.BACKTRACK ** (2 * (facts["tries"] - 1))
    assert first == pytest.approx(method.delta, rel=0.15)


def test_a_try_that_leaves_the_region_is_shortened(tiny_model, rows, monkeypatch):
    """As if F were a hundred times smaller: steps are ten times too long, and ten tries make up for it."""
    real = trpo.fisher_product
    monkeypatch.setattr(trpo, "fisher_product", lambda *args: 0.1 * real(*args))
    method = TRPO(linears=1, damping=1e-4)
    facts = method.step(tiny_model, method.unfreeze(tiny_model), rows, ADVANTAGES)
    assert facts["accepted"] == 1
    assert facts["tries"] > 3
    assert facts["step_kl"] <= method.delta


FAULTS = {
    "too far": ("mean_kl", lambda real: lambda old, new: real(old, new) + (not new.requires_grad)),
    "no gain": ("mean_gain", lambda real: lambda *args: real(*args) if args[-1].requires_grad else torch.zeros(())),
    "no metric": ("fisher_product", lambda real: lambda *args: -args[-1]),
    "nan": ("fisher_product", lambda real: lambda *args: args[-1] * math.nan),
}


@pytest.mark.parametrize(("fault", "tries"), [("too far", 10), ("no gain", 10), ("no metric", 0), ("nan", 0)])
def test_a_rejected_step_leaves_the_weights_as_they_were_bit_for_bit(tiny_model, rows, monkeypatch, fault, tries):
    name, spoil = FAULTS[fault]
    monkeypatch.setattr(trpo, name, spoil(getattr(trpo, name)))
    run, before, method = Run(0), tiny_model.fingerprint(), TRPO()
    run.watch(tiny_model)
    assert method.step(tiny_model, method.unfreeze(tiny_model), rows, ADVANTAGES) == {"accepted": 0.0}
    assert tiny_model.fingerprint() == before
    assert run.ledger.scored_tokens == tries * int(rows.lengths.sum())


def test_every_product_and_every_try_is_counted(tiny_model, rows):
    run = Run(0)
    run.watch(tiny_model)
    method = TRPO(iterations=3, fisher_rows=2)
    facts = method.step(tiny_model, method.unfreeze(tiny_model), rows, ADVANTAGES)
    lengths = [len(prompt) + len(completion) for prompt, completion in PAIRS]
    assert run.ledger.trained_tokens == sum(lengths) + 3 * (lengths[0] + lengths[3])
    assert run.ledger.scored_tokens == facts["tries"] * sum(lengths)


# -- the run


def test_it_learns_what_is_rewarded(train, tiny_model, toy_data, monkeypatch):
    """A right answer is one with a 7 in it."""
    calls = spied(monkeypatch)
    data = dataclasses.replace(toy_data, verify=lambda problem, text: ("7" in text, text))
    method = TRPO(delta=0.05, damping=1e-3)
    run = train(method, tokens=60_000, data=data)
    rewards = [point["reward"] for point in run.curve]
    assert sum(rewards[-3:]) > 2 * sum(rewards[:3])
    assert all(facts["step_kl"] <= method.delta and facts["gain"] > 0 for _, facts, _ in calls if facts["accepted"])
    assert sum(facts["accepted"] for _, facts, _ in calls) > len(calls) / 2
    assert all((before == after) is (not facts["accepted"]) for before, facts, after in calls)


def test_with_equal_rewards_throughout_it_stays_where_it_is_and_reads_nothing(train, tiny_model):
    before = tiny_model.fingerprint()
    run = train(TRPO(problems=4, samples=4), tokens=2000)  # a random model is never right
    assert tiny_model.fingerprint() == before
    assert all(point["wasted"] == 1 and "accepted" not in point for point in run.curve)
    assert run.ledger.trained_tokens == 0


def test_a_step_is_given_the_groups_whose_rewards_differ_each_row_with_its_own_advantage(
    train, tiny_model, toy_data, monkeypatch
):
    seen = []

    def step(self, model, weights, rows, advantage_R):
        seen.append((rows, advantage_R.tolist()))
        return {}

    monkeypatch.setattr(TRPO, "step", step)
    data = dataclasses.replace(toy_data, verify=lambda problem, text: ("7" in text, text))
    run = train(TRPO(problems=12, samples=4), tokens=1500, data=data)
    rows, advantages = seen[0]
    assert 0 < len(rows) == len(advantages) < 48
    assert run.curve[0]["wasted"] == pytest.approx(1 - len(rows) / 48)
    said = [tiny_model.decode(ids[mask]) for ids, mask in zip(rows.input_ids, rows.completion_mask, strict=True)]
    groups = defaultdict(list)
    for place, text, advantage in zip(rows.index.tolist(), said, advantages, strict=True):
        assert ("7" in text) is (advantage > 0)
        groups[place // 4].append(advantage)
    assert all(len(group) == 4 and sum(group) == 0 for group in groups.values())


def test_a_trained_checkpoint_is_saved_whole(train, tiny_model, tmp_path):
    """Trained weights may be views of one vector."""
    train(TRPORandomReward(problems=4, samples=4), tokens=4000)
    tiny_model.save(tmp_path)
    assert tiny_model.restore(tmp_path).fingerprint() == tiny_model.fingerprint()


def test_the_same_seed_gives_the_same_weights(train, make_model):
    prints = []
    for _ in range(2):
        model = make_model()
        train(TRPORandomReward(problems=4, samples=4), tokens=4000, model=model)
        prints.append(model.fingerprint())
    assert prints[0] == prints[1] != make_model().fingerprint()


def test_the_control_hears_a_coin(train, toy_data):
    run = train(TRPORandomReward(problems=4, samples=8), tokens=8000)
    assert 0.2 < sum(p["reward"] for p in run.curve) / len(run.curve) < 0.8
    assert TRPORandomReward().reward(toy_data, Run(1))(toy_data.problems[0], None) in {0.0, 1.0}


def test_a_reward_that_is_no_number_names_its_problem(train, toy_data):
    with pytest.raises(ValueError, match="problem p"):
        train(TRPO(), data=dataclasses.replace(toy_data, verify=lambda problem, text: (math.nan, text)))


def test_weights_in_bfloat16_are_held_in_float32(train, tiny_model):
    tiny_model.module.bfloat16()
    train(TRPORandomReward(problems=4, samples=4), tokens=3000)
    assert all(p.dtype is torch.float32 and torch.isfinite(p).all() for p in tiny_model.module.parameters())
