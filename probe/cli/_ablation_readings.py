"""What `probe ablate` and `probe patch` show of what they measure."""

from typing import Any

from probe.figures.ablation import ablation_bars, ablation_map, total_against_direct
from probe.figures.page import PageSection, Table
from probe.figures.patching import patching_map, shares
from probe.gpt import GPT
from probe.methods.ablation import AblationSweep
from probe.methods.patching import PatchingMap
from probe.prompts import str_tokens
from probe.statistics import CONFIDENCE, MARKED, SIGNIFICANT
from probe.tokens import show_token

MOST_NAMED = 20
_WHERE = {"after the first": "every position but the first", "all": "every position"}


def ablation_section(sweep: AblationSweep, top: int, *, chosen_for: int | None) -> PageSection:
    """The units with the largest effects. `chosen_for`: how many prompts decided what stands in their place, if any."""
    n, one = len(sweep.clean), sweep.kind.removesuffix("s")
    several = n > 1
    table = sweep.to_dataframe()
    order = sweep.effects.mean(1).abs().argsort(descending=True, stable=True)[:top].tolist()
    rows = []
    for row in table.iloc[order].to_dict("records"):
        interval = (f"{row['low']:+.3f} to {row['high']:+.3f}",) if several else ()
        tested = (f"{row['p_grid']:.3f}", "yes" if row["marked"] else "") if several else ()
        rows.append(
            (
                row["unit"],
                f"{row['effect']:+.3f}",
                *interval,
                f"{row['direct']:+.3f}",
                f"{row['indirect']:+.3f}",
                *tested,
            )
        )
    name = one if sweep.kind != "heads" else "layer.head"
    columns = (
        (name, "effect", f"{CONFIDENCE:.0%}", "direct", "indirect", "p (grid)", "marked")
        if several
        else (name, "effect", "direct", "indirect")
    )
    why = ""
    if chosen_for is not None:
        why = (
            " (one prompt has no others to take a mean of)" if chosen_for == 1 else " (the default for several prompts)"
        )
    words = [
        f"Each of {len(sweep.units)} {sweep.kind} was taken out by itself, at "
        f"{_WHERE.get(sweep.positions, f'positions {sweep.positions}')}, and the rest of the model run again. In its "
        f"place: {sweep.replaced_by}{why}. Measured is {sweep.metric}, {float(sweep.clean.mean()):+.3f} {sweep.unit} "
        "with nothing taken out" + (f", a mean over {n} prompts." if several else "."),
        f"The effect is how far that moves. Below zero, the answer is worse without it, so it used this {one}; above "
        "zero, it is better. Direct is what a part's own words to the last step are worth; indirect is the rest: "
        "later parts that used what it wrote or, where it opposes the direct effect, made up for its loss.",
    ]
    return PageSection(
        f"Which {sweep.kind} does {sweep.metric} need?",
        "ablation",
        words,
        figures=[
            *([lambda theme: ablation_map(sweep, theme=theme)] if sweep.kind in ("heads", "MLPs", "layers") else []),
            lambda theme: ablation_bars(sweep, n=top, theme=theme),
            lambda theme: total_against_direct(sweep, theme=theme),
        ],
        table=Table(columns, rows),
        remarks=_trust(sweep),
    )


def _trust(sweep: AblationSweep) -> list[str]:
    """How far the numbers reach."""
    lines = [] if sweep.complete else ["Interrupted: the prompts that were not reached are left out."]
    if len(sweep.clean) == 1:
        return [*lines, "One prompt has no interval: which of these effects another prompt would share is open. Give "
                "several prompts of a kind."]  # fmt: skip
    found = sweep.evidence
    names = [sweep.units[place].name for place in found.mean.abs().argsort(descending=True) if found.marked[place]]
    return [
        *lines,
        f"{len(names)} of {len(sweep.units)} are {MARKED}. The smallest here: {found.smallest_effect:.3g} {sweep.unit}."
        + (
            f" Marked: {', '.join(names[:MOST_NAMED])}{' and more' if len(names) > MOST_NAMED else ''}."
            if names
            else ""
        ),
        *(
            [f"{len(sweep.clean)} prompts cannot give a p below {found.smallest_p:.2g}: none can be marked."]
            if found.p_grid is not None and found.smallest_p > SIGNIFICANT
            else []
        ),
    ]


def patching_section(model: GPT, found: PatchingMap, top: int) -> PageSection:
    """The places that move the metric most, of one pair of prompts."""
    into = {"denoise": ("clean", "corrupted"), "noise": ("corrupted", "clean")}[found.direction]
    sites: list[Any] = list(dict.fromkeys(cell.site for cell in found.cells))
    share, effect = shares(found), found.effects.mean(1)
    rows = [
        (_place(found, number), f"{share[number]:+.3f}", f"{float(effect[number]):+.3f}")
        for number in effect.abs().argsort(descending=True, stable=True)[:top].tolist()
    ]
    pair = (str_tokens(model.tokenizer, found.manifest[name][0]) for name in ("prompts", "corrupted"))
    differ = [
        f"[{place}] “{show_token(one)}” and “{show_token(other)}”"
        for place, (one, other) in enumerate(zip(*pair, strict=True))
        if one != other
    ]
    whole = 1 if found.direction == "denoise" else -1
    words = [
        f"The prompts differ at {', '.join(differ[:4])}{'' if len(differ) <= 4 else ' and more'}. {found.metric} is "
        f"{float(found.clean.mean()):+.3f} {found.unit} on the clean one and {float(found.corrupted.mean()):+.3f} on "
        f"the corrupted one. At one place after the other a value of the {into[0]} run was put into the {into[1]} run, "
        "and the rest run again.",
        f"The share is how much of the difference that moves: 0 changes nothing, {whole:+d} makes the {into[1]} run "
        f"answer as the {into[0]} one. "
        + (
            "A place with a large share carries what the answer needs, all that tells the prompts apart."
            if found.direction == "denoise"
            else "The answer needs a place with a large share: nothing else made up for it."
        ),
    ]
    is_map = not any(cell.head is not None and cell.position is not None for cell in found.cells)
    return PageSection(
        f"Where is {found.metric} carried?",
        f"activation patching, {'denoising' if found.direction == 'denoise' else 'noising'}",
        words,
        figures=[lambda theme, site=site: patching_map(found, site=site, theme=theme) for site in sites]
        if is_map
        else [],
        table=Table(("place", "share", f"effect ({found.unit})"), rows),
        remarks=[
            "One pair of prompts has no interval: whether other prompts agree is open. In Python "
            "probe.activation_patching takes many pairs.",
        ],
    )


def _place(found: PatchingMap, number: int) -> str:
    site, layer, head, position = found.cells[number]
    name = f"{site} {layer}" + ("" if head is None else f", head {head}")
    return name if position is None else f"{name}, “{show_token(found.tokens[position])}” [{position}]"
