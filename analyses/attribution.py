"""Which MLPs hold the capitals? And what do some neurons ask (input direction) and answer (output direction)?"""

from collections.abc import Sequence

import pandas
import torch
from _script import Answer, Say, document_start, main, origin, start_in_words
from jaxtyping import Float
from torch import Tensor

import probe
from probe.errors import BadPrompt
from probe.figures.attribution import attribution_bars
from probe.figures.page import PageSection, Table
from probe.methods.attribution import LogitAttribution
from probe.tokens import show_token

QUESTION = "Which MLPs hold the capitals?"
TEMPLATE = "The capital of {} is"
CAPITALS = {
    " France": " Paris", " Japan": " Tokyo", " Italy": " Rome", " Germany": " Berlin", " Russia": " Moscow",
    " Spain": " Madrid", " China": " Beijing", " England": " London", " Ireland": " Dublin", " Greece": " Athens",
    " Austria": " Vienna", " Portugal": " Lisbon", " Poland": " Warsaw", " Hungary": " Budapest",
    " Sweden": " Stockholm", " Norway": " Oslo", " Egypt": " Cairo", " Iran": " Tehran", " Iraq": " Baghdad",
    " Cuba": " Havana",
    " Kenya": " Nairobi", " Thailand": " Bangkok", " Peru": " Lima", " Denmark": " Copenhagen", " Turkey": " Ankara",
    " Belgium": " Brussels", " Finland": " Helsinki", " Canada": " Ottawa", " Chile": " Santiago", " Ukraine": " Kiev",
}  # fmt: skip
"""Used where country and capital are one token each, so that every prompt has its country at the same position."""
QUICK = 4
TOP_NEURONS = 8
OTHER_TEXTS = [
    "The cat sat on the mat and looked at the birds in the garden",
    "In 1848 many governments of Europe were shaken by revolutions",
    "To make bread you need flour, water, yeast and a little salt",
    "She opened the letter slowly, because she knew who had written it",
    "The derivative of a product is not the product of the derivatives",
    "Tickets for the train from Vienna to Budapest are sold at the station",
]
"""Where else do the neurons answer?"""


def ask(model: probe.GPT, quick: bool, say: Say) -> Answer:
    """Ablate every MLP at the country and at the end; then take the prediction apart down to neurons."""
    start = document_start(model)
    pairs = one_token_pairs(model, CAPITALS)
    pairs = dict(list(pairs.items())[:QUICK]) if quick else pairs
    if len(pairs) < 2:
        raise BadPrompt(f"{model.name}: fewer than two of the countries and capitals are one token each")
    prompts = [TEMPLATE.format(country.strip()) for country in pairs]
    answers = list(pairs.values())
    say("the clean pass")
    sites = probe.attribution_sites(model, neurons=True)
    clean = probe.record(model, prompts, sites=sites, positions=-1, document_start=start)
    margins = margin(clean.logits[:, 0], _ids(model, answers))
    n_right = int((clean.logits[:, 0].argmax(-1).cpu() == torch.tensor(_ids(model, answers))).sum())
    ablated, ablation_table = _ablations(model, prompts, answers, margins, start, say)
    say("taking the prediction apart")
    rivals = answers[1:] + answers[:1]
    found = probe.direct_logit_attribution(model, clean, token=answers, against=rivals, neurons=TOP_NEURONS)
    return Answer(
        question=QUESTION,
        lead=[
            f"{model.name}, {len(prompts)} prompts, {start_in_words(model)}: “{TEMPLATE.format('France')}” and the "
            f"like; {n_right} of {len(prompts)} capitals are the likeliest next token. The margin is the right "
            f"capital's logit minus the mean of the other {len(prompts) - 1} capitals': {_with_error(margins)} logits "
            "(standard error over prompts)."
        ],
        sections=[ablated, _parts(found), _neurons(model, clean, found, pairs, start)],
        table=pandas.concat([ablation_table, found.to_dataframe().assign(about="direct")]),
        manifest=origin(model, template=TEMPLATE, capitals=pairs),
    )


