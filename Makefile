# make demo: set up and run the main job. make test: set up and pass the tests. Both work on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check page clean
.DEFAULT_GOAL := demo

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/ready-dev: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: .venv/ready
	$(BIN)/gossamer demo

test: .venv/ready-dev check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

check: .venv/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# After a change in web/ or show/: rebuild the committed view, its types, and the checked-in page from its own bundle.
page: .venv/ready-dev
	$(BIN)/python -c "from pathlib import Path; from gossamer.show.typescript import write_typescript as w; w(Path('web/src/bundle.d.ts'))"
	cd web && npm ci --silent && npx tsc --noEmit && node build.mjs
	$(BIN)/python -c "from pathlib import Path; from gossamer.show import read_bundle, write_page; p = Path('docs/demo/page.html'); write_page(read_bundle(p), p)"

clean:
	rm -rf .venv
