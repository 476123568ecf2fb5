"""Best-of-n: the highest score wins; one sample is plain sampling."""

from harness import Run
from harness_test_time.best_of_n import BestOfN
from harness_test_time.sampled import Sampled


def test_the_highest_score_wins(scripted):
    answer, asked = scripted(BestOfN(samples=3), ["a", "b", "c"], scores=[0.1, 0.9, 0.5])
    assert answer.text == "b"
    kind, (_, prompt, completions) = asked[1]
    assert (kind, prompt, [c.text for c in completions]) == ("score", "1+1?", ["a", "b", "c"])


def test_a_tie_goes_to_the_first(scripted):
    assert scripted(BestOfN(samples=3), ["a", "b", "c"], scores=[1.0, 1.0, 1.0])[0].text == "a"


def test_one_sample_is_plain_sampling(tiny_model):
    from harness import Scores
    from harness.toolbox import draw

    def submit(kind, payload):
        return [Scores(0.0)] if kind == "score" else draw(payload[1], payload[2])

    runs = [Run(4, problem_id="p", max_new_tokens=20, submit=submit) for _ in range(2)]
    best = BestOfN(samples=1).answer(tiny_model, "1+1?", runs[0])
    assert best.text == Sampled().answer(tiny_model, "1+1?", runs[1]).text
