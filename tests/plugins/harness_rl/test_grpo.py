"""GRPO: its advantages by hand, whose gradient a step is, its limits; and GRPO, Dr. GRPO and DAPO beside TRL's trainer.

In the parity tests TRL scores the completions, normalises the rewards and computes the loss by its own code; it gets
nothing from us but the model, the tokenizer, the completions and which of them are right.
"""

import copy
import dataclasses
import math

import pytest
import torch

from harness import Completion, Problem, Run
from harness.toolbox import Rollouts, collate, old_logprobs
from harness_rl import dapo, dr_grpo, grpo
from harness_rl.dapo import DAPO, length_penalty
from harness_rl.dr_grpo import DrGRPO
from harness_rl.grpo import GRPO, GRPORandomReward, group_advantages

RTOL = 1e-5
LONGEST = 16
"""One token more than the longest completion has."""
GROUPS = {"1+1?": ["A: 2", "T: 1+1=2. A: 2", "A: 7", "no"], "How many is 3+1?": ["A: 4", "A: 99999999", "B", "A: 4."]}
RIGHT = [1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]


def says_seven(data):
    """A task that a random model can do now and then."""
    return dataclasses.replace(data, verify=lambda problem, text: ("7" in text, text))


def written(model, text):
    tokens = tuple(model.encode_completion(text))
    return Completion(text, tokens, (0.0,) * len(tokens), "eos")


@pytest.fixture
def rollouts(tiny_model):
    problems = [Problem(f"p{i}", prompt, "") for i, prompt in enumerate(GROUPS)]
    pairs = [(prompt, written(tiny_model, text)) for prompt, texts in GROUPS.items() for text in texts]
    sequences = collate(tiny_model, [(tiny_model.encode_prompt(prompt), c.tokens) for prompt, c in pairs])
    return Rollouts(problems, [c for _, c in pairs], sequences, torch.tensor(RIGHT), 4)


def gradient(parameters):
    parameters = list(parameters)
    flat = torch.cat([p.grad.flatten() for p in parameters])
    for parameter in parameters:
        parameter.grad = None
    return flat


@pytest.fixture
def one_batch(monkeypatch, tiny_model, toy_data):
    """(losses, gradients) of a method's updates on one batch of given rollouts; no weight is moved."""

    def go(module, method, given):
        losses, gradients = [], []
        real = module.policy_gradient.__globals__["accumulate"]
        monkeypatch.setitem(module.policy_gradient.__globals__, "accumulate", lambda *args: losses.append(real(*args)))
        monkeypatch.setattr(module, "roll_out", lambda *args: given)
        monkeypatch.setattr(module, "update", lambda optimizer: gradients.append(gradient(tiny_model.parameters())))
        run = Run(0, budget=1, max_new_tokens=LONGEST)
        run.watch(tiny_model)  # so that the first batch spends the budget
        method.train(tiny_model, toy_data, run)
        run.close()
        return losses, gradients

    return go


# -- by hand


def test_advantages_by_hand():
    """(r - mean) / (std + 1e-4), std with n - 1 below: of [1, 0, 0, 0], mean 1/4, std 1/2."""
    advantage = group_advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]))
    torch.testing.assert_close(advantage[0], torch.tensor([0.75, -0.25, -0.25, -0.25]) / 0.5001)
    assert (advantage[1] == 0).all()


