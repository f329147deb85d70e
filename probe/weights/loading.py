"""What `load_model` is given -> where the model is and in which format -> the model, or its untrained twin."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from probe.arguments import checked
from probe.config import GPTConfig
from probe.devices import read_device, read_dtype
from probe.errors import FetchFailed, UnknownName, UnsupportedModel, unknown_name
from probe.gpt import GPT
from probe.weights.untrained import draw_model


@checked
def load_model(
    source: Any = None,
    *,
    random: bool = False,
    dtype: str | torch.dtype = torch.float32,
    device: str | torch.device | int | None = None,
    seed: int = 0,
    tokenizer: Any = None,
    config: Any = None,
    progress: bool = True,
) -> GPT:
    """A pretrained GPT, or its untrained twin.

    `source` is None for the default model, or the first of these that fits: a Hugging Face module in memory (copied);
    a path of a Hugging Face folder, of a .gguf file, or of a .pt or .pth file or a folder with a state dict of
    TransformerLens's HookedTransformer; a name of the catalogue (`probe models` lists them); ``organisation/model`` on
    the Hugging Face Hub. Weights are converted to `dtype`, whatever they were stored as. `device` None is the first
    CUDA device if there is one, else the CPU.

    `random=True` gives the same config and tokenizer with weights drawn from `seed`, alike on every device: the
    control that shows what learning did. `tokenizer` (a fast tokenizer of transformers, or ours) replaces the one
    that comes with the model; a module in memory and a state dict come with none. `config`: of a state dict, the
    values of its HookedTransformerConfig, as a mapping or a JSON file; they come before those saved with it.

    Raises:
        UnknownName: no such file, folder, model, dtype or device; the nearest is offered.
        UnsupportedModel: an architecture, setting or format that this GPT does not compute or read.
        BrokenFile: files that are truncated, corrupt or do not fit each other.
        FetchFailed: a download that could not be made or checked; says what works offline.
    """
    dtype = read_dtype(dtype)
    place = read_device(("cuda" if torch.cuda.is_available() else "cpu") if device is None else device)
    if hasattr(source, "state_dict") and hasattr(source, "config"):
        if config is not None:
            raise UnsupportedModel(
                f"config goes with a state dict of HookedTransformer; this {type(source).__name__} has its own"
            )
        opened, hub_folder = _open_module(source), None
    else:
        path, name, on_hub = _find(source, weights=not random, state_dict=config is not None, progress=progress)
        opened, hub_folder = _open(path, name, config), path if on_hub else None
    if random:
        shape, its_tokenizer = opened.outline()
        model = draw_model(shape, its_tokenizer, name=opened.name, seed=seed, dtype=dtype, device=place)
    else:
        model = opened.whole(dtype=dtype, device=place)
    if tokenizer is not None:
        model.tokenizer = _read_tokenizer(tokenizer)
    elif model.tokenizer is None and hub_folder is not None:
        model.tokenizer = _tokenizer_that_is_named(hub_folder, config)
    return model


def _find(source: Any, *, weights: bool, state_dict: bool, progress: bool) -> tuple[Path, str, bool]:
    """Where the model's files are, what to call it, whether it is on the Hub. What exists on disk wins over a name."""
    from probe.catalogue import DEFAULT_MODEL, known_models, known_word_vectors
    from probe.fetching import fetch

    source = DEFAULT_MODEL if source is None else source
    if not isinstance(source, (str, Path)):
        raise UnknownName(
            f"model {type(source).__name__}: expected a name, a path, or a Hugging Face module with config and weights"
        )
    path = Path(source).expanduser()
    if _exists(path):
        return path, path.resolve().stem if path.is_file() else path.resolve().name, False
    known = [model.name for model in known_models()]
    if isinstance(source, str) and source in known:
        return fetch(source, progress=progress), source, False
    if source in [words.name for words in known_word_vectors()]:
        raise UnknownName(f"{source!r} holds word vectors, not a GPT; probe.load_word_vectors({source!r}) loads them")
    if not _may_be_on_the_hub(source):
        hint = "(`probe models` lists what is known; on the Hub, names are organisation/model: openai-community/gpt2)"
        raise unknown_name("model, file or folder", str(source), known, hint=hint)
    from probe.weights.hub import fetch_from_hub

    try:
        folder = fetch_from_hub(str(source), weights=weights, state_dict=state_dict, progress=progress)
        return folder, str(source), True
    except FetchFailed as error:
        raise FetchFailed(f"no folder {str(source)!r} here, so it was looked for on the Hub. {error}") from error


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long for a file
        return False


