"""What every test starts from: checked shapes, fixed seeds, the default model. Tiny models are in tiny.py.

Shapes and types in annotations are checked while tests run, and only then: the hook below must be in place before
anything imports probe.
"""

import os
import random

import jaxtyping

import tests.checked  # noqa: F401  named in the hook, which looks it up among what is imported

jaxtyping.install_import_hook("probe", "tests.checked.check")

import hypothesis
import numpy as np
import pytest
import torch

from probe.gpt import GPT

# Random, but the same at every run; no deadline, since the first call of many torch functions is slow.
hypothesis.settings.register_profile("probe", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("probe")

# Worker processes share the cores; with a thread per core each, they would wait for one another.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])))


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Every test draws the same random numbers, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def as_users_run_it():
    """No checks of annotations: what is tested is the error that a user of the installed package gets."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def default_model() -> GPT:
    """The default model, fetched into the user's cache when it is not there. Its tests are marked `model`."""
    import probe

    return probe.load_model()


@pytest.fixture(scope="session")
def glove():
    """GloVe 6B 50d, fetched likewise. Its tests are marked `model` too."""
    import probe

    return probe.load_word_vectors()
