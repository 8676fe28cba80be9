# Every target sets up what it needs: a virtual environment in .venv with the package installed
# in place. `make test-cuda PYTHON=python3` runs in an environment of your own instead.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests run side by side; each worker computes on one thread.
WORKERS ?= auto
# In C++ and CUDA.
SOURCES := 'kernels/*.cu' 'kernels/*.cuh' 'kernels/*.cpp' 'kernels/*.h' 'tests/*.cpp'

.PHONY: help demo test check style kernels bench library test-cuda sanitize sanitize-cpu clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# One stamp per set of extras, so that `make demo` does not wait for the linters. Installing also
# builds the CPU library.
$(VENV)/%.stamp: pyproject.toml setup.py $(wildcard kernels/cpu/*)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	touch $@

demo: $(VENV)/examples.stamp  ## train, pack, compile, export and reload a network on real digits
	$(BIN)/python examples/digits.py

test: $(VENV)/test.stamp  ## the whole test suite (CUDA tests skip without a device)
	$(BIN)/python -m pytest -n $(WORKERS)

check: $(VENV)/dev.stamp  ## ruff, mypy, import-linter, clang-format, and the README's figures
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	git ls-files $(SOURCES) | xargs --no-run-if-empty $(BIN)/clang-format --dry-run --Werror
	for result in benchmarks/results/*.json; do \
		$(BIN)/python -m binop bench --readme README.md $$result --check || exit 1; \
	done

style: $(VENV)/dev.stamp  ## rewrite the sources as the linters want them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	git ls-files $(SOURCES) | xargs --no-run-if-empty $(BIN)/clang-format -i

# The second command looks at the tiles that no layer of the first one's list takes.
kernels: $(VENV)/test.stamp  ## compile every CUDA kernel for every architecture; none may spill
	$(BIN)/python -m binop compile-kernels
	$(BIN)/python -m pytest -n $(WORKERS) -m sweep tests/cuda

bench: $(VENV)/bench.stamp  ## measure the ops on this machine, into benchmarks/results/
	$(BIN)/python -m binop bench

library:  ## build the CPU library in the checkout, in the current environment
	$(PYTHON) setup.py build_ext --inplace

# The library's functions call nothing of Python's, so that what leaks is not its doing.
sanitize-cpu: $(VENV)/test.stamp  ## the CPU library under AddressSanitizer and UBSan
	mkdir -p build/sanitized
	$(CXX) -O1 -g -std=c++17 -fPIC -shared -fopenmp -ffp-contract=off -fvisibility=hidden \
		-fsanitize=address,undefined -fno-sanitize-recover=undefined \
		kernels/cpu/*.cpp -o build/sanitized/library.so
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
		ASAN_OPTIONS=detect_leaks=0 BINOP_CPU_LIBRARY=build/sanitized/library.so \
		$(BIN)/python -m pytest -q -s -m "not compile" -p no:cacheprovider tests/cpu/test_cpu_conv.py \
		tests/cpu/test_cpu_pack.py tests/cpu/test_cpu_residual.py tests/test_semantics.py \
		tests/test_signs.py tests/test_fold_norms.py

# torch finds the compiler backend through the package's metadata, installed or beside it.
test-cuda:  ## the tests that need a CUDA device, in the current environment
	$(PYTHON) setup.py --quiet egg_info
	# Snapshots of graphs need expecttest, and no GPU.
	PYTHONPATH=. $(PYTHON) -m pytest -m cuda -n $(WORKERS) --ignore tests/test_graphs.py \
		--ignore tests/inductor/test_rewrites.py

# Without torch's caching allocator every tensor is an allocation of its own, so that an access
# beyond its end is one that memcheck sees. Synccheck fails a launch that has more barriers in shared
# memory than it keeps track of, and by itself it expects too few.
sanitize:  ## the kernels under compute-sanitizer, in the current environment
	for tool in memcheck racecheck initcheck "synccheck --num-cuda-barriers 1024"; do \
		PYTHONPATH=. PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool $$tool \
			--error-exitcode 1 $(PYTHON) -m pytest -q -m sanitize tests/cuda || exit 1; \
	done

clean:  ## remove what the other targets made
	rm -rf $(VENV) build dist *.egg-info binop/_cpu/_library*.so .pytest_cache .mypy_cache .ruff_cache \
		.hypothesis .import_linter_cache
