"""Oracle: it only gathers; whether any completion is right is decided where the key is."""

from harness_test_time.oracle import Oracle


def test_it_hands_in_every_completion(scripted):
    answer, _ = scripted(Oracle(samples=3), ["a", "b", "c"])
    assert [c.text for c in answer.completions] == ["a", "b", "c"]
    assert Oracle.upper_bound
