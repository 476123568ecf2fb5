"""Sampling: 16 completions of one prompt by the embedded world's model."""

from harness.toolbox import SampleRequest, draw


def test_sampling(benchmark, tiny, world):
    prompt = tuple(tiny.encode_prompt(world.test[0].prompt))
    request = SampleRequest(prompt, tuple(range(16)), max_new_tokens=32)
    [completions] = benchmark(draw, tiny, [request])
    assert len(completions) == 16
