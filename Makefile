# Two commands do everything on a fresh machine: `make run` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PEERS := .venv/.peers

.PHONY: run test check campaign bench bench-compare peers clean

run: $(STAMP)  ## install, then run every method on the embedded world
	$(BIN)/harness run --all

test: $(STAMP) $(PEERS) check  ## lint, types, import rules, tests
	$(BIN)/pytest -q -n 2 --dist loadfile -m "not slow"

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

campaign: $(STAMP)  ## minutes to an hour: what the world must show, and kill -9 over and over
	$(BIN)/pytest -q -s -m slow

bench: $(STAMP)  ## how fast the hot paths are, on one thread
	OMP_NUM_THREADS=1 $(BIN)/pytest -q tests/benchmarks -o python_files='bench_*.py' --benchmark-enable --benchmark-only

bench-compare: $(STAMP)  ## whether the working tree is slower than BASE: make bench-compare BASE=main
	$(BIN)/python -m benchmarks.compare $(BASE)

peers: $(PEERS)  ## what tests compare with and `dev` cannot hold

# Without what they depend on: optillm's pins exclude our transformers, lm_eval would bring 41 packages, and the files
# that the tests read import nothing of either.
$(PEERS): $(STAMP)
	$(BIN)/pip install --quiet --no-deps -c constraints.txt lm_eval optillm
	@touch $(PEERS)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

clean:
	rm -rf .venv build dist
