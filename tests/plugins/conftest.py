"""What the tests of the methods share: training the random model of the suite."""

import pytest

from harness import Run


@pytest.fixture
def train(tiny_model, toy_data):
    """Train the random model with a method for a budget of tokens; the run, and the model afterwards."""

    def go(method, tokens=6000, data=toy_data, model=tiny_model):
        run = Run(7, budget=tokens, max_new_tokens=12)
        run.watch(model)
        with run.pays():
            method.train(model, data, run)
        run.close()
        return run

    return go
