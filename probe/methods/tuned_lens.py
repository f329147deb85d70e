"""Tuned lens: for each place in the residual stream an affine map to what the last layer would make of it.

A raw lens reads early layers in the last one's terms, which they do not use yet; on many models it predicts worse than
the uniform distribution until late. Here each place gets a translator first, by ridge regression onto the last residual
stream (closed form), then by gradient steps on KL(final || lens) if asked. Position 0 is left out: it is an attention
sink whose huge vectors would be all that a squared error sees.
Source: Belrose et al., "Eliciting latent predictions from transformers with the tuned lens" (2023).
"""

import dataclasses
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from probe.arguments import checked
from probe.distributions import kl_divergence, log_probs_of
from probe.errors import BrokenFile, DifferentModel, OutOfRange, SiteNotRecorded
from probe.fetching import cache_folder
from probe.gpt import GPT
from probe.methods._stream import stream_places, uniform_divergence
from probe.methods._windows import ROWS_AT_ONCE, Texts, sample_batch, windows_of
from probe.norms import at_least_float32
from probe.pieces import Pieces
from probe.provenance import fingerprint, provenance
from probe.recording import record
from probe.results import Result
from probe.shown import Summary, count
from probe.store import load_result, only_process, save_result

if TYPE_CHECKING:
    import pandas

LENGTH = 128
"""Tokens of a window of text."""
PASS_TOKENS = 512
"""Tokens recorded at a time."""
MOMENT_BYTES = 2**30
"""Memory for the sums of the regression; places that do not fit are fitted after the others, by passes of their own."""
HELD_OUT = 512
"""Most positions that the lens is tested on."""


