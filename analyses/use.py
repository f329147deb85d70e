"""Does the model use the directions of plurality and gender? Added, taken out, beside random ones, layer by layer."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas
import torch
from _script import Answer, Say, document_start, main, origin, start_in_words

import probe
from probe.figures.page import PageSection, Table
from probe.figures.steering import dose_curve_lines, erasure_bars
from probe.methods.directions import Direction
from probe.methods.steering import USED, DoseCurve, ErasureTest
from probe.word_lists import WordPairs

QUESTION = "Does the model use it?"
N_PROMPTS = 12
QUICK_PROMPTS = 4
N_RANDOM = 20
DOSES = (-0.4, -0.2, -0.1, 0.1, 0.2, 0.4)


@dataclass(frozen=True)
class Case:
    """One contrast and how the model can say it."""

    name: str
    pairs: str
    target: str
    against: str
    template: str


CASES = (
    Case("verb agreement", "plurality", " are", " is", "The {}"),
    Case("pronouns", "gender", " she", " he", "The {} said that"),
)


def ask(model: probe.GPT, quick: bool, say: Say) -> Answer:
    """For each contrast: every few layers one gap added and the direction taken out, then one dose curve."""
    n_layers = model.config.n_layers
    layers = [n_layers // 2] if quick else sorted({0, *range(n_layers // 5, n_layers, n_layers // 5), n_layers - 1})
    sections, tables = [], []
    for case in CASES:
        section, table = _case(model, case, layers, quick, say)
        sections += section
        tables.append(table)
    return Answer(
        question=QUESTION,
        lead=[
            f"{model.name}, {start_in_words(model)}. A direction is fitted on the fit half of a word list, in the "
            "residual stream at the word. Prompts hold held-out words. One gap is the distance between the two groups "
            f"of words along the direction; {N_RANDOM} random directions of the same length stand beside it. "
            f"{USED[0].upper()}{USED[1:]}."
        ],
        sections=sections,
        table=pandas.concat(tables),
        manifest=origin(model, n_prompts=N_PROMPTS, n_random=N_RANDOM, layers=layers, seed=0),
    )


def _case(
    model: probe.GPT, case: Case, layers: Sequence[int], quick: bool, say: Say
) -> tuple[list[PageSection], pandas.DataFrame]:
    pairs = probe.load_pairs(case.pairs)
    held_out = pairs.held_out[: QUICK_PROMPTS if quick else N_PROMPTS]
    texts = [(case.template.format(up), case.template.format(down)) for up, down in held_out]
    rows = []
    for layer in layers:
        say(f"{case.name}: layer {layer}")
        rows.append(_layer(model, case, pairs, layer, texts))
    table = pandas.DataFrame(rows)
    middle = layers[len(layers) // 2]
    say(f"{case.name}: doses at layer {middle}")
    direction = _direction(model, pairs, middle)
    curve = _doses(model, case, direction, [down for _, down in texts], DOSES)
    removed = _taken_out(model, case, direction, texts, layers="from here on")
    leace = _taken_out(model, case, direction, texts, erasure="leace")
    sections = [_layers_section(case, table, len(texts)), _dose_section(case, curve, removed, leace)]
    tests = (("from here on", removed), ("leace", leace))
    more = [{"case": case.name, "layer": middle, "erasure": name, "left": test.left.value, "p": test.p,
             "damage": float(test.damage.mean())} for name, test in tests]  # fmt: skip
    return sections, pandas.concat([table, curve.to_dataframe().assign(case=case.name), pandas.DataFrame(more)])


def _layer(
    model: probe.GPT, case: Case, pairs: WordPairs, layer: int, texts: Sequence[tuple[str, str]]
) -> dict[str, float | str]:
    """One gap added to the negative prompts, and the direction taken out of both."""
    direction = _direction(model, pairs, layer)
    negative = [down for _, down in texts]
    gap = gap_in_norms(model, direction, negative, layer)
    curve = _doses(model, case, direction, negative, [gap])
    dose = curve.doses[0]
    effect, others = curve.effect(dose), curve.random_effects[:, 0].mean(-1).abs()
    test = _taken_out(model, case, direction, texts)
    left = test.left
    return {
        "case": case.name, "layer": layer, "gap": gap, "clean": float(curve.clean.mean()), "effect": effect.value,
        "low": effect.low, "high": effect.high, "random_most": float(others.max()), "p": curve.p(dose),
        "damage": float(curve.damage.mean()), "used": str(curve.used), "clean_difference": float(test.clean.mean()),
        "left": left.value, "left_low": left.low, "left_high": left.high,
        "random_left": float(test.random_erased.mean() / test.clean.mean()),
        "erasure_damage": float(test.damage.mean()),
    }  # fmt: skip


def gap_in_norms(model: probe.GPT, direction: Direction, prompts: Sequence[str], layer: int) -> float:
    """One gap as a share of the mean norm of the residual stream after a layer, position 0 left out."""
    rec = probe.record(
        model, list(prompts), sites=["resid_post"], layers=[layer], stop_after_layer=layer,
        document_start=document_start(model),
    )  # fmt: skip
    return direction.gap / float(rec["resid_post", layer][:, 1:].norm(dim=-1).nanmean())


def _direction(model: probe.GPT, pairs: WordPairs, layer: int) -> Direction:
    source = probe.words_in_context(model, layer, pairs.templates, document_start=document_start(model))
    return probe.fit_direction(source, pairs)


def _doses(
    model: probe.GPT, case: Case, direction: Direction, prompts: Sequence[str], doses: Sequence[float]
) -> DoseCurve:
    return probe.dose_curve(
        model, direction, prompts, target=case.target, against=case.against, doses=doses, n_random=N_RANDOM,
        document_start=document_start(model), progress=False,
    )  # fmt: skip


def _taken_out(
    model: probe.GPT, case: Case, direction: Direction, texts: Sequence[tuple[str, str]], **how: str
) -> ErasureTest:
    return probe.erasure_test(
        model, direction, texts, target=case.target, against=case.against, n_random=N_RANDOM,
        positions="all", document_start=document_start(model), progress=False, **how,
    )  # fmt: skip


def _layers_section(case: Case, table: pandas.DataFrame, n: int) -> PageSection:
    rows = [
        (
            f"{row.layer}", f"{row.gap:.2f}", f"{row.effect:+.2f} ({row.low:+.2f} to {row.high:+.2f})",
            f"{row.random_most:.2f}", f"{row.p:.3f}", f"{row.damage:.2f}", f"{row.left:.0%}", f"{row.random_left:.0%}",
            f"{row.erasure_damage:.3f}",
        )
        for row in table.itertuples()
    ]  # fmt: skip
    first = table.iloc[0]
    words = (
        f"“{case.template}” with {n} held-out words. The model’s{case.target} -{case.against} is "
        f"{first.clean:+.2f} logits after the negative words, and {first.clean_difference:.2f} higher after the "
        "positive ones. Added: one gap (in norms of the stream) at the last position of the negative prompts. Taken "
        "out: at all positions but the first; what is left of the difference. Damage: KL on unrelated texts, nats per "
        "token."
    )
    columns = ("layer", "gap", "adding it moves by", "random, at most", "p", "damage", "left when taken out",
               "random", "damage ")  # fmt: skip
    return PageSection(f"{case.name.capitalize()}, layer by layer", "sufficiency and necessity", [words],
                       table=Table(columns, rows))  # fmt: skip


def _dose_section(case: Case, curve: DoseCurve, removed: ErasureTest, leace: ErasureTest) -> PageSection:
    rows = []
    for index, dose in enumerate(curve.doses):
        found, damage = curve.effect(dose), float(curve.damage[index].mean())
        most = float(curve.random_effects[:, index].mean(-1).abs().max())
        rows.append((f"{dose:+g}", f"{found.value:+.2f}", f"{most:.2f}", f"{damage:.2f}"))
    words = (
        f"At {curve.site}, in norms of the stream; one gap is {curve.gap:.2f}. Taken out there and after every later "
        f"layer, {removed.left.value:.0%} of the difference is left (damage {float(removed.damage.mean()):.3f}); by "
        f"LEACE, there only, {leace.left.value:.0%} ({float(leace.damage.mean()):.3f})."
    )
    return PageSection(
        f"{case.name.capitalize()}, dose by dose", "dose curve", [words],
        figures=[lambda theme: dose_curve_lines(curve, theme=theme), lambda theme: erasure_bars(removed, theme=theme)],
        table=Table(("dose", "moves by", "random, at most", "damage"), rows),
    )  # fmt: skip


if __name__ == "__main__":
    torch.manual_seed(0)
    main(QUESTION, ask)
