"""A run whose samples are given, so that a choice can be checked by hand."""

import pytest

from harness import Completion, Run, Scores


def completion(text):
    return Completion(text, (1,), (0.0,), "eos")


@pytest.fixture
def scripted(tiny_model):
    """`scripted(method, texts, scores)`: the answer of a method that samples these texts."""

    def go(method, texts, scores=(), prompt="1+1?"):
        run = Run(0, problem_id="p")
        asked = []

        def submit(kind, payload):
            asked.append((kind, payload))
            if kind == "score":
                return [Scores(s) for s in scores]
            return [completion(t) for t in texts[: len(payload[2].seeds)]]

        run.submit = submit
        answer = method.answer(tiny_model, prompt, run)
        return answer, asked

    return go