@dataclass(frozen=True, eq=False)
class TunedLens(Result):
    """A translator for every place but the last, which needs none, and how well each does on text held out.

    Divergences are means of KL(final || .) over the held-out positions, in nats.
    """

    places: tuple[str, ...]
    """Full names of the sites read, in the order of the pass."""
    weights: Float[Tensor, "place d_model d_model"]
    """To be applied from the right: translated = resid @ weight + bias."""
    biases: Float[Tensor, "place d_model"]
    tuned_kl: Float[Tensor, " place"]
    raw_kl: Float[Tensor, " place"]
    """KL of the raw lens at each place."""
    uniform_kl: float
    """KL of knowing nothing: of the uniform distribution."""
    mean_kl: float
    """KL of saying at every position the model's mean distribution over the text fitted on."""
    manifest: Mapping[str, Any]
    """Model, text, arguments."""

    def __call__(self, place: str, resid: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
        """What the last layer would have, of a residual stream at this place."""
        if place not in self.places:
            return resid  # the last place, by `check`
        index = self.places.index(place)
        weight, bias = (of[index].to(resid.device, resid.dtype) for of in (self.weights, self.biases))
        return resid @ weight + bias

    @checked
    def check(self, model: GPT, places: Sequence[str]) -> None:
        """Raise unless it was fitted on this model, for these places.

        Raises:
            DifferentModel: it was fitted on another one, or before the weights changed.
            SiteNotRecorded: it has no translator for a place.
        """
        if self.manifest["fingerprint"] != fingerprint(model):
            raise DifferentModel(
                f"this tuned lens was fitted on {self.manifest['model']!r} ({self.manifest['fingerprint']}), not on "
                f"{model.name!r} ({fingerprint(model)}); fit one with probe.fit_tuned_lens(model)"
            )
        known = {*self.places, stream_places(model.config)[-1]}
        missing = [place for place in places if place not in known]
        if missing:
            raise SiteNotRecorded(f"this tuned lens has no translator for {missing[0]!r}; fit it again")

    @property
    def falls_short(self) -> list[str]:
        """Places where it is not better than all three: the raw lens, the uniform and the mean distribution."""
        bar = self.raw_kl.clamp(max=min(self.uniform_kl, self.mean_kl))
        return [place for place, passes in zip(self.places, (self.tuned_kl < bar).tolist(), strict=True) if not passes]

    def verdict(self) -> str:
        """How it stands against its bar, in a sentence or two."""
        n = self.manifest["held_out_positions"]
        short = self.falls_short
        better = (
            f"at all {len(self.places)} places"
            if not short
            else f"at {len(self.places) - len(short)} of {len(self.places)} places, not at {', '.join(short[:3])}"
        )
        first, middle, last = (0, len(self.places) // 2, len(self.places) - 1)
        shown = ", ".join(f"{float(self.tuned_kl[at]):.2f} after {self.places[at]}" for at in (first, middle, last))
        return (
            f"Tuned lens of {self.manifest['model']}: better than the raw lens, the uniform and the mean distribution "
            f"{better}. Mean KL(final || lens) on {n} positions held out: {shown} nats; "
            f"mean distribution {self.mean_kl:.2f}, uniform {self.uniform_kl:.2f}."
        )

    def summary(self) -> Summary:
        """How it stands against its bar; `verdict()` says it in a sentence."""
        return Summary(
            count(len(self.places), "place"),
            {"mean KL(final || lens), nats": f"{float(self.tuned_kl.mean()):.3g}, raw {float(self.raw_kl.mean()):.3g}",
             "no better than the raw lens or knowing nothing at": count(len(self.falls_short), "place")},
            self.manifest["model"],
        )  # fmt: skip

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per place: the four divergences in nats, and whether the lens is the best of them."""
        import pandas  # half a second that only tables need

        columns = {
            "place": self.places,
            "kl_final_tuned_nats": self.tuned_kl.tolist(),
            "kl_final_raw_nats": self.raw_kl.tolist(),
            "kl_final_mean_nats": self.mean_kl,
            "kl_final_uniform_nats": self.uniform_kl,
        }
        table = pandas.DataFrame(columns)
        return table.assign(passes=[place not in self.falls_short for place in self.places])

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write translators and manifest into a new folder; `TunedLens.load` reads them back.

        Raises:
            NotSaved: the folder holds something already, or cannot be written.
        """
        tensors = {name: getattr(self, name) for name in _TENSORS}
        facts = {"places": self.places, "uniform_kl": self.uniform_kl, "mean_kl": self.mean_kl}
        return save_result(folder, tensors, {**self.manifest, "kind": "tuned lens", **facts})

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "TunedLens":
        """Read what `save` wrote.

        Raises:
            BrokenFile: it is no saved tuned lens, or was changed since.
        """
        tensors, manifest = load_result(folder)
        if manifest.pop("kind", None) != "tuned lens" or set(tensors) != set(_TENSORS):
            raise BrokenFile(f"{folder}: a saved result, but not a tuned lens")
        try:
            places, uniform, mean = (manifest.pop(name) for name in ("places", "uniform_kl", "mean_kl"))
            return cls(places=tuple(places), **tensors, uniform_kl=uniform, mean_kl=mean, manifest=manifest)
        except (KeyError, TypeError) as error:
            raise BrokenFile(f"{folder}: its manifest was changed: {type(error).__name__}: {error}") from error


_TENSORS = ("weights", "biases", "tuned_kl", "raw_kl")


@checked
def load_tuned_lens(model: GPT, *, progress: bool = True) -> TunedLens:
    """The tuned lens of a model with the default settings: from the user's cache, or fitted now and kept there.

    An interrupted fit goes on where it stopped; of two processes the second waits for the first. The cache knows models
    by the fingerprint of their weights.

    Raises:
        BrokenFile: it was changed since.
        NotSaved: the cache cannot be written.
    """
    if (found := find_tuned_lens(model)) is not None:
        return found
    folder = _cached(model)
    work = folder.with_name(f"{folder.name}.work")
    with only_process(folder):
        if (found := find_tuned_lens(model)) is None:
            found = fit_tuned_lens(model, folder=work, progress=progress)
            found.save(folder)
        shutil.rmtree(work, ignore_errors=True)
    return found


def find_tuned_lens(model: GPT) -> TunedLens | None:
    """The one that `load_tuned_lens` left in the user's cache; None where it was never fitted, which takes minutes.

    Raises:
        BrokenFile: it was changed since.
    """
    folder = _cached(model)
    return TunedLens.load(folder) if folder.exists() else None


def _cached(model: GPT) -> Path:
    return cache_folder() / "tuned-lenses" / fingerprint(model)


@checked
def fit_tuned_lens(
    model: GPT,
    texts: Texts | None = None,
    *,
    n_tokens: int = 16_000,
    ridge: float = 1e-4,
    gradient_steps: int = 0,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> TunedLens:
    """Fit a translator for every place in the residual stream.

    Args:
        texts: to fit on, cut into windows of 128 tokens. None: `n_tokens` tokens that the model writes itself, at
            temperature 1; then no corpus is needed.
        ridge: penalty, as a share of the mean variance of a residual stream's dimensions.
        gradient_steps: steps of Adam on KL(final || lens) after the closed form, 64 positions each.
        folder: keep finished pieces there, so that the same call goes on after an interruption.
        progress: show on stderr how far it is, and at the end how the lens stands against its bar.

    Returns:
        The translators, and their mean KL(final || lens) (nats) on a tenth of the windows, held out; see TunedLens.

    Raises:
        OutOfRange: fewer than 256 tokens to sample, or a negative number.
        BadPrompt: no text to cut two windows from.
        NotSaved: the folder holds the pieces of another call.

    Source: Belrose et al., "Eliciting latent predictions from transformers with the tuned lens" (2023).
    """
    arguments = _arguments(model, texts, n_tokens, ridge, gradient_steps, seed)
    given = None if texts is None else windows_of(model, texts, _length(model))
    pieces = Pieces(folder, {"fingerprint": fingerprint(model), "texts": given, **arguments})
    windows = given or _sampled(model, n_tokens, seed, pieces, progress)
    cut = len(windows) - max(1, len(windows) // 10)
    places = tuple(stream_places(model.config)[:-1])
    weights, biases = [], []
    for number, group in enumerate(_groups(model, places)):
        name = f"places-{number:03}"
        if name not in pieces:
            pieces.put(name, _fit(model, group, windows[:cut], ridge, gradient_steps, seed, progress))
        found = pieces.get(name)
        weights.append(found["weights"])
        biases.append(found["biases"])
    lens = TunedLens(
        places=places,
        weights=torch.cat(weights),
        biases=torch.cat(biases),
        tuned_kl=torch.zeros(len(places)),
        raw_kl=torch.zeros(len(places)),
        uniform_kl=0.0,
        mean_kl=0.0,
        manifest={**provenance(model), "method": "tuned lens", "method_arguments": arguments},
    )
    lens = _tested(model, lens, windows[:cut], windows[cut:], progress)
    if progress:
        tqdm.write(lens.verdict(), file=sys.stderr)
    return lens


def _arguments(
    model: GPT, texts: Texts | None, n_tokens: int, ridge: float, gradient_steps: int, seed: int
) -> dict[str, Any]:
    if texts is None and n_tokens < 256:
        raise OutOfRange(f"n_tokens={n_tokens}: expected at least 256")
    for name, value in (("ridge", ridge), ("gradient_steps", gradient_steps), ("seed", seed)):
        if not value >= 0:
            raise OutOfRange(f"{name}={value}: expected at least 0")
    return {
        "text": "sampled from the model" if texts is None else "given",
        "n_tokens": n_tokens if texts is None else None,
        "ridge": ridge, "gradient_steps": gradient_steps, "seed": seed,
    }  # fmt: skip


def _length(model: GPT) -> int:
    return min(LENGTH, model.config.n_ctx)


def _sampled(model: GPT, n_tokens: int, seed: int, pieces: Pieces, progress: bool) -> list[list[int]]:
    length = _length(model)
    n = max(2, n_tokens // length)
    batches = range(0, n, ROWS_AT_ONCE)
    for number in tqdm(range(len(batches)), desc="the model writes text to fit on", disable=not progress, leave=False):
        name = f"text-{number:03}"
        if name not in pieces:
            rows = min(ROWS_AT_ONCE, n - batches[number])
            pieces.put(name, {"tokens": sample_batch(model, rows, length, seed=seed + number)})
    return [row for number in range(len(batches)) for row in pieces.get(f"text-{number:03}")["tokens"].tolist()]


def _groups(model: GPT, places: Sequence[str]) -> Iterator[Sequence[str]]:
    """Places whose sums fit the memory set aside."""
    size = max(1, MOMENT_BYTES // (16 * model.config.d_model**2))
    return (places[start : start + size] for start in range(0, len(places), size))


def _fit(
    model: GPT, places: Sequence[str], windows: Sequence[list[int]], ridge: float, steps: int, seed: int, progress: bool
) -> dict[str, Tensor]:
    d_model = model.config.d_model
    gram = torch.zeros(len(places), d_model + 1, d_model + 1, dtype=torch.float64)
    cross = torch.zeros(len(places), d_model + 1, d_model, dtype=torch.float64)
    for x, y in _streams(model, places, windows, progress, "fitting the tuned lens"):
        for index in range(len(places)):
            with_one = torch.cat([x[index], torch.ones_like(x[index, :, :1])], dim=-1)  # the bias as one more input
            gram[index] += (with_one.T @ with_one).cpu()
            cross[index] += (with_one.T @ y).cpu()
    solved = [_solve(gram[index], cross[index], ridge) for index in range(len(places))]
    weights, biases = (torch.stack(of).float() for of in zip(*solved, strict=True))
    if steps:
        weights, biases = _descend(model, places, windows, weights, biases, steps, seed, progress)
    return {"weights": weights, "biases": biases}


def _solve(gram: Float[Tensor, "n n"], cross: Float[Tensor, "n d"], ridge: float) -> tuple[Tensor, Tensor]:
    """Ridge regression from sums of products, both sides centred: the bias is not penalised."""
    n, mean_x, mean_y = gram[-1, -1], gram[-1, :-1] / gram[-1, -1], cross[-1] / gram[-1, -1]
    covariance = gram[:-1, :-1] / n - torch.outer(mean_x, mean_x)
    penalty = (ridge * covariance.diagonal().mean()).clamp(min=1e-12) * torch.eye(len(mean_x), dtype=gram.dtype)
    weight = torch.linalg.solve(covariance + penalty, cross[:-1] / n - torch.outer(mean_x, mean_y))
    return weight, mean_y - mean_x @ weight


def _descend(
    model: GPT, places: Sequence[str], windows: Sequence[list[int]], weights: Tensor, biases: Tensor, steps: int,
    seed: int, progress: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Adam from the closed form on, on KL(final || lens) of a few positions a step."""
    weights, biases = (of.to(model.device).requires_grad_() for of in (weights, biases))
    optimiser = torch.optim.Adam([{"params": weights, "lr": 1e-4}, {"params": biases, "lr": 1e-3}])
    generator = torch.Generator().manual_seed(seed)
    for _ in tqdm(range(steps), desc="gradient steps", disable=not progress, leave=False):
        window = windows[int(torch.randint(len(windows), (), generator=generator))]
        x, y = next(_streams(model, places, [window], False, ""))
        rows = torch.randperm(len(y), generator=generator)[:64]
        final = _log_probs(model, y[rows])
        optimiser.zero_grad()
        for index in range(len(places)):
            lens = _log_probs(model, x[index, rows].to(weights) @ weights[index] + biases[index])
            kl_divergence(final, lens).mean().backward(inputs=[weights, biases])
        optimiser.step()
    return weights.detach().cpu(), biases.detach().cpu()


def _streams(
    model: GPT, places: Sequence[str], windows: Sequence[Sequence[int]], progress: bool, what: str
) -> Iterator[tuple[Float[Tensor, "place row d_model"], Float[Tensor, "row d_model"]]]:
    """The residual stream at the places and at the end, for all positions but 0, a few windows at a time."""
    last = stream_places(model.config)[-1]
    at_once = max(1, PASS_TOKENS // LENGTH)
    batches = [windows[start : start + at_once] for start in range(0, len(windows), at_once)]
    for batch in tqdm(batches, desc=what, disable=not progress, leave=False):
        recording = record(model, [list(window) for window in batch], sites=[*places, last], logits=False)
        real = torch.arange(int(recording.lengths.max())) < recording.lengths[:, None]
        real[:, 0] = False

        def rows(name: str, recording=recording, real=real) -> Float[Tensor, "row d_model"]:
            return at_least_float32(recording[name][real.to(model.device)])

        yield torch.stack([rows(place) for place in places]), rows(last)


@torch.no_grad()
def _tested(
    model: GPT, lens: TunedLens, fitted_on: Sequence[list[int]], held_out: Sequence[list[int]], progress: bool
) -> TunedLens:
    """The lens with its divergences on positions spread over the windows held out."""
    mean = _mean_distribution(model, fitted_on)
    per_window = max(1, HELD_OUT // len(held_out))
    sums, uniform, of_mean, n = torch.zeros(2, len(lens.places)), 0.0, 0.0, 0
    for window in tqdm(held_out, desc="testing the tuned lens", disable=not progress, leave=False):
        x, y = next(_streams(model, lens.places, [window], False, ""))
        rows = torch.linspace(0, len(y) - 1, min(per_window, len(y))).long()
        final = _log_probs(model, y[rows])
        for index, place in enumerate(lens.places):
            raw = x[index, rows]
            for kind, resid in enumerate((lens(place, raw), raw)):
                sums[kind, index] += float(kl_divergence(final, _log_probs(model, resid)).sum())
        uniform += float(uniform_divergence(final).sum())
        of_mean += float(kl_divergence(final, mean).sum())
        n += len(rows)
    return dataclasses.replace(
        lens,
        tuned_kl=sums[0] / n,
        raw_kl=sums[1] / n,
        uniform_kl=uniform / n,
        mean_kl=of_mean / n,
        manifest={**lens.manifest, "held_out_positions": n, "fitted_on_tokens": sum(map(len, fitted_on))},
    )


def _mean_distribution(model: GPT, windows: Sequence[list[int]]) -> Float[Tensor, " d_vocab_out"]:
    """Log of the mean probability of every token, over at most 32 windows."""
    total, n = torch.zeros(model.config.n_outputs, device=model.device), 0
    for window in windows[:: max(1, len(windows) // 32)]:
        probs = at_least_float32(model(torch.tensor([window], device=model.device)))[0, 1:].softmax(-1)
        total, n = total + probs.sum(0), n + len(probs)
    return (total / n).clamp(min=torch.finfo(torch.float32).tiny).log()


def _log_probs(model: GPT, resid: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_vocab_out"]:
    return log_probs_of(model.read_out(resid.to(model.dtype)[None]))[0]
