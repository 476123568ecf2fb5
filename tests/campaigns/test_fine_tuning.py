"""What the fine-tuning methods must show, with three seeds, each on the data that it is about."""

import pytest

from harness.statistics import paired

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]


def methods(*names):
    return [part for name in names for part in ("-m", name)]


@pytest.fixture(scope="module")
def world(campaign):
    family = methods("cot-sft", "full-ft-equal-tokens", "lora", "adapters", "prefix-tuning", "prompt-tuning")
    return campaign("tiny-world", [*family, *methods("distillation", "sequence-distillation", "gkd", "kto", "simpo")],
                    methods("reverse-kl-distillation", "preference-sft", "orpo"))  # fmt: skip


@pytest.fixture(scope="module")
def money(campaign):
    without = [*methods("domain"), "-o", "domain.replay=0"]
    return campaign("tiny-money", methods("sft", "cot-sft", "domain"), without)


def test_lora_keeps_up_with_few_parameters(world):
    found, row = paired(world.correct["lora"], world.correct["cot-sft"]), world.rows["lora"]
    share = row["trainable_parameters"] / world.rows["cot-sft"]["trainable_parameters"]
    print(f"\nlora - cot-sft: {100 * found.delta:+.1f} points ({100 * found.low:+.1f} to {100 * found.high:+.1f}), "
          f"{100 * share:.1f} % of the parameters")  # fmt: skip
    assert found.delta > -0.02
    assert share <= 0.12


def test_a_teacher_is_worth_more_than_its_data(world):
    world.shows("distillation", "cot-sft")


@pytest.mark.parametrize("method", ["prompt-tuning", "prefix-tuning", "adapters"])
def test_what_little_training_reaches(world, method):
    row, full = world.rows[method], world.rows["full-ft-equal-tokens"]
    print(f"\n{method}: {row['accuracy']:.3f} with {row['trainable_parameters']:.0f} parameters; all of them: "
          f"{full['accuracy']:.3f}")  # fmt: skip
    assert row["trainable_parameters"] < 0.12 * full["trainable_parameters"]
    assert row["accuracy"] < full["accuracy"] + 0.02  # as the literature has it: never clearly above


def test_many_tasks_help_with_unseen_ones(campaign):
    campaign("tiny-tasks", methods("sft", "instruction-tuning")).shows("instruction-tuning", "sft")


def test_dialogues_teach_second_turns(campaign):
    found = campaign("tiny-dialogue", methods("sft", "cot-sft", "dialogue"))
    found.shows("dialogue", "sft")
    found.shows("dialogue", "cot-sft")


def test_text_of_the_domain_helps_with_its_problems(money):
    money.shows("domain", "sft")


def test_with_replay_less_is_forgotten(money):
    kept, lost = (money.rows[name]["forgetting"] for name in ("domain", "domain(replay=0.0)"))
    print(f"\nforgetting in nats a token: {kept:.4f} with replay, {lost:.4f} without, "
          f"{money.rows['sft']['forgetting']:.4f} of sft")  # fmt: skip
    assert kept < lost
