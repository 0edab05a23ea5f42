# Two commands for a fresh machine: `make demo` and `make test`. Both work inside .venv and need no rights.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DEMO   := build/demo
CONFORMANCE := build/conformance
CORE   := $(VENV)/.core-installed
TEST   := $(VENV)/.test-installed
OLAH   := $(VENV)/olah
MODEL  := fixtures/tiny-llama.gguf
SOURCE := $(shell find ropepatch schemas -type f -not -name '*.pyc' 2>/dev/null)

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help demo setup test conformance hub-oldest fuzz picture lint format docs docs-check bench bench-audit fixtures gpu-evidence clean
.DELETE_ON_ERROR:

help:
	@echo "make demo      patch a small GGUF with YaRN x4: before, after, verification, manifest, undo; audit a trained one"
	@echo "make test      install what the tests need and run them all"
	@echo "make conformance  fetch vLLM's and mlx-lm's own code and hold the predictions against it (340 MB)"
	@echo "make hub-oldest  run the Hub's tests with the oldest supported release of huggingface_hub"
	@echo "make fuzz      feed broken files to every reader for FUZZ_SECONDS (600); keeps what it finds as a test"
	@echo "make lint      ruff check, ruff format --check, mypy"
	@echo "make format    let ruff rewrite what it can"
	@echo "make docs      write docs/cli.md, methods.md, runtimes.md, rules.md and the outputs in the other pages (docs-check: compare)"
	@echo "make bench     measure ropepatch against cp, sha256sum and the gguf library on a 4 GB GGUF (BENCH=--help)"
	@echo "make bench-audit  measure the audit against a plain transformers loop"
	@echo "make picture   audit the trained fixture and draw docs/images/audit.png"
	@echo "make fixtures  make the small checkpoints again (trains one of them: about five minutes)"
	@echo "make gpu-evidence  on a machine with a CUDA device: run its tests, keep what came out in docs/evidence/"
	@echo "make clean     remove .venv, build products and caches"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "ropepatch needs Python 3.10 or newer; say which: make PYTHON=python3.12")'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "$(PYTHON) cannot make a virtual environment; install its venv module (Debian, Ubuntu: python3-venv)" >&2; exit 1; }

# The package as a user installs it, with nothing but its core dependencies. Where the tests' editable install is already
# there, it stays: it runs the same code.
$(CORE): pyproject.toml $(SOURCE) | $(BIN)/python
	@if [ -e $(TEST) ]; then echo "using the editable install of make test"; \
	  else echo "installing ropepatch and its dependencies into $(VENV) ..."; $(BIN)/pip install -qq .; fi
	@touch $@

# torch goes first and alone: left to the resolver it may pull gigabytes of CUDA packages that no test needs.
$(TEST): pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --editable '.[test]'
	@$(BIN)/pip install --quiet --only-binary mlx,mlx-cpu --editable '.[mlx]' || \
	  echo "no mlx-lm for this system: its live tests will be skipped"
	@touch $@

