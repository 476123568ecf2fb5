"""What the methods of test-time scaling must show, with three seeds on the whole main test, by default settings."""

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(14_400)]
POLICY, JUDGED = "cot-sft", "cot-sft > process-reward-model"
GREEDY, VOTE = POLICY, f"{POLICY} + self-consistency"
BEST, WEIGHTED = f"{JUDGED} + best-of-n", f"{JUDGED} + best-of-n(choose=weighted)"
EARLY = f"{POLICY} + self-consistency(early_stop=0.8)"
SEARCHES = ("beam-search", "dvts", "mcts", "tree-of-thoughts", "particle-filter", "graph-of-thoughts")
OTHERS = (
    "confidence",
    "speculative-rejection",
    "compute-optimal",
    "decode-beam",
    "self-refinement",
    "guided-refinement",
)
SINGLE = 0.01  # accuracy that a saving may cost


def judged(name):
    return f"{JUDGED} + {name}"


@pytest.fixture(scope="module")
def world(campaign):
    return campaign(
        "tiny-world",
        ["-m", "self-consistency", "--curve", "1,2,4,8,32,64"],
        ["-m", BEST, "--curve", "1,2,4,8"],
        ["-m", BEST, "-o", "best-of-n.choose=weighted", "--curve", "1,2,4,8"],
        ["-m", "self-consistency", "-o", "self-consistency.early_stop=0.8"],
        ["-m", f"{POLICY} > log-probability + best-of-n"],
        [part for name in (*SEARCHES, *OTHERS) for part in ("-m", name)],
    )


def tokens(world, row):
    """Tokens a question, mean over seeds."""
    spent = [a["sampled_tokens"] for r in world.records if r["spec"]["pipeline"] == row for a in r["answers"]]
    return sum(spent) / len(spent)


@pytest.mark.parametrize(
    "row", [VOTE, WEIGHTED, *map(judged, ("beam-search", "dvts", "mcts", "tree-of-thoughts", "guided-refinement"))]
)
def test_more_tokens_beat_greedy(world, row):
    print(f"\n{tokens(world, row):.0f} tokens a question, majority of 16 {tokens(world, VOTE):.0f}")
    world.shows(row, GREEDY)


@pytest.mark.parametrize(
    ("row", "rival"), [(EARLY, VOTE), (f"{POLICY} + confidence", VOTE), (judged("speculative-rejection"), BEST)]
)
def test_fewer_tokens_keep_the_accuracy(world, row, rival):
    saved, lost = 1 - tokens(world, row) / tokens(world, rival), world.correct[rival].mean() - world.correct[row].mean()
    print(f"\n{row}: {100 * saved:.0f} % fewer tokens than {rival}, {-100 * lost:+.1f} points")
    assert saved >= 0.3
    assert lost <= SINGLE


def test_compute_optimal_is_no_worse_than_any_sampling_or_search_at_its_tokens(world):
    """Decode-beam alone is left out: it draws nothing, so no number of samples is its price. The last test shows it."""
    row = judged("compute-optimal")
    most = 1.05 * tokens(world, row)
    rivals = [r for r in world.correct if r not in (row, f"{POLICY} + decode-beam") and tokens(world, r) <= most]
    assert len(rivals) >= 10
    best = max(rivals, key=lambda rival: world.correct[rival].mean())
    print(f"\n{tokens(world, row):.0f} tokens a question, {best} {tokens(world, best):.0f}")
    print(f"{world.correct[row].mean():.3f} beside {world.correct[best].mean():.3f}")
    assert world.correct[row].mean() >= world.correct[best].mean()


def test_every_row_beside_the_majority_at_its_tokens(world):
    """Printed, and held to nothing but being there: who is better at equal tokens is what the board is for."""
    points = sorted(
        (r["tokens_per_question"], r["accuracy"]) for r in world.curves if r["method"] == "self-consistency"
    )
    assert len(points) >= 7
    for row, right in sorted(world.correct.items(), key=lambda item: -item[1].mean()):
        spent = tokens(world, row)
        before = max((p for p in points if p[0] <= spent), default=points[0])
        after = min((p for p in points if p[0] >= spent), default=points[-1])
        share = 0.0 if after[0] == before[0] else (spent - before[0]) / (after[0] - before[0])
        vote = before[1] + share * (after[1] - before[1])
        print(f"\n{row}: {right.mean():.3f} at {spent:.0f} tokens, the majority {vote:.3f}", end="")
