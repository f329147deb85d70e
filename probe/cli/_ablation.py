"""The commands that change values and measure what that does: `probe ablate`, `probe patch`."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from probe.cli._options import (
    AsJson,
    DocumentStart,
    Model,
    ResultFolder,
    check_free_folder,
    load,
    read_names,
    read_numbers,
    show_result,
)

Targets = Annotated[
    list[str],
    typer.Option("--target", help="The right next token, such as ' Mary'; once for all prompts, or once for each."),
]
Others = Annotated[
    list[str] | None,
    typer.Option(
        "--against", help="The token that it is compared with, likewise. Without: the log-probability of the target."
    ),
]
Layers = Annotated[str | None, typer.Option("--layers", help="Of these layers only, as in '3' or '0-4,9'.")]
Top = Annotated[int, typer.Option("--top", min=1, help="How many rows to show.")]
Memory = Annotated[int, typer.Option("--memory", min=1, help="MB for recordings and batches.")]
Resume = Annotated[
    Path | None,
    typer.Option("--folder", help="Keep finished batches there: the same call goes on after an interruption."),
]


def ablate(
    prompts: Annotated[list[str], typer.Argument(help="One prompt, or better several of a kind.")],
    target: Targets,
    against: Others = None,
    model: Model = None,
    units: Annotated[
        str, typer.Option("--units", help="heads, MLPs, layers, or neurons (of the one layer in --layers).")
    ] = "heads",
    value: Annotated[
        str | None,
        typer.Option(
            "--value",
            show_default=False,
            help="What stands in their place: zero, mean, 'mean per position' or resample (of the other prompts). "
            "Without: zero if there is one prompt, else mean.",
        ),
    ] = None,
    positions: Annotated[
        str, typer.Option("--positions", help="Where: 'after the first', 'all', or numbers as in '0,5' or '-1'.")
    ] = "after the first",
    layers: Layers = None,
    top: Top = 15,
    memory: Memory = 1000,
    folder: Resume = None,
    seed: Annotated[int, typer.Option("--seed", help="Of resampling and tests.")] = 0,
    document_start: DocumentStart = None,
    out: ResultFolder = None,
    as_json: AsJson = False,
) -> None:
    """Take out each head (MLP, layer, neuron) in turn: which ones does the answer need?"""
    from probe.cli._ablation_readings import ablation_section
    from probe.cli._readings import save_reading, starts_document
    from probe.methods.ablation import ablation_sweep, plan_ablation
    from probe.terminal import messages

    check_free_folder(out)
    where = {"all": None, "after the first": positions}
    arguments: dict[str, Any] = {
        "metric": read_metric(target, against),
        "units": units,
        "value": value or ("zero" if len(prompts) == 1 else "mean"),
        "positions": where[positions] if positions in where else read_numbers("positions", positions),
        "layers": read_numbers("layers", layers),
        "memory": memory * 1_000_000,
        "seed": seed,
    }
    with messages().status("starting") as status:
        loaded, _ = load(model, status)
        arguments["document_start"] = starts_document(loaded, document_start)
        status.stop()
        if not sys.stderr.isatty():  # in a terminal the sweep says it itself, above its bar
            messages().print(f"taking out {units}: {plan_ablation(loaded, prompts, **arguments)}", markup=False)
        sweep = ablation_sweep(loaded, prompts, **arguments, folder=folder)
        section = ablation_section(sweep, top, chosen_for=None if value else len(prompts))
        if out is not None:
            save_reading(out, sweep, f"{loaded.name}: {section.heading}", prompts, section)
    show_result(sweep, section, out=out, as_json=as_json)


def patch(
    clean: Annotated[str, typer.Argument(help="The prompt whose next token is the target.")],
    corrupted: Annotated[str, typer.Argument(help="The same, as long in tokens, but for what matters.")],
    target: Targets,
    against: Others = None,
    model: Model = None,
    sites: Annotated[
        str, typer.Option("--sites", help="What is patched: resid_pre, resid_mid, resid_post, attn_out, mlp_out, z, "
                                          "q, k, v, pattern; several as in 'attn_out,mlp_out'.")
    ] = "resid_pre",
    by: Annotated[
        str | None,
        typer.Option(
            "--by",
            show_default=False,
            help="A place is a layer, position, head, or 'head and position'. Without: head where the site has heads, "
            "else position.",
        ),
    ] = None,
    direction: Annotated[
        str,
        typer.Option("--direction", help="denoise: clean values into the corrupted run. noise: the other way round."),
    ] = "denoise",
    layers: Layers = None,
    positions: Annotated[
        str | None, typer.Option("--positions", help="Only these positions, as in '0,5' or '-1' for the last.")
    ] = None,
    top: Top = 15,
    memory: Memory = 1000,
    folder: Resume = None,
    document_start: DocumentStart = None,
    out: ResultFolder = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Put values of one prompt's run into another's, place by place: where is the answer carried?"""
    from probe.cli._ablation_readings import patching_section
    from probe.cli._readings import save_reading, starts_document
    from probe.methods.patching import activation_patching
    from probe.terminal import messages

    check_free_folder(out)
    arguments: dict[str, Any] = {
        "sites": read_names("sites", sites),
        "metric": read_metric(target, against),
        "by": by,
        "direction": direction,
        "layers": read_numbers("layers", layers),
        "positions": read_numbers("positions", positions),
        "memory": memory * 1_000_000,
    }
    with messages().status("starting") as status:
        loaded, _ = load(model, status)
        arguments["document_start"] = starts_document(loaded, document_start)
        status.stop()
        found = activation_patching(loaded, [clean], [corrupted], **arguments, folder=folder)
        section = patching_section(loaded, found, top)
        if out is not None:
            save_reading(out, found, f"{loaded.name}: {section.heading}", [clean, corrupted], section)
    show_result(found, section, out=out, as_json=as_json)


def read_metric(target: list[str], against: list[str] | None) -> Any:
    """Tokens given once are those of every prompt."""
    from probe.metrics import log_probability, logit_difference

    right = target[0] if len(target) == 1 else target
    if not against:
        return log_probability(right)
    return logit_difference(right, against[0] if len(against) == 1 else against)
