"""Files that promise more than they hold are refused before room is made for what they promise.

In a process of its own, which may take 300 MB more than it has when everything is imported.
"""

import gzip
import json
import struct
import subprocess
import sys

import pytest

from tests.tiny import tiny_model

LIMIT = 300_000_000
CHILD = """
import json, resource, sys
import torch
import probe
import gensim.models
import probe.weights.gguf, probe.weights.huggingface
from probe.errors import ProbeError

torch.set_num_threads(1)
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + {limit}, taken + {limit}))
found = {{}}
for path in sys.argv[1:]:
    try:
        probe.load_word_vectors(path) if "vectors" in path else probe.load_model(path, device="cpu")
        found[path] = "loaded"
    except ProbeError as error:
        found[path] = "ProbeError: " + str(error)
    except BaseException as error:
        found[path] = f"{{type(error).__name__}}: {{error}}"
print(json.dumps(found))
"""


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def bombs(folder) -> dict[str, str]:
    """Small files that promise much -> a word of the error."""
    header = b"GGUF" + struct.pack("<I", 3)
    entry = text("general.architecture") + struct.pack("<I", 8) + text("llama")
    many = struct.pack("<QQ", 0, 2) + entry + text("k")
    files = {
        "count.gguf": (header + struct.pack("<QQ", 2**40, 2**40) + bytes(1000), "only"),
        "texts.gguf": (header + many + struct.pack("<IIQ", 9, 8, 2**33) + bytes(1000), "only"),
        "truths.gguf": (header + many + struct.pack("<IIQ", 9, 7, 2**33) + bytes(1000), "only"),
        "arrays.gguf": (header + many + struct.pack("<IIQ", 9, 9, 2**33) + bytes(1000), "only"),
        "vectors.txt": (b"999999999 99999\na 1 2\n", "more than it can hold"),
        "vectors.bin": (b"999999999 99999\na \x00\x00\x80\x3f\x00\x00", "more than it can hold"),
        "vectors.txt.gz": (gzip.compress(b"999999999 99999\na 1 2\n"), "more than it can hold"),
        "vectors-long.txt": (b"9" * 30_000 + b" 2\na 1 2\n", "vectors-long"),
    }
    for name, (data, _) in files.items():
        (folder / name).write_bytes(data)
    said = {str(folder / name): word for name, (_, word) in files.items()}
    model = tiny_model("llama")
    model.tokenizer = None
    for key, value, word in (
        ("vocab_size", 10**7, "wrong shape"), ("num_hidden_layers", 9_999, "9,999 layers"),
        ("max_position_embeddings", 2**24, ""), ("num_hidden_layers", 10**12, "num_hidden_layers"),
        ("intermediate_size", 10**15, "d_mlp"),
    ):  # fmt: skip
        path = folder / f"{key}-{value}"
        model.save(path)
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(config | {key: value}))
        said[str(path)] = word
    model.save(folder / "header")
    weights = folder / "header" / "model.safetensors"
    weights.write_bytes(struct.pack("<Q", 2**40) + weights.read_bytes()[8:])
    return said | {str(folder / "header"): "safetensors"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc and limits the address space")
def test_what_a_file_promises_takes_no_memory(tmp_path):
    said = bombs(tmp_path)
    done = subprocess.run([sys.executable, "-c", CHILD.format(limit=LIMIT), *said], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    for path, word in said.items():
        expected = "ProbeError: " if word else "loaded"  # positions are computed: a long context takes no memory
        assert found[path].startswith(expected) and word in found[path], f"{path}: {found[path][:300]}"
