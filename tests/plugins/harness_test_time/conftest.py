"""Runs whose samples or scores are given, so that a choice can be checked by hand."""

from types import SimpleNamespace

import pytest

from harness import Completion, Run, Scores
from harness.toolbox import charge


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
            return [[completion(t) for t in texts[: len(request.seeds)]] for request in payload[2]]

        run.submit = submit
        answer = method.answer(tiny_model, prompt, run)
        return answer, asked

    return go


@pytest.fixture
def world(tiny_model):
    """`world(speak, judge)`: a question in a world of one's own, for searches that grow solutions step by step.

    speak(said, number): the rest of the text that follows `said`, number 0, 1, ... of those asked for at this place; it
    is cut at the first stop. judge(text): the chance that a partial solution is right. The result has the `run` to
    answer with, `drawn` (every request), `judged` (every text that was scored, call by call), and `answer(method)`.
    """

    def go(speak, judge=None, **options):
        drawn, judged, numbers = [], [], {}

        def one(said, request):
            number = numbers.setdefault(said, 0)
            numbers[said] += 1
            text = speak(said, number)
            ends = [text.index(stop) + len(stop) for stop in request.stop if stop in text]
            finish = "stop" if ends and min(ends) < len(text) else "eos"
            tokens = tuple(tiny_model.encode_completion(text[: min(ends)] if finish == "stop" else text))
            tokens = tokens[:-1] if finish == "stop" else tokens
            if len(tokens) > request.max_new_tokens:
                tokens, finish = tokens[: request.max_new_tokens], "length"
            spoken = tokens[:-1] if finish == "eos" else tokens
            return Completion(tiny_model.decode(spoken), tokens, (-0.1,) * len(tokens), finish)

        def submit(kind, payload):
            if kind == "score":
                judged.append([c.text for c in payload[2]])
                return [Scores(judge(c.text)) for c in payload[2]]
            run, model, requests = payload
            answered = []
            for request in requests:
                said = model.decode(request.prompt_ids[len(request.prompt_ids) - request.begun :])
                answered.append([one(said, request) for _ in request.seeds])
                charge(run, model, request, answered[-1])
            drawn.append(requests)
            return answered

        run = Run(0, problem_id="p", submit=submit, **{"max_new_tokens": 60, "counts": "sampled_tokens", **options})
        made = SimpleNamespace(run=run, drawn=drawn, judged=judged)
        made.answer = lambda method, prompt="1+1?": method.answer(tiny_model, prompt, run)
        return made

    return go
