"""The environment that a worker starts with."""

from harness.executors.environment import KEPT_MEMORY, worker_environment


def test_memory_is_kept_unless_the_user_says_otherwise(monkeypatch):
    for name in KEPT_MEMORY:
        monkeypatch.delenv(name, raising=False)
    assert worker_environment(1, {}).items() >= KEPT_MEMORY.items()
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "5")
    assert worker_environment(1, {})["MALLOC_TRIM_THRESHOLD_"] == "5"
