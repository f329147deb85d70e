"""Damaged GGUF files cost an error that says where, never a crash, a hang or memory."""

import resource
import struct
import sys
import time

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type

from probe.errors import BrokenFile, ProbeError
from probe.weights._gguf_tokenizer import tokenizer_of
from probe.weights.gguf import load_gguf
from tests.gguf_files import BYTE_TOKENIZER, SPM_TOKENIZER, TOKENS, converted, huggingface


def header(n_tensors: int = 0, n_entries: int = 0, *, magic: bytes = b"GGUF", version: int = 3) -> bytes:
    return magic + struct.pack("<IQQ", version, n_tensors, n_entries)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def tensor(name: str, dims: list[int], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


HUGE = 2**62
DAMAGE = {
    "empty": (b"", "0 bytes"),
    "a web page": (b"<!DOCTYPE html>" * 4, "begins with b'GGUF', got b'<!DO'"),
    "version 1": (header(version=1) + bytes(9), "version 1: expected 2 or 3"),
    "big-endian": (header(version=3 << 24) + bytes(9), "big-endian"),
    "too many tensors": (header(HUGE) + bytes(99), "only .* are left"),
    "too many entries": (header(0, HUGE) + bytes(99), "only .* are left"),
    "a long key": (header(0, 1) + struct.pack("<Q", HUGE) + bytes(99), "a metadata key would take"),
    "a long text": (header(0, 1) + text("k") + struct.pack("<IQ", 8, HUGE) + bytes(99), "the value of 'k'"),
    "a long array": (header(0, 1) + text("k") + struct.pack("<IIQ", 9, 4, HUGE) + bytes(99), "values of 'k'"),
    "a long array of text": (header(0, 1) + text("k") + struct.pack("<IIQ", 9, 8, HUGE) + bytes(99), "values of 'k'"),
    "an array in an array in ...": (
        header(0, 1) + text("k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 9,
        "nested",
    ),
    "a type of value": (header(0, 1) + text("k") + struct.pack("<I", 77) + bytes(99), "'k' has type 77"),
    "no UTF-8": (header(0, 1) + struct.pack("<Q", 1) + b"\xff" + bytes(99), "not UTF-8"),
    "a key twice": (header(0, 2) + (text("k") + struct.pack("<IB", 7, 1)) * 2 + bytes(99), "'k' comes twice"),
    "no dims": (header(1) + tensor("t", []) + bytes(99), "0 dims"),
    "many dims": (header(1) + tensor("t", [1] * 5) + bytes(99), "5 dims"),
    "a dim of 0": (header(1) + tensor("t", [0]) + bytes(99), "none may be 0"),
    "half a block": (header(1) + tensor("t", [31], kind=8) + bytes(99), "multiple of 32"),
    "a type of tensor": (header(1) + tensor("t", [1], kind=99) + bytes(99), "'t' has type 99"),
    "a huge tensor": (header(1) + tensor("t", [HUGE, HUGE]) + bytes(99), "the file ends at"),
    "a far tensor": (header(1) + tensor("t", [1], offset=2**63) + bytes(99), "the file ends at"),
    "a tensor twice": (header(2) + tensor("t", [1]) + tensor("t", [1], offset=32) + bytes(99), "comes twice"),
    "tensors that overlap": (header(2) + tensor("t", [8]) + tensor("u", [8]) + bytes(99), "inside the one before"),
    "alignment 0": (header(0, 1) + text("general.alignment") + struct.pack("<II", 4, 0) + bytes(99), "alignment is 0"),
}


@pytest.mark.parametrize(("data", "said"), DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_header_names_the_file_and_what_was_expected(data, said, tmp_path):
    (tmp_path / "m.gguf").write_bytes(data)
    with pytest.raises(BrokenFile, match=said) as caught:
        load_gguf(tmp_path / "m.gguf")
    assert "m.gguf" in str(caught.value)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    """A small file with everything in it: a tokenizer, quantised and plain tensors."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    return converted(path, huggingface("llama"), "llama", type_=Type.Q4_1, metadata=BYTE_TOKENIZER).read_bytes()


def test_a_truncated_file_is_an_error_at_whatever_length(whole, tmp_path):
    path = tmp_path / "m.gguf"
    lengths = sorted({*range(0, 200), *range(200, len(whole), len(whole) // 150), len(whole) - 1})
    for length in lengths:
        path.write_bytes(whole[:length])
        with pytest.raises(BrokenFile, match="m.gguf"):
            load_gguf(path)


def test_a_truncated_tensor_says_where_the_file_ends(whole, tmp_path):
    (tmp_path / "m.gguf").write_bytes(whole[:-100])
    with pytest.raises(BrokenFile, match=f"but the file ends at {len(whole) - 100:,}: it is truncated"):
        load_gguf(tmp_path / "m.gguf")


def flipped_bytes_never_crash(whole: bytes, path, places) -> int:
    """How many of these files, each with one byte changed, were refused."""
    refused = 0
    for place in places:
        for flip in (0x01, 0x80, 0xFF):
            damaged = bytearray(whole)
            damaged[place] ^= flip
            path.write_bytes(damaged)
            try:
                with torch.no_grad():
                    load_gguf(path)(TOKENS[:, :2])
            except ProbeError:
                refused += 1
    return refused


def test_a_file_with_one_wrong_byte_loads_or_is_refused_in_bounded_memory(whole, tmp_path, as_users_run_it):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    places = np.random.default_rng(0).choice(whole.index(b"blk.1") + 400, 60, replace=False)
    assert flipped_bytes_never_crash(whole, tmp_path / "m.gguf", places) > 20
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # kilobytes on Linux, bytes on macOS
    assert grown < (200_000 if sys.platform.startswith("linux") else 200_000_000)


@pytest.mark.slow
def test_no_single_byte_of_the_header_can_do_harm(whole, tmp_path, as_users_run_it):
    flipped_bytes_never_crash(whole, tmp_path / "m.gguf", range(whole.index(b"output_norm.weight")))


def test_a_token_of_a_million_letters_takes_no_time(tmp_path):
    """A damaged length can make one of all that follows it; every way to cut it in two was tried, copying both."""
    tokens = [*SPM_TOKENIZER["tokenizer.ggml.tokens"], "ab" * 500_000]
    more = {"tokens": tokens, "scores": [0.0] * len(tokens), "token_type": [1] * len(tokens)}
    metadata = SPM_TOKENIZER | {f"tokenizer.ggml.{name}": values for name, values in more.items()}
    start = time.process_time()
    tokenizer = tokenizer_of(tmp_path / "m.gguf", metadata | {
        f"tokenizer.ggml.{name}": np.array(more[name]) for name in ("scores", "token_type")
    })  # fmt: skip
    assert tokenizer.encode("ab", add_special_tokens=False) == [tokens.index("▁ab")]
    assert time.process_time() - start < 5
