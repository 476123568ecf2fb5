"""One sample: it follows the seed of its problem."""

from harness import Run
from harness_test_time.sampled import Sampled


def test_it_follows_the_seed(tiny_model):
    def text(seed, problem):
        return Sampled().answer(tiny_model, "1+1?", Run(seed, problem_id=problem, max_new_tokens=20)).text

    assert text(1, "p") == text(1, "p")
    assert len({text(1, "p"), text(2, "p"), text(1, "q")}) == 3
