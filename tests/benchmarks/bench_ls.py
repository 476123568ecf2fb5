"""`harness ls methods`, interpreter and all: it must answer without importing torch."""

import subprocess
import sys


def test_ls(benchmark):
    def ls():
        return subprocess.run(
            [sys.executable, "-m", "harness.cli", "ls", "methods"], check=True, capture_output=True, text=True
        )

    assert "greedy" in benchmark(ls).stdout
