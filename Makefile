# make demo [PHOTO=mine.jpg]   retouch a portrait on the CPU, from nothing, without torch
# make test                    build the wheel, install it with what the tests need, run them all;
#                              then the kernel tests with sanitizers
# make unit-tests              the former alone
# make sanitize                the latter alone; SANITIZE=thread looks for data races
# make bench-kernels [QUICK=1] the kernels against what a user would pick instead; writes the table and
#                              the plot of benchmarks/README.md
# make bench-engines [NETWORKS="NAME ..."] every network on every engine beside torch eager; writes the table
#                              of benchmarks/README.md
# make gpu-session             on a machine with a GPU: its tests, compute-sanitizer and benchmarks; writes
#                              the results to commit. STEPS="tests engines" for some of them
# make lint                    ruff, mypy on an installed tree, clang-format, codespell
# make dev                     an editable install to work in

PYTHON  ?= python3
PHOTO   ?=
OUT     ?= out
# A user with a GPU puts the torch build of their choice here, e.g. TORCH="torch==2.13.0+cu130".
TORCH   ?= torch==2.13.0
PYTEST  ?=
# pip 25.1 is the first that reads dependency groups
PIP_NEEDED := pip>=25.1

BUILD_INPUTS := pyproject.toml CMakeLists.txt constraints.txt \
                $(shell find sdk kernels export training -type f \
                  -not -path '*/__pycache__/*' -not -path 'training/weights/*' 2>/dev/null)
PIP := -m pip --quiet --disable-pip-version-check

.PHONY: demo test unit-tests sanitize bench-kernels bench-engines gpu-session lint format dev clean wheel
.DEFAULT_GOAL := demo

# --- demo ----------------------------------------------------------------------------------------

.venv/demo.stamp: $(BUILD_INPUTS)
	@echo "== installing Revisage and what inference needs into .venv"
	@test -x .venv/bin/python || { $(PYTHON) -m venv .venv && .venv/bin/python $(PIP) install "$(PIP_NEEDED)"; }
	@.venv/bin/python $(PIP) install -c constraints.txt . scikit-image
	@touch $@

demo: .venv/demo.stamp
	@mkdir -p $(OUT)
	@if [ -z "$(PHOTO)" ]; then \
	  .venv/bin/python -c "from skimage import data, io; io.imsave('$(OUT)/astronaut.png', data.astronaut())"; \
	fi
	@.venv/bin/revisage retouch "$(if $(PHOTO),$(PHOTO),$(OUT)/astronaut.png)" -o "$(OUT)" \
	  --wrinkles 1.0 --layers --compare --receipt --force

# --- tests ---------------------------------------------------------------------------------------

.venv-test/bin/python:
	@$(PYTHON) -m venv .venv-test
	@.venv-test/bin/python $(PIP) install "$(PIP_NEEDED)" build

wheel: .venv-test/bin/python
	@rm -rf build/dist
	@.venv-test/bin/python -m build --outdir build/dist . > build-log.txt 2>&1 \
	  || { cat build-log.txt; exit 1; }
	@rm -f build-log.txt
	@ls build/dist

# torch first and alone: with it installed, no other package asks for another build of it.
.venv-test/deps.stamp: .venv-test/bin/python pyproject.toml constraints.txt
	@echo "== installing what the tests need into .venv-test"
	@.venv-test/bin/python $(PIP) install -c constraints.txt "$(TORCH)"
	@.venv-test/bin/python $(PIP) install -c constraints.txt --group test
	@.venv-test/bin/python $(PIP) install -c constraints.txt --group engines \
	  || echo "== TensorRT for RTX does not install here: the tests that build engines will skip"
	@touch $@

test: unit-tests sanitize

