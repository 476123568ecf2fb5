"""What the methods of reinforcement learning must show, with three seeds on the whole main test.

With 256,000 tokens a stage, their start included: twice the default, as they read each completion several times.
"""

import pytest

from harness.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]
TOKENS = 256_000
AFTER_SFT = ("grpo", "ppo", "rlhf", "rejection-sampling-ft")
WITH_TWIN = (*AFTER_SFT, "reasoning-rl")


def row(name):
    return name if name.startswith("reasoning-rl") else f"cot-sft > {name}"


@pytest.fixture(scope="module")
def world(campaign):
    names = ("cot-sft", "dpo", *WITH_TWIN, *(f"{name}-random-reward" for name in WITH_TWIN))
    return campaign("tiny-world", [part for name in names for part in ("-m", name)], tokens=TOKENS)


@pytest.mark.parametrize("name", [*AFTER_SFT, "dpo", "reasoning-rl"])
def test_one_sample_gets_better(world, name):
    world.shows(row(name), "base" if name == "reasoning-rl" else "cot-sft", sampled=True)


@pytest.mark.parametrize("name", ["grpo", "ppo", "reasoning-rl"])
def test_greedy_decoding_gets_better(world, name):
    world.shows(row(name), "base" if name == "reasoning-rl" else "cot-sft")


@pytest.mark.parametrize("name", WITH_TWIN)
def test_a_random_reward_does_less(world, name):
    world.shows(row(name), row(f"{name}-random-reward"), sampled=True)


def test_the_base_model_takes_to_thinking(world, request):
    store = Store(request.config.rootpath / "results" / "campaign" / f"tiny-world-{TOKENS}")
    curves = [r["curve"] for r in store.records("stage") if r["method"] == "reasoning-rl"]
    for curve in curves:
        shares = [point["thinking"] for point in curve]
        print("\nshare of samples with a rationale:", *(f"{share:.2f}" for share in shares[:: len(shares) // 8]))
        assert sum(shares[-5:]) / 5 > sum(shares[:5]) / 5 + 0.1
