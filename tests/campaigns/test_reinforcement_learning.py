"""What the methods of reinforcement learning must show, with three seeds on the whole main test.

With 256,000 tokens a stage, their start included: twice the default, as they read each completion several times.
The accuracy of one sample at temperature 1 is the mean over eight draws a problem: one would mostly measure itself.
"""

import numpy as np
import pytest

from harness.builtin.verifier import voted
from harness.statistics import best_of
from harness.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]
TOKENS = 256_000
AFTER_SFT = ("grpo", "ppo", "rlhf", "rejection-sampling-ft")
WITH_TWIN = (*AFTER_SFT, "reasoning-rl")
DRAWS = 8
JUDGED = "cot-sft > process-reward-model + best-of-n"


def row(name):
    return name if name.startswith("reasoning-rl") else f"cot-sft > {name}"


@pytest.fixture(scope="module")
def world(campaign):
    names = ("cot-sft", "dpo", *WITH_TWIN, *(f"{name}-random-reward" for name in WITH_TWIN))
    policies = ["base", "cot-sft", *(row(name) for name in names[1:])]
    greedy, drawn = ([part for name in of for part in ("-m", name)] for of in ((*names, JUDGED), map(draws, policies)))
    return campaign("tiny-world", greedy, [*drawn, "-o", f"best-of-n.samples={DRAWS}"], tokens=TOKENS)


def draws(policy):
    """A pipeline that draws at temperature 1 from a policy; that it then throws dice changes none of the draws."""
    return f"{policy} > random-score + best-of-n"


def compare(world, better, worse):
    """Hold one policy to be better than another in the accuracy of one sample."""
    rights = []
    for policy in (better, worse):
        right = judged(
            world, lambda samples: np.mean([s["correct"] for s in samples]), f"{draws(policy)}(samples={DRAWS})"
        )
        rights.append(right)
    world.holds(f"{better} - {worse}, one sample at T=1", *rights)


@pytest.mark.parametrize("name", [*AFTER_SFT, "dpo", "reasoning-rl"])
def test_one_sample_gets_better(world, name):
    compare(world, row(name), "base" if name == "reasoning-rl" else "cot-sft")


@pytest.mark.parametrize("name", ["grpo", "ppo", "reasoning-rl"])
def test_greedy_decoding_gets_better(world, name):
    world.shows(row(name), "base" if name == "reasoning-rl" else "cot-sft")


@pytest.mark.parametrize("name", WITH_TWIN)
def test_a_random_reward_does_less(world, name):
    compare(world, row(name), row(f"{name}-random-reward"))


def test_the_base_model_takes_to_thinking(world, request):
    store = Store(request.config.rootpath / "results" / "campaign" / f"tiny-world-{TOKENS}")
    curves = [r["curve"] for r in store.records("stage") if r["method"] == "reasoning-rl"]
    for curve in curves:
        shares = [point["thinking"] for point in curve]
        print("\nshare of samples with a rationale:", *(f"{share:.2f}" for share in shares[:: len(shares) // 8]))
        assert sum(shares[-5:]) / 5 > sum(shares[:5]) / 5 + 0.1


# -- a scorer


def judged(world, figure, pipeline=JUDGED):
    """(P, S) of `figure`, which takes the samples of one question, over the records of a pipeline."""
    of_seed = {r["spec"]["seed"]: r["answers"] for r in world.records if r["spec"]["pipeline"] == pipeline}
    return np.array([[float(figure(a["samples"])) for a in of_seed[seed]] for seed in sorted(of_seed)]).T


def best(k):
    return lambda samples: best_of([s["score"] for s in samples], [s["correct"] for s in samples], k)


def test_the_first_wrong_step_is_found_in_most_wrong_solutions(world):
    row = world.verifiers[JUDGED]
    print("\n", {name: value and round(value, 3) for name, value in row.items() if isinstance(value, float)})
    assert row["wrong_solutions"] > 1000
    assert row["first_wrong_found"] > 0.5


@pytest.mark.parametrize("k", [4, 16])
def test_the_best_scored_beats_one_sample(world, k):
    world.holds(f"best of {k} - one sample", judged(world, best(k)), judged(world, best(1)))


def test_the_weighted_vote_beats_the_majority_of_the_same_samples(world):
    weighted, plain = (judged(world, lambda s, w=w: voted(s, w)) for w in (lambda x: x["score"], lambda _: 1.0))
    world.holds("weighted vote - majority of 16", weighted, plain)