unit-tests: wheel .venv-test/deps.stamp
	@.venv-test/bin/python $(PIP) install -c constraints.txt build/dist/*.whl
	@.venv-test/bin/python $(PIP) install --force-reinstall --no-deps build/dist/*.whl
	.venv-test/bin/python -m pytest $(PYTEST)

# The kernels compiled with sanitizers, under the kernel tests. The runtime library must be loaded
# before Python, and libstdc++ with it, whose exceptions it watches. Python leaks on purpose, so
# leaks are not looked for; PYTHONMALLOC puts small objects where the sanitizer sees them. Its report
# is written past Python, so pytest must not capture the file descriptor.
SANITIZE ?= address,undefined
comma := ,
SANITIZED := build/sanitized-$(subst $(comma),-,$(SANITIZE))
ifeq ($(SANITIZE),thread)
  SANITIZER := tsan
  # OpenBLAS orders its threads in ways that the sanitizer does not know.
  SANITIZED_RUN := OPENBLAS_NUM_THREADS=1 TSAN_OPTIONS=allocator_may_return_null=1 \
    setarch -R .venv-test/bin/python -m tests.kernels.fuzzing --together \
    --calls 200
else
  SANITIZER := asan
  SANITIZED_RUN := ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 \
    UBSAN_OPTIONS=print_stacktrace=1 PYTHONMALLOC=malloc REVISAGE_FUZZ_CALLS=400 \
    .venv-test/bin/python -m pytest -q --capture=sys tests/kernels \
    --ignore-glob='*_cuda*.py'
endif

sanitize: .venv-test/deps.stamp
	@echo "== building the kernels with -fsanitize=$(SANITIZE)"
	@.venv-test/bin/python $(PIP) install --upgrade --no-deps --target $(SANITIZED)/tree \
	  -Cbuild-dir=$(SANITIZED)/cmake -Ccmake.define.REVISAGE_CUDA=OFF -Ccmake.define.REVISAGE_WERROR=OFF \
	  -Ccmake.define.REVISAGE_SANITIZE=$(SANITIZE) .
	@grep -q __$(SANITIZER)_init $(SANITIZED)/tree/revisage/kernels/_native*.so \
	  || { echo "the extension was built without $(SANITIZE)"; exit 1; }
	LD_PRELOAD="$$(gcc -print-file-name=lib$(SANITIZER).so) $$(gcc -print-file-name=libstdc++.so)" \
	  PYTHONPATH=$(SANITIZED)/tree $(SANITIZED_RUN)

# --- benchmarks ----------------------------------------------------------------------------------

bench-kernels: wheel .venv-test/deps.stamp
	@.venv-test/bin/python $(PIP) install -c constraints.txt --group bench build/dist/*.whl
	@.venv-test/bin/python $(PIP) install --force-reinstall --no-deps build/dist/*.whl
	.venv-test/bin/python benchmarks/kernels/run.py $(if $(QUICK),--quick)

bench-engines: wheel .venv-test/deps.stamp
	@.venv-test/bin/python $(PIP) install -c constraints.txt build/dist/*.whl
	@.venv-test/bin/python $(PIP) install --force-reinstall --no-deps build/dist/*.whl
	.venv-test/bin/python benchmarks/engines/bench_engines.py $(NETWORKS)
	.venv-test/bin/python benchmarks/engines/report.py

# onnxruntime and onnxruntime-gpu are one folder: the latter has to come last.
gpu-session: wheel .venv-test/deps.stamp
	@.venv-test/bin/python $(PIP) install -c constraints.txt --group bench \
	  "$$(ls build/dist/*.whl)[gpu,tensorrt-rtx]"
	@.venv-test/bin/python $(PIP) install -c constraints.txt --force-reinstall --no-deps \
	  build/dist/*.whl onnxruntime-gpu
	.venv-test/bin/python benchmarks/gpu_session.py $(STEPS:%=--only %)

# --- lint ----------------------------------------------------------------------------------------

.venv-lint/deps.stamp: .venv-test/deps.stamp pyproject.toml
	@test -x .venv-lint/bin/python || { $(PYTHON) -m venv .venv-lint && .venv-lint/bin/python $(PIP) install "$(PIP_NEEDED)"; }
	@.venv-lint/bin/python $(PIP) install -c constraints.txt --group lint
	@touch $@

lint: .venv-lint/deps.stamp
	.venv-lint/bin/ruff check .
	.venv-lint/bin/ruff format --check .
	@# mypy cannot follow an editable import hook, and should see what users get: an installed tree
	@rm -rf build/typecheck
	@.venv-test/bin/python $(PIP) install --no-deps -Cwheel.cmake=false --target build/typecheck .
	MYPYPATH=build/typecheck .venv-lint/bin/mypy \
	  --python-executable .venv-test/bin/python -p revisage
	find kernels \( -name '*.cc' -o -name '*.cu' -o -name '*.h' \) -print0 \
	  | xargs -0 -r .venv-lint/bin/clang-format --dry-run --Werror
	.venv-lint/bin/codespell sdk kernels export training tests benchmarks README.md CONTRIBUTING.md

format: .venv-lint/deps.stamp
	.venv-lint/bin/ruff check --fix .
	.venv-lint/bin/ruff format .
	find kernels \( -name '*.cc' -o -name '*.cu' -o -name '*.h' \) -print0 \
	  | xargs -0 -r .venv-lint/bin/clang-format -i

dev:
	@test -x .venv-dev/bin/python || { $(PYTHON) -m venv .venv-dev && .venv-dev/bin/python $(PIP) install "$(PIP_NEEDED)"; }
	@.venv-dev/bin/python $(PIP) install -c constraints.txt "$(TORCH)"
	@.venv-dev/bin/python $(PIP) install -c constraints.txt --group test --group lint \
	  "scikit-build-core>=1.0" "pybind11>=3.0" ninja
	@.venv-dev/bin/python $(PIP) install -c constraints.txt --group engines \
	  || echo "== TensorRT for RTX does not install here"
	@.venv-dev/bin/python $(PIP) install -c constraints.txt --no-build-isolation -e .

clean:
	rm -rf build out .venv .venv-test .venv-lint .venv-dev
