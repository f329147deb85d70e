"""What every method checks of its inputs, and the words it lists."""

from collections.abc import Iterable, Sequence
from typing import Any

from probe.errors import DifferentModel, SiteNotRecorded, check_index
from probe.gpt import GPT
from probe.prompts import str_tokens, token_id
from probe.provenance import fingerprint
from probe.recording import Recording
from probe.sites import describe_site


def check_same_model(model: GPT, recording: Recording) -> None:
    """Raise DifferentModel unless the recording was made with this model, weights unchanged."""
    if recording.manifest["fingerprint"] != fingerprint(model):
        theirs, ours = recording.manifest["model"], model.name
        between = (
            f"of {theirs!r}, not of {ours!r}" if theirs != ours else f"of {ours!r} before its weights were changed"
        )
        raise DifferentModel(f"this recording is {between}; record again with the model at hand")


def check_not_reduced(recording: Recording, site: str) -> None:
    """Raise SiteNotRecorded if only a mean or the like of this site was kept, so that no prompt has a value."""
    for name in recording.manifest["arguments"]["reduce"]:
        if describe_site(name) is describe_site(site):
            raise SiteNotRecorded(
                f"{site!r} was reduced over prompts, so no prompt has a value; record it with reduce=None"
            )


def manifest_of(recording: Recording, method: str, **arguments: Any) -> dict[str, Any]:
    """What is needed to repeat a method on a recording, as JSON values."""
    prompts = None
    if recording.tokens is not None:
        rows = zip(recording.tokens.tolist(), recording.lengths.tolist(), strict=True)
        prompts = [row[:length] for row, length in rows]
    return {**recording.manifest, "prompts": prompts, "method": method, "method_arguments": arguments}


def column_of(recording: Recording, prompt: int, position: int) -> int:
    """Where a position of a prompt (-1: its last) stands among those kept.

    Raises:
        OutOfRange: the prompt has no such position.
        SiteNotRecorded: it was not kept.
    """
    position = check_index("position", position, int(recording.lengths[prompt]), owner=f"prompt {prompt}")
    if recording.positions is None:
        return position
    kept = recording.positions[prompt].tolist()
    if position not in kept:
        raise SiteNotRecorded(f"position {position} was not kept (kept: {kept}); record it with positions=[{position}]")
    return kept.index(position)


def token_ids(model: GPT, tokens: Sequence[str | int]) -> list[int]:
    """Ids of tokens given as text (" Paris") or as ids.

    Raises:
        BadPrompt: a text that is not one token (the message shows its pieces), or text to a model without tokenizer.
        OutOfRange: an id outside the vocabulary.
    """
    several = [tokens] if isinstance(tokens, str) else tokens
    return [token_id(model.config, model.tokenizer, token) for token in several]


def token_texts(model: GPT, ids: Iterable[int]) -> dict[int, str]:
    """The text of each token; without a tokenizer its id in brackets."""
    ids = sorted(set(ids))
    return dict(zip(ids, str_tokens(model.tokenizer, ids), strict=True))


def texts_of(recording: Recording) -> list[list[str]]:
    """The text of each token of each prompt; its position in brackets where the pass began without tokens."""
    if recording.str_tokens is not None:
        return recording.str_tokens
    return [[f"[{position}]" for position in range(length)] for length in recording.lengths.tolist()]
