"""The verifier on 1,000 texts, right and wrong ones in turn."""

from harness_world import load_world, render_target


def test_verify(benchmark):
    world = load_world("tiny-world", "test", "")
    problems = world.test[:1000]
    texts = [render_target(p, rationale=True) + (" or more" if i % 2 else "") for i, p in enumerate(problems)]

    def verify_all():
        return sum(world.verify(problem, text)[0] for problem, text in zip(problems, texts, strict=True))

    assert benchmark(verify_all) == 500
