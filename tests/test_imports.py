"""`import probe` is light: it loads what every use needs, and nothing else. Each case is a fresh Python."""

import json
import subprocess
import sys

import pytest
import torch

from tests.tiny import tiny_model

HEAVY = ("streamlit", "plotly", "transformers", "transformer_lens", "pandas", "gguf", "huggingface_hub", "wandb")


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    """The top-level modules in memory after `import probe`."""
    code = "import json, sys, probe; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("name", HEAVY)
def test_import_probe_does_not_load(name, loaded):
    assert name not in loaded


def test_import_probe_needs_nothing_that_only_tests_install(loaded):
    assert not loaded & {"beartype", "hypothesis", "pytest", "_pytest", "psutil"}


def test_import_probe_prints_nothing_and_warns_of_nothing():
    done = subprocess.run([sys.executable, "-W", "error", "-c", "import probe"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_public_name_exists():
    import probe

    assert sorted(set(probe.__all__)) == sorted(probe.__all__), "a name is listed twice"
    assert [name for name in probe.__all__ if not hasattr(probe, name)] == []


def test_shapes_are_checked_while_tests_run():
    from jaxtyping import TypeCheckError

    model = tiny_model("gpt2")
    with pytest.raises(TypeCheckError):
        model.read_out(torch.zeros(5, model.config.d_model))  # no batch


def test_shapes_are_not_checked_for_users():
    code = """
import torch, probe
config = probe.GPTConfig(n_layers=1, d_model=4, n_heads=1, d_head=4, d_mlp=4, d_vocab=5, n_ctx=8)
print(tuple(probe.GPT(config).read_out(torch.zeros(3, 4)).shape))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("(3, 5)", "")
