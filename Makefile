# Every target sets up what it needs in .venv, from nothing but Python 3.11 or newer; the second time that is done
# already. pip runs with your own configuration. To choose the Python: make tour PYTHON=/path/to/python3.12

PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python
# A killed pip can leave a package that looks installed and is not. This file is there while one works; where it is
# found, .venv is made anew.
UNFINISHED := $(VENV)/.unfinished
# Moved away first: a removal that is cut off leaves no half of it in place.
DISCARD := rm -rf $(VENV).old; [ ! -e $(VENV) ] || mv $(VENV) $(VENV).old; rm -rf $(VENV).old
NEW_ENOUGH := import sys; assert sys.version_info >= (3, 11)

# .venv holds absolute paths: made elsewhere (a moved or copied checkout), by a Python that is gone, or not to the end,
# it is made anew.
ifneq ($(shell [ -x $(RUN) ] && [ ! -e $(UNFINISHED) ] && cat $(VENV)/.made 2>/dev/null),$(CURDIR))
REMAKE := remake
endif

comma := ,

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help tour dashboard test test-all check bench clean remake

help:  ## list what make can do
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

tour: $(VENV)/.base  ## fetch a real GPT, record one prompt, show what its values say; writes out/tour/
	@$(BIN)/probe tour

dashboard: $(VENV)/.dashboard  ## look around in the browser; ends with Ctrl-C
	@$(BIN)/probe dashboard

test: $(VENV)/.test  ## run the tests, but for the slow ones
	@$(RUN) -m pytest

test-all: test  ## run the tests, then the slow ones
	@$(RUN) -m pytest -m slow

check: $(VENV)/.test  ## lint, format and types
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(RUN) -m pyright --pythonpath $(RUN)

bench: $(VENV)/.bench  ## compare with other libraries: time and memory; writes out/bench/
	@$(RUN) tests/benchmarks/run.py

clean:  ## remove .venv, out/tour and caches; models stay in your own cache (see: probe models)
	@$(DISCARD)
	rm -rf out/tour build dist .pytest_cache .ruff_cache .hypothesis
	find probe dashboards analyses tests -name __pycache__ -type d -prune -exec rm -rf {} +

# pip's exit codes are 1 and 2: it has said what is wrong and put back what it changed. Anything else cut it off.
define install
@touch $(UNFINISHED)
@trap 'exit 130' INT TERM HUP; \
$(RUN) -m pip install --disable-pip-version-check -c constraints.txt -e "$(1)" \
	|| { code=$$?; [ $$code -gt 2 ] || rm -f $(UNFINISHED); exit $$code; }
@rm -f $(UNFINISHED)
endef

$(VENV)/.base: $(VENV)/.made pyproject.toml constraints.txt
	$(call install,.)
	@touch $@

$(VENV)/.test: $(VENV)/.made pyproject.toml constraints.txt
	$(call install,.[test])
	@touch $(VENV)/.base $@

$(VENV)/.dashboard: $(VENV)/.made pyproject.toml constraints.txt
	$(call install,.[dashboard])
	@touch $(VENV)/.base $@

$(VENV)/.bench: $(VENV)/.made pyproject.toml constraints.txt
	$(call install,.[test$(comma)bench])
	@touch $(VENV)/.base $(VENV)/.test $@

# A .venv that works, made by hand perhaps, is kept. "python3.13" may be a name that a version manager answers to without
# having it, and Debian's Python comes without venv: so each candidate is run, not only looked for.
$(VENV)/.made: $(REMAKE)
	@if [ ! -e $(UNFINISHED) ] && [ ! -e $@ ] && $(RUN) -c '$(NEW_ENOUGH); import pip' 2>/dev/null; \
	then echo "using the .venv that is here"; printf '%s\n' "$(CURDIR)" > $@; exit; fi; \
	found=; lacking=; \
	for name in $(if $(PYTHON),"$(PYTHON)",python3.13 python3.12 python3.11 python3 python); do \
		"$$name" -c '$(NEW_ENOUGH)' 2>/dev/null || continue; \
		if "$$name" -c 'import venv, ensurepip' 2>/dev/null; then found=$$name; break; else lacking=$$name; fi; \
	done; \
	if [ -z "$$found$$lacking" ]; then \
		echo 'error: no Python 3.11 or newer$(if $(PYTHON), at $(PYTHON)); install one, or name it: make ... PYTHON=/path/to/python3' >&2; \
		exit 1; \
	elif [ -z "$$found" ]; then \
		package=$$("$$lacking" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
		echo "error: $$lacking comes without its venv module; on Debian and Ubuntu: apt install $$package" >&2; \
		exit 1; \
	fi; \
	echo "making .venv with $$("$$found" --version), then filling it: a few minutes, once"; \
	$(DISCARD); mkdir $(VENV) && touch $(UNFINISHED) && "$$found" -m venv $(VENV) && \
	printf '%s\n' "$(CURDIR)" > $@ && rm -f $(UNFINISHED)