def one_token_pairs(model: probe.GPT, capitals: dict[str, str]) -> dict[str, str]:
    """Those whose country and capital are one token each."""
    return {country: capital for country, capital in capitals.items() if _one_token(model, country, capital)}


def _one_token(model: probe.GPT, *texts: str) -> bool:
    try:
        return bool(_ids(model, texts))
    except BadPrompt:
        return False


def _ids(model: probe.GPT, texts: Sequence[str]) -> list[int]:
    assert model.tokenizer is not None, "checked by document_start"
    return [model.tokenizer.token_id(text) for text in texts]


def margin(logits: Float[Tensor, "prompt d_vocab_out"], answers: list[int]) -> Float[Tensor, " prompt"]:
    """Each prompt's own answer above the mean of the other prompts' answers, in logits."""
    of_answers = logits[:, answers]
    own = of_answers.diagonal()
    return own - (of_answers.sum(-1) - own) / (len(answers) - 1)


def _ablations(
    model: probe.GPT, prompts: list[str], answers: list[str], clean: Tensor, start: bool, say: Say
) -> tuple[PageSection, pandas.DataFrame]:
    """Each MLP's output replaced by its mean over the prompts: what it says of this country is gone."""
    mean = probe.record(
        model, prompts, sites=["mlp_out"], reduce={"mlp_out": "mean per position"}, document_start=start, logits=False
    )
    last = mean["mlp_out", 0].shape[0] - 1
    country = last - 1
    rows = []
    for layer in range(model.config.n_layers):
        say(f"without the MLP of layer {layer}")
        for where, position in (("country", country), ("last", last)):
            without = probe.replace("mlp_out", mean["mlp_out", layer][position], layer=layer, positions=[position])
            run = probe.record(
                model, prompts, sites=[], positions=-1, document_start=start, interventions=[without]
            )  # fmt: skip
            drop = clean - margin(run.logits[:, 0], _ids(model, answers))
            rows += [
                {"layer": layer, "where": where, "prompt": prompt, "drop_logits": value}
                for prompt, value in enumerate(drop.tolist())
            ]
    table = pandas.DataFrame(rows)
    drops = {key: torch.tensor(group["drop_logits"].to_numpy()) for key, group in table.groupby(["layer", "where"])}
    lines = [
        (f"layer {layer}", _with_error(drops[layer, "country"]), _with_error(drops[layer, "last"]))
        for layer in range(model.config.n_layers)
    ]
    best = {where: _largest(drops, where) for where in ("country", "last")}
    words = (
        "The output of one layer's MLP at one position is replaced by its mean over all these prompts, so that what it "
        "says of this very country is lost. How much of the margin goes with it, in logits, with standard error."
    )
    remark = f"Most is lost at the country: {best['country']}. At the last position: {best['last']}."
    section = PageSection(
        "Without one MLP", "mean ablation", [words],
        table=Table(("MLP of", "at the country", "at the last position"), lines), remarks=[remark],
    )  # fmt: skip
    return section, table.assign(about="ablation")


def _largest(drops: dict, where: str, n: int = 4) -> str:
    layers = sorted({layer for layer, _ in drops}, key=lambda layer: -float(drops[layer, where].mean()))
    return ", ".join(f"layer {layer} ({_with_error(drops[layer, where])})" for layer in layers[:n])


def _with_error(values: Tensor) -> str:
    return f"{float(values.mean()):+.2f} ± {float(values.std()) / len(values) ** 0.5:.2f}"


def _parts(found: LogitAttribution) -> PageSection:
    mlps = sum(float(value) for part, value in zip(found.parts, found.mean, strict=True) if part.kind == "mlp")
    heads = sum(float(value) for part, value in zip(found.parts, found.mean, strict=True) if part.kind == "head")
    errors = dict(zip((part.name for part in found.parts), found.standard_error.tolist(), strict=True))
    words = (
        "The logit of the right capital minus that of the next country's, as a sum of what each part wrote: means over "
        f"the prompts, with standard error. All heads together: {heads:+.2f}; all MLPs: {mlps:+.2f} logits."
    )
    rows = [(name, f"{value:+.2f} ± {errors[name]:.2f}") for name, value in found.top(12)]
    return PageSection(
        "Who wrote the capital", "direct logit attribution", [words],
        figures=[lambda theme: attribution_bars(found, theme=theme)], table=Table(("part", "adds"), rows),
    )  # fmt: skip