@pytest.mark.parametrize("samples", [2, 4, 16])
def test_advantages_sum_to_zero_in_each_group(samples):
    reward = torch.rand(5, samples, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(group_advantages(reward).sum(-1), torch.zeros(5), atol=1e-5, rtol=0)


def test_a_step_is_a_mean_over_rows_of_means_over_tokens(one_batch, rollouts, tiny_model):
    """So of two rows of one advantage, a token of the longer weighs less: the bias that Dr. GRPO takes out."""
    [loss], [found] = one_batch(grpo, GRPO(samples=4), rollouts)
    assert loss == pytest.approx(0, abs=1e-6)  # rho is 1: minus the mean advantage
    advantage, total = group_advantages(torch.tensor(RIGHT).view(2, 4)).flatten(), 0.0
    for row, completion in enumerate(rollouts.completions):
        prompt = tiny_model.encode_prompt(rollouts.problems[row // 4].prompt)
        logits = tiny_model.module(torch.tensor([[*prompt, *completion.tokens]])).logits[0].log_softmax(-1)
        logprobs = [logits[len(prompt) + t - 1, token] for t, token in enumerate(completion.tokens)]
        total = total - advantage[row] * sum(logprobs) / len(logprobs) / 8
    total.backward()
    torch.testing.assert_close(found, gradient(tiny_model.parameters()), rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("small_groups")
def test_a_group_of_equal_rewards_is_left_out_of_the_work_and_of_nothing_else(
    one_batch, rollouts, tiny_model, plain_logprobs, apart
):
    """The plain loss over the rows of all groups at once, whose mean is over them all."""
    given = dataclasses.replace(rollouts, rewards=torch.tensor([*RIGHT[:4], *[1.0] * 4]))
    [_], [found] = one_batch(grpo, GRPO(samples=4), given)
    reward_Bn = given.rewards.view(2, 4)
    advantage_Bn = (reward_Bn - reward_Bn.mean(-1, keepdim=True)) / (reward_Bn.std(-1, keepdim=True) + 1e-4)
    logprob_RT = plain_logprobs(tiny_model, given.sequences)
    ratio_RT = (logprob_RT - logprob_RT.detach()).exp() * given.sequences.completion_mask
    (-(advantage_Bn.view(-1) * ratio_RT.sum(-1) / given.lengths).mean()).backward()
    assert apart(found, gradient(tiny_model.parameters())) <= RTOL


# -- limits


def test_of_equal_rewards_nothing_is_learnt_and_the_share_is_logged(train, tiny_model, toy_data):
    """Rewards that differ between problems, never within: were groups not the sampler's, something would be learnt."""
    data = dataclasses.replace(toy_data, verify=lambda problem, text: (problem.id in {"p0", "p1", "p2"}, text))
    before = tiny_model.fingerprint()
    run = train(GRPO(), data=data)
    assert tiny_model.fingerprint() == before
    assert {point["wasted"] for point in run.curve} == {1.0}
    assert run.ledger.trained_tokens == 0
    assert run.ledger.sampled_tokens > 0  # spent all the same


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_reward_that_is_no_number_names_its_problem(train, toy_data, value):
    data = dataclasses.replace(toy_data, verify=lambda problem, text: (value if problem.id == "p3" else 0.0, text))
    with pytest.raises(ValueError, match="problem p3 is"):
        train(GRPO(), data=data)


def test_it_learns_what_is_rewarded_and_keeps_the_budget(train, toy_data):
    run = train(GRPO(lr=3e-3), tokens=25_000, data=says_seven(toy_data))
    rewards = [point["reward"] for point in run.curve]
    assert sum(rewards[-3:]) / 3 > 2 * sum(rewards[:3]) / 3
    assert run.curve[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert run.curve[4]["kl"] > 0
    assert "kl" not in run.curve[1]
    assert run.curve[-2]["tokens"] < 25_000
    assert {point.get("clipped", 0.0) for point in run.curve} == {0.0}  # one update a batch: the ratio is 1


def test_the_same_seed_gives_the_same_curve(train, make_model, toy_data):
    runs = [train(GRPO(), data=says_seven(toy_data), model=make_model()) for _ in range(2)]
    first, second = ([{k: v for k, v in p.items() if k != "seconds"} for p in run.curve] for run in runs)
    assert first == second


def test_the_control_never_asks_whether_it_is_right(train, tiny_model, toy_data):
    before = tiny_model.fingerprint()
    run = train(GRPORandomReward(), data=dataclasses.replace(toy_data, verify=None))
    assert tiny_model.fingerprint() != before
    assert 0.2 < sum(point["reward"] for point in run.curve) / len(run.curve) < 0.8
    assert (GRPORandomReward.family, GRPO.family) == ("control", "reinforcement-learning")


# -- beside TRL

beside_trl = pytest.mark.filterwarnings("ignore")  # TRL and its stack warn of their own future


@pytest.fixture
def trl(tmp_path, monkeypatch, tiny_model, rollouts):
    """`trl(rewards, **options)`: TRL's trainer and the batch it makes of our completions, scored by `rewards`."""
    pytest.importorskip("trl")
    import datasets
    from trl import GRPOConfig, GRPOTrainer

    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", lambda *a, **k: None)
    asked = [{"prompt": [{"role": "user", "content": prompt}]} for prompt in GROUPS for _ in range(4)]

    def answer(prompts, trainer):
        ids = [tiny_model.encode_prompt(p[0]["content"]) for p in prompts]
        return {"prompt_ids": ids, "completion_ids": [list(c.tokens) for c in rollouts.completions], "logprobs": None}

    def go(rewards, parts=1, **options):
        config = GRPOConfig(
            output_dir=str(tmp_path),
            use_cpu=True,
            bf16=False,
            report_to=[],
            gradient_checkpointing=False,
            per_device_train_batch_size=8 // parts,
            steps_per_generation=parts,
            num_generations=4,
            max_completion_length=LONGEST,
            beta=0.0,
            **options,
        )
        trainer = GRPOTrainer(
            model=copy.deepcopy(tiny_model.module),
            reward_funcs=rewards,
            args=config,
            train_dataset=datasets.Dataset.from_list(asked),
            processing_class=copy.deepcopy(tiny_model.tokenizer),
            rollout_func=answer,
        )
        trainer.model.train()
        trainer.current_gradient_accumulation_steps = 1  # what its loop would have set
        return trainer, trainer._generate_and_score_completions(asked)

    return go


def right(prompts, completions, **_):
    return RIGHT


def one_or_minus_one(prompts, completions, **_):
    return [2 * reward - 1 for reward in RIGHT]


@torch.no_grad()
def theirs_before(trainer, other, ids, mask, width):
    """(R, T) log-probabilities of another model by TRL's pass, which works with the module that it patched alone."""
    now = copy.deepcopy(trainer.model.state_dict())
    trainer.model.load_state_dict(other.module.state_dict())
    logprob_RT, *_ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, width)
    trainer.model.load_state_dict(now)
    return logprob_RT


def same_gradient(ours, theirs):
    return float((ours - theirs).norm()) <= RTOL * float(theirs.norm())


@beside_trl
@pytest.mark.parametrize(
    "case",
    [
        (grpo, GRPO(samples=4), grpo.group_advantages, {"loss_type": "grpo", "scale_rewards": "group"}),
        (dr_grpo, DrGRPO(samples=4), dr_grpo.centred_rewards, {"loss_type": "dr_grpo", "scale_rewards": "none"}),
    ],
    ids=["grpo", "dr_grpo"],
)
def test_advantages_loss_and_gradient_are_trls(trl, one_batch, rollouts, case):
    module, method, ours, options = case
    trainer, batch = trl(right, **options)
    assert batch["completion_mask"].sum(-1).tolist() == rollouts.lengths.tolist()
    torch.testing.assert_close(
        ours(rollouts.by_problem(rollouts.rewards)).flatten(), batch["advantages"], rtol=RTOL, atol=0
    )
    theirs = trainer.compute_loss(trainer.model, batch)
    theirs.backward()
    [loss], [found] = one_batch(module, method, rollouts)
    assert loss == pytest.approx(theirs.item(), rel=RTOL, abs=1e-7)  # GRPO's is 0 while rho is 1
    assert same_gradient(found, gradient(trainer.model.parameters()))


@beside_trl
def test_dapo_is_trls_part_by_part_with_the_clip_at_work(trl, one_batch, rollouts, make_model, monkeypatch):
    """TRL divides the tokens of the whole batch by its updates, as ours does.

    The policy of before is another model's here, so that ratios leave the clip on both sides.
    """
    from trl.rewards import get_soft_overlong_punishment

    cache = 6
    fee = get_soft_overlong_punishment(LONGEST, cache)
    trainer, batch = trl(
        [one_or_minus_one, fee], parts=2, loss_type="dapo", scale_rewards="group", epsilon=0.2, epsilon_high=0.28
    )
    other = make_model(seed=1, sharpness=0.1)
    lengths = rollouts.lengths
    assert length_penalty(lengths, LONGEST, cache).tolist() == pytest.approx(
        fee([c.tokens for c in rollouts.completions])
    )
    monkeypatch.setattr(dapo, "old_logprobs", lambda model, rows: old_logprobs(other, rows))
    losses, found = one_batch(dapo, DAPO(samples=4, problems=2, cache=cache / LONGEST), rollouts)
    for number, rows in enumerate((slice(0, 4), slice(4, 8))):
        part = {k: v[rows] if v.ndim else v for k, v in batch.items() if isinstance(v, torch.Tensor)}
        if number:
            ids, mask = (torch.cat([part[f"prompt_{k}"], part[f"completion_{k}"]], 1) for k in ("ids", "mask"))
            part["old_per_token_logps"] = theirs_before(trainer, other, ids, mask, part["completion_ids"].shape[1])
        theirs = trainer.compute_loss(trainer.model, part)
        theirs.backward()
        assert losses[number] == pytest.approx(theirs.item(), rel=RTOL, abs=1e-7)
        assert same_gradient(found[number], gradient(trainer.model.parameters()))
    assert trainer._metrics["train"]["clip_ratio/low_mean"][-1] > 0
    assert trainer._metrics["train"]["clip_ratio/high_mean"][-1] > 0


@beside_trl
def test_dapo_differs_from_trl_where_a_group_is_not_mixed(trl, rollouts):
    """TRL keeps such a group: the fee for length teaches in it, and the divisor counts it. Ours drops it first."""
    from trl.rewards import get_soft_overlong_punishment

    rewards = [1.0] * 4 + RIGHT[4:]
    dropped = dapo.mixed_groups(dataclasses.replace(rollouts, rewards=torch.tensor(rewards)))
    assert [problem.id for problem, _, _ in dropped] == ["p1"]
    _, batch = trl([lambda completions, **_: rewards, get_soft_overlong_punishment(LONGEST, 6)], loss_type="dapo")
    assert batch["advantages"][:4].any()
    assert int(batch["num_items_in_batch"]) == int(rollouts.lengths.sum())
