"""A model's name on the Hugging Face Hub -> a folder in that library's own cache.

Only config, safetensors and tokenizer files are fetched, and the state dict of a HookedTransformer. What is cached
already works without network.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from probe.errors import FetchFailed, UnsupportedModel

SECONDS_TO_ANSWER = 5.0
"""How long to wait for the Hub before saying that it cannot be reached."""
SMALL_FILES = ("config.json", "tokenizer*", "vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json")
WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json")
NOT_WANTED = ("*/*", "consolidated*")
"""Subfolders, and second copies of the weights in other layouts."""


def fetch_from_hub(name: str, *, weights: bool = True, state_dict: bool = False, progress: bool = True) -> Path:
    """The local folder of ``organisation/model``, fetched if it is not there.

    Args:
        weights: False: all but safetensors. (A state dict comes along: it alone says whether there is a bias b_U.)
        state_dict: someone says that the model is a HookedTransformer, so that no config.json need say it.

    Raises:
        FetchFailed: the Hub cannot be reached and the model is not cached; or it is not there, or not for this user.
        UnsupportedModel: the Hub has the model in other formats only, or several checkpoints of which none is the last.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    wanted = [*SMALL_FILES, *WEIGHT_FILES] if weights else [*SMALL_FILES]
    try:
        info = HfApi().model_info(name, timeout=SECONDS_TO_ANSWER)
    except HFValidationError as error:
        raise FetchFailed(f"{name!r} cannot be the name of a model on the Hugging Face Hub: {error}") from error
    except GatedRepoError as error:
        raise FetchFailed(
            f"{name}: the Hugging Face Hub gives this model only to those who accepted its terms; "
            "accept them on its page, then run `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise FetchFailed(f"{name}: the Hugging Face Hub has no such model, or not for you to see") from error
    except _network_errors() as error:
        return _find_cached(name, wanted, reason=error)
    files = [sibling.rfilename for sibling in info.siblings or []]
    if files and not any(file.endswith(".safetensors") and "/" not in file for file in files):
        return _fetch_without_safetensors(name, files, weights=weights, state_dict=state_dict, progress=progress)
    return _download(name, wanted, progress=progress)


def _fetch_without_safetensors(
    name: str, files: Sequence[str], *, weights: bool, state_dict: bool, progress: bool
) -> Path:  # fmt: skip
    """The folder of a HookedTransformer, whose state dict is read though it is a pickle: see hooked_transformer.py. Of
    any other model, its folder without weights."""
    from probe.weights._hooked_config import ENDINGS, find_checkpoint, is_hooked_folder

    folder = _download(name, [*SMALL_FILES], progress=progress)
    checkpoints = [file for file in files if "/" not in file and file.endswith(ENDINGS)]
    if checkpoints and (state_dict or "config.json" not in files or is_hooked_folder(folder)):
        chosen = find_checkpoint(checkpoints)
        if chosen is None:
            found = ", ".join(checkpoints[:4]) + (", ..." if len(checkpoints) > 4 else "")
            raise UnsupportedModel(
                f"{name}: {len(checkpoints)} checkpoints ({found}), and not exactly one whose name ends in 'final'; "
                "download one and give its path"
            )
        return _download(name, [*SMALL_FILES, chosen], progress=progress)
    if weights:
        raise UnsupportedModel(
            f"{name}: the Hub has no safetensors of this model, and pickle files of Hugging Face models are never read"
        )
    return folder


def _network_errors() -> tuple[type[Exception], ...]:
    """What a broken connection raises: OSError, or the errors of whichever HTTP library huggingface_hub uses."""
    from huggingface_hub.errors import HfHubHTTPError

    return (OSError, *(base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception)))


def _find_cached(name: str, wanted: list[str], *, reason: Exception) -> Path:
    """The folder fetched at another time, or the error that says what works without the Hub."""
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(name, local_files_only=True, allow_patterns=wanted, ignore_patterns=[*NOT_WANTED])
    except OSError:
        why = str(reason).splitlines()[0] if str(reason) else type(reason).__name__
        raise FetchFailed(
            f"{name}: the Hugging Face Hub cannot be reached ({why}), and the model is not in its cache. Without the "
            "Hub work the catalogue's names (`probe models` lists them), a local folder, a .gguf and a .pth file"
        ) from reason
    return Path(found)


def _download(name: str, wanted: list[str], *, progress: bool) -> Path:
    from huggingface_hub import snapshot_download
    from tqdm.auto import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any):
            super().__init__(*args, **{**options, "disable": not progress or options.get("disable")})

    try:
        found = snapshot_download(
            name,
            etag_timeout=SECONDS_TO_ANSWER,
            allow_patterns=wanted,
            ignore_patterns=[*NOT_WANTED],
            tqdm_class=Bar,  # type: ignore[arg-type]
        )
    except _network_errors() as error:
        raise FetchFailed(f"{name}: the download from the Hugging Face Hub broke off: {error}") from error
    return Path(found)
