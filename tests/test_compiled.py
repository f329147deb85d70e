"""torch.compile follows a pass from end to end, with a tap and with gradients."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# In a process of its own: annotations are checked while tests run (conftest.py), and the compiler cannot follow that.
COMPILED = """
import sys
import torch
from tests.test_gpt import ROUNDING, Watch
from tests.tiny import tiny_model, tiny_tokens

model, tokens = tiny_model(sys.argv[1]), tiny_tokens()
compiled = torch.compile(model, fullgraph=True, backend="aot_eager")  # traced and split as ever, run step by step

def trained(forward):
    model.zero_grad()
    logits = forward(tokens)
    logits.square().mean().backward()
    return logits, [parameter.grad for parameter in model.parameters()]

torch.testing.assert_close(trained(compiled), trained(model), atol=ROUNDING, rtol=1e-4)
ours, watched = Watch(), Watch()
with torch.no_grad():
    torch.testing.assert_close(compiled(tokens, tap=watched), model(tokens, tap=ours), atol=ROUNDING, rtol=0)
torch.testing.assert_close(watched.values, ours.values, atol=ROUNDING, rtol=0)
print(len(watched.values), "values")
"""


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_the_compiler_follows_a_whole_pass(family):
    done = subprocess.run([sys.executable, "-c", COMPILED, family], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) > 30