def _neurons(
    model: probe.GPT, clean: probe.Recording, found: LogitAttribution, pairs: dict[str, str], start: bool
) -> PageSection:
    """The neurons that add most over all prompts, as question and answer."""
    countries, answers = list(pairs), list(pairs.values())
    other = probe.record(model, OTHER_TEXTS, sites=["post"], document_start=start, logits=False)
    rows = []
    for layer, neuron, n_prompts, mean in _busiest(found):
        here = clean["post", layer][:, 0, neuron]
        loudest = countries[int(here.abs().argmax())].strip()
        elsewhere = other["post", layer][:, int(start) :, neuron].nan_to_num()
        text, position = divmod(int(elsewhere.abs().argmax()), elsewhere.shape[1])
        token = other.str_tokens[text][position + int(start)] if other.str_tokens else ""
        rows.append((
            f"L{layer}N{neuron}", f"{mean:+.2f} in {n_prompts}", _asks(model, layer, neuron),
            *_answers(model, layer, neuron, float(here.mean()), answers),
            f"{loudest} ({float(here.abs().max()):.1f})",
            f"{show_token(token)} ({float(elsewhere.abs().max()):.1f})",
        ))  # fmt: skip
    words = (
        f"The neurons that add most over all prompts where they are among the {TOP_NEURONS} largest of their MLP. "
        "Adds: mean over those prompts, in logits. Asks: tokens whose embeddings lie most along its input direction "
        "(of a gated MLP, the gate's). Answers: tokens that its output direction raises most, in the sign that it has "
        "here, and which of the capitals. Loudest: for which country, and on which token of six other texts."
    )
    columns = ("neuron", "adds", "asks", "answers", "capital", "loudest", "elsewhere")
    return PageSection("Neurons as question and answer", "neurons", [words], table=Table(columns, rows))


def _busiest(found: LogitAttribution, n: int = 8) -> list[tuple[int, int, int, float]]:
    """(layer, neuron, prompts, mean contribution) of those whose contributions add up to most."""
    table = found.to_dataframe()
    of_neurons = table[table["kind"] == "neuron"].groupby(["layer", "neuron"])["contribution_logits"]
    best = of_neurons.sum().abs().nlargest(n).index
    counts, means = of_neurons.count(), of_neurons.mean()
    return [
        (int(layer), int(neuron), int(counts[layer, neuron]), float(means[layer, neuron])) for layer, neuron in best
    ]


def _asks(model: probe.GPT, layer: int, neuron: int) -> str:
    weights = model.W_gate if model.config.gated_mlp else model.W_in
    direction = weights[layer][:, neuron].detach() * model.blocks[layer].ln2.gain.detach()
    return _tokens(model, torch.nn.functional.normalize(model.W_E.detach(), dim=-1) @ direction)


def _answers(model: probe.GPT, layer: int, neuron: int, sign: float, capitals: list[str]) -> tuple[str, str]:
    written = model.W_out[layer][neuron].detach()
    if model.config.post_norms:
        written = written * model.blocks[layer].ln2_post.gain.detach()
    direction = written * model.ln_final.gain.detach()
    raised = (direction @ model.W_U.detach()) * (1 if sign >= 0 else -1)
    return _tokens(model, raised), capitals[int(raised[_ids(model, capitals)].argmax())].strip()


def _tokens(model: probe.GPT, scores: Float[Tensor, " d_vocab_out"], n: int = 4) -> str:
    assert model.tokenizer is not None, "checked by document_start"
    return " ".join(map(show_token, model.tokenizer.str_tokens(scores.topk(n).indices.tolist())))


if __name__ == "__main__":
    main(QUESTION, ask)
