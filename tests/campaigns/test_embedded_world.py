"""What the embedded world must show, with three seeds on the whole main test: the directions the literature reports.

Slow: it runs the methods compared, or goes on with what `results/campaign` holds. The figures it prints are the
evidence.
"""

import pytest

from harness.statistics import within_problem_auc

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]
COT, VOTE = "cot-sft", "cot-sft + self-consistency"
METHODS = ("sft", COT, "cot-prompting", "dpo", "self-consistency", "best-of-n", "oracle", "sampled")
JUDGED, DICE = "cot-sft > outcome-reward-model + best-of-n", "cot-sft > random-score + best-of-n"


@pytest.fixture(scope="module")
def world(campaign):
    return campaign("tiny-world", [part for method in METHODS for part in ("-m", method)])


@pytest.mark.parametrize(
    ("better", "worse"),
    [("sft", "base"), (COT, "base + cot-prompting"), (VOTE, COT), (JUDGED, DICE), (JUDGED, "cot-sft + sampled")],
)
def test_directions(world, better, worse):
    world.shows(better, worse)


def test_the_base_has_headroom(world):
    share = world.correct["base + cot-prompting"].mean()
    oracle, greedy = world.correct["cot-sft + oracle"].mean(), world.correct[COT].mean()
    print(f"\nbase with cue {share:.3f}, oracle {oracle:.3f}, greedy of the same checkpoint {greedy:.3f}")
    assert 0.40 < share < 0.75
    assert oracle >= greedy + 0.15


def test_the_scorer_ranks_within_problems(world):
    for record in (r for r in world.records if r["spec"]["pipeline"] in (JUDGED, DICE)):
        groups = [([s["score"] for s in a["samples"]], [s["correct"] for s in a["samples"]]) for a in record["answers"]]
        auc, problems = within_problem_auc(groups)
        print(f"\n{record['spec']['pipeline']} seed {record['spec']['seed']}: AUC {auc:.3f} on {problems} problems")
        assert (auc > 0.6) == (record["spec"]["pipeline"] == JUDGED)