# A mirror of the Hub that this project did not write, for one test. Its requirements have floors and ceilings of their
# own, so that it gets an environment to itself, in which what is missing beside the tests' packages is installed.
$(OLAH)/.tried: $(TEST)
	@rm -rf $(OLAH)
	@$(BIN)/python -m venv --without-pip $(OLAH) && \
	  $(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
	    > $$($(OLAH)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/tests.pth && \
	  $(BIN)/pip --python $(OLAH)/bin/python install --quiet 'olah>=0.5.4' && touch $(OLAH)/.works || \
	  echo "olah does not install here: the test that reads through it will be skipped"
	@mkdir -p $(OLAH) && touch $@

$(MODEL): | $(CORE)
	$(BIN)/python fixtures/make_fixtures.py

# Runs in the demo's folder, so that the commands shown are those that a user would type.
SHOWN = cd $(DEMO) && echo "\$$ ropepatch $(1)" && $(abspath $(BIN))/ropepatch $(1)

# llama.cpp is one wheel of 34 MB for every Python, torch several times that; what it says is the same.
LLAMACPP := xllamacpp>=2026.10
AUDIT = audit retriever.gguf --engine llama.cpp --method linear,ntk,yarn --factor 4 --lengths 256,512,1024 \
  --depths 0:0.9:4 --samples 8 --task passkey --alphabet bos=0,filler=1-40,key=41-72,value=73-136
# The picture in README.md, of the same audit at more lengths and depths (the plot extra).
PICTURE = audit fixtures/tiny-retriever.gguf --engine llama.cpp --method linear,ntk,yarn --factor 4 \
  --lengths 256,512,1024,2048 --samples 16 --task passkey --alphabet bos=0,filler=1-40,key=41-72,value=73-136

demo: $(CORE) $(MODEL)
	@rm -rf $(DEMO) && mkdir -p $(DEMO) && cp $(MODEL) $(DEMO)/model.gguf
	@echo; echo "== 1. before"
	@$(call SHOWN,inspect model.gguf)
	@echo; echo "== 2. patch a copy for four times the context; it is verified after writing"
	@$(call SHOWN,apply --method yarn --factor 4 model.gguf)
	@echo; echo "== 3. after"
	@$(call SHOWN,inspect model-yarn-4x.gguf)
	@echo; echo "== 4. difference (the command exits with 1, which says that there is one)"
	@$(call SHOWN,diff model.gguf model-yarn-4x.gguf) || [ $$? -eq 1 ]
	@echo; echo "== 5. manifest: an in-toto statement of SLSA provenance, $(DEMO)/model-yarn-4x.ropepatch.json"
	@$(call SHOWN,manifest show model-yarn-4x.gguf)
	@echo; echo "== 6. undo, from the output and the manifest alone"
	@$(call SHOWN,revert model-yarn-4x.gguf)
	@cmp $(DEMO)/model.gguf $(DEMO)/model-yarn-4x-reverted.gguf && echo "cmp: the restored file and the input are the same, byte for byte"
	@echo; echo "== 7. does it still find things? A trained model of 100,000 parameters, in llama.cpp, unpatched and with three methods"
	@if [ -e $(TEST) ] || $(BIN)/pip install -qq "$(LLAMACPP)"; then \
	  cp fixtures/tiny-retriever.gguf $(DEMO)/retriever.gguf; $(call SHOWN,$(AUDIT)); \
	  else echo "xllamacpp (llama.cpp as a wheel) does not install here: the audit is left out"; fi
	@echo; echo "The files are in $(DEMO)/. Next, with a model of yours (a .gguf, a folder, or hf://org/repo):"
	@echo "  $(BIN)/ropepatch inspect MODEL"
	@echo "  $(BIN)/ropepatch plan MODEL --length 128k"
	@echo "README.md has a tour, docs/guide.md everything by task."

setup: $(TEST)

test: $(TEST) $(OLAH)/.tried
	@[ ! -e $(OLAH)/.works ] || export ROPEPATCH_OLAH_PYTHON=$(abspath $(OLAH))/bin/python; \
	  echo "$(BIN)/python -m pytest -n 2"; $(BIN)/python -m pytest -n 2

# Opt-in: other engines' own rotary classes, in an environment of their own beside .venv.
conformance: $(TEST)
	$(BIN)/python tests/conformance/optional/environment.py $(CONFORMANCE)
	$(CONFORMANCE)/bin/python -m pytest tests/conformance/optional tests/runtimes/test_live.py

# Opt-in: the Hub's tests with the oldest release of its client that pyproject.toml allows.
hub-oldest: $(TEST)
	$(BIN)/python -m venv --without-pip build/hub-oldest
	@$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
	  > $$(build/hub-oldest/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/tests.pth
	$(BIN)/pip --python build/hub-oldest/bin/python install --quiet huggingface-hub==1.31.0
	PYTHONPATH=. build/hub-oldest/bin/python -m pytest tests/hub

picture: $(TEST)
	rm -f docs/images/audit.png
	$(BIN)/ropepatch $(PICTURE) --png docs/images/audit.png

# atheris, which has no wheel for every Python, is asked for but not insisted on: without it hypothesis does the work.
fuzz: $(TEST)
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/pip install --quiet --only-binary :all: atheris 2>/dev/null \
	  || echo "atheris does not install here; hypothesis draws the inputs"
	$(BIN)/python -m fuzz

lint: $(TEST)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(TEST)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(TEST)
	$(BIN)/python tools/cli_reference.py
	$(BIN)/python tools/methods_page.py
	$(BIN)/python tools/runtimes_page.py
	$(BIN)/python tools/rules_page.py
	$(BIN)/python tools/doc_outputs.py
	$(BIN)/python tools/hub_page.py

docs-check: $(TEST)
	$(BIN)/python tools/cli_reference.py --check
	$(BIN)/python tools/methods_page.py --check
	$(BIN)/python tools/runtimes_page.py --check
	$(BIN)/python tools/rules_page.py --check
	$(BIN)/python tools/doc_outputs.py --check
	$(BIN)/python tools/hub_page.py --check

bench: $(CORE)
	$(BIN)/python benchmarks/run.py $(BENCH)

bench-audit: $(TEST)
	$(BIN)/python benchmarks/audit.py $(BENCH)

# Trains for about five CPU minutes on one thread; nothing else needs it, the checkpoint is part of the repository.
fixtures: $(TEST)
	$(BIN)/python fixtures/make_fixtures.py
	$(BIN)/python fixtures/train_tiny_retriever.py

# On a machine with a CUDA device and a torch that sees it; says what is missing anywhere else. Where a Python has such a
# torch already, `python3 tools/gpu_evidence.py` runs in it, and names the packages that it lacks.
gpu-evidence: $(TEST)
	$(BIN)/python tools/gpu_evidence.py

clean:
	rm -rf $(VENV) build dist bench-data .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
