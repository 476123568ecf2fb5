# Two commands do everything on a fresh machine: `make run` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PEERS := .venv/.peers

.PHONY: run test check campaign peers clean

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