def _may_be_on_the_hub(source: str | Path) -> bool:
    """``organisation/model``, unless something says that a path was meant: an ending, or a folder of that name here."""
    if not isinstance(source, str) or not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", source):
        return False
    endings = (".gguf", ".safetensors", ".bin", ".pt", ".pth")
    return Path(source).suffix not in endings and not Path(source).parent.exists()


@dataclass(frozen=True)
class _Opened:
    """A model that was found, in one of the formats."""

    name: str
    outline: Callable[[], tuple[GPTConfig, Any]]
    """Its config and its tokenizer, without its weights."""
    whole: Callable[..., GPT]
    """The model with its weights, in a `dtype` on a `device`."""


def _open(path: Path, name: str, config: Any) -> _Opened:
    """The model in this file or folder."""
    from probe.weights._hooked_config import ENDINGS, is_hooked_folder

    if path.suffix in ENDINGS or (path.is_dir() and (config is not None or is_hooked_folder(path))):
        return _open_hooked(path, name, config)
    if config is not None:
        raise UnsupportedModel(
            f"config goes with a .pt or .pth file, or a folder with a state dict of HookedTransformer; got {path}"
        )
    return _open_folder(path, name) if path.is_dir() else _open_gguf(path, name)


def _open_module(module: Any) -> _Opened:
    from probe.weights.huggingface import load_module, module_name, read_module_config

    return _Opened(module_name(module), lambda: (read_module_config(module)[0], None), partial(load_module, module))


def _open_folder(path: Path, name: str) -> _Opened:
    from probe.tokens import Tokenizer
    from probe.weights.huggingface import load_folder, read_folder_config

    config, _ = read_folder_config(path)  # before the tokenizer: says best what is wrong with a folder
    tokenizer = Tokenizer.from_folder(path)
    return _Opened(name, lambda: (config, tokenizer), partial(load_folder, path, name=name, tokenizer=tokenizer))


def _open_gguf(path: Path, name: str) -> _Opened:
    if path.suffix != ".gguf":
        folder = f"; give its folder, {path.parent}" if path.suffix in (".safetensors", ".json") else ""
        raise UnsupportedModel(f"{path}: expected a .gguf, .pt or .pth file or a Hugging Face folder{folder}")
    from probe.weights.gguf import load_gguf, read_gguf_config

    return _Opened(name, partial(read_gguf_config, path, name=name), partial(load_gguf, path, name=name))


def _open_hooked(path: Path, name: str, config: Any) -> _Opened:
    from probe.tokens import Tokenizer
    from probe.weights.hooked_transformer import load_hooked_transformer, read_config_of

    tokenizer = Tokenizer.from_folder(path if path.is_dir() else path.parent)
    return _Opened(
        name,
        lambda: (read_config_of(path, config=config), tokenizer),
        partial(load_hooked_transformer, path, config=config, name=name, tokenizer=tokenizer),
    )


def _tokenizer_that_is_named(folder: Path, config: Any) -> Any:
    """The tokenizer on the Hub that the config of a HookedTransformer names; None where it names none."""
    from probe.json_files import read_object
    from probe.tokens import Tokenizer
    from probe.weights._tensors import CONFIG
    from probe.weights.hub import fetch_from_hub

    values = config if isinstance(config, Mapping) else {}
    if not values and (folder / CONFIG).is_file():
        values = read_object(folder / CONFIG)
    named = values.get("tokenizer_name")
    return Tokenizer.from_folder(fetch_from_hub(named, weights=False)) if isinstance(named, str) else None


def _read_tokenizer(tokenizer: Any) -> Any:
    from probe.tokens import Tokenizer

    return tokenizer if isinstance(tokenizer, Tokenizer) else Tokenizer.from_huggingface(tokenizer)
