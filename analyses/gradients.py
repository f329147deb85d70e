"""How well do gradients predict the exact effect of a patch? Every estimate is checked, not a sample."""

import pandas
import torch
from _script import Answer, Say, main, origin, start_in_words

import probe
from probe.figures.page import PageSection, Table

QUESTION = "How well do gradients predict the exact effect?"
N_PROMPTS, QUICK = 50, 4
SITES = {"z": "every head", "attn_out": "the attention of every layer", "mlp_out": "every MLP"}
K = 10
TASKS = ("indirect object", "agreement")


def ask(model: probe.GPT, quick: bool, say: Say) -> Answer:
    """Attribution patching with all places verified, site by site."""
    n = QUICK if quick else N_PROMPTS
    found = {}
    for name in TASKS:
        task = probe.load_task(model, name, n)
        for site in SITES:
            say(f"{name}: {SITES[site]}")
            found[name, site] = probe.attribution_patching(
                model, task, sites=site, by="head" if site == "z" else "layer",
                verify_largest=model.config.n_layers * (model.config.n_heads if site == "z" else 1), verify_random=0,
                progress=False,
            )  # fmt: skip
    return Answer(
        question=QUESTION,
        lead=[
            f"{model.name}, {n} pairs of prompts of each task, {start_in_words(model)}. Values of the clean run "
            "are put into the corrupted one (denoising), at all positions at once, one place at a time: "
            "estimated by one gradient for each pair, and patched exactly, everywhere. Effects on the logit "
            "difference, means over pairs, in logits."
        ],
        sections=[_correlations(found), *(_largest(name, found[name, "z"]) for name in TASKS)],
        table=pandas.concat([one.to_dataframe().assign(task=name, at=site) for (name, site), one in found.items()]),
        manifest=origin(model, tasks=TASKS, n=n, sites=list(SITES), direction="denoise", seed=0),
    )


def _means(one: probe.AttributionPatching) -> tuple[torch.Tensor, torch.Tensor]:
    """Estimated and exact, of the same places."""
    return one.estimated[one.verified].mean(1), one.exact.mean(1)


def _correlations(found: dict[tuple[str, str], probe.AttributionPatching]) -> PageSection:
    rows = []
    for (name, site), one in found.items():
        estimated, exact = _means(one)
        largest = [set(values.abs().argsort(descending=True)[:K].tolist()) for values in (estimated, exact)]
        of_largest = exact.abs().argsort(descending=True)[:K]
        signs = int((estimated[of_largest] * exact[of_largest] > 0).sum())
        ratio = float((estimated * exact).sum() / (exact * exact).sum())
        rows.append((
            name, SITES[site], str(len(exact)), f"{one.correlation('largest'):.2f}", f"{ratio:.2f}",
            f"{len(largest[0] & largest[1])} of {K}", f"{signs} of {K}",
            f"{float((estimated - exact).abs().max()):.2f} of {float(exact.abs().max()):.2f}",
        ))  # fmt: skip
    words = (
        "Correlation over all places; slope (estimate for one logit of exact effect; least squares through "
        f"zero); how many of the {K} largest estimates are among the {K} largest exact effects; signs that are "
        "right among these; the largest error beside the largest exact effect, in logits."
    )
    columns = ("task", "places", "n", "correlation", "slope", "shared", "signs", "largest error")
    return PageSection("Estimated against exact", "attribution patching", [words], table=Table(columns, rows))


def _largest(name: str, one: probe.AttributionPatching) -> PageSection:
    estimated, exact = _means(one)
    order = exact.abs().argsort(descending=True, stable=True)[:K].tolist()
    cells = [one.cells[place] for place in one.verified.tolist()]
    rows = [
        (f"{cells[place].layer}.{cells[place].head}", f"{float(exact[place]):+.2f}", f"{float(estimated[place]):+.2f}")
        for place in order
    ]
    return PageSection(
        f"Heads of the task “{name}”", "largest exact effects", [], table=Table(("head", "exact", "estimated"), rows)
    )


if __name__ == "__main__":
    main(QUESTION, ask)
