"""The commands that read one prompt: `probe lens`, `probe attribute`, `probe heads`."""

from typing import Annotated

import typer

from probe.cli._options import AsJson, DocumentStart, Model, ResultFolder, check_free_folder, load, show_result


def lens(
    text: Annotated[str, typer.Argument(help="The prompt.")],
    model: Model = None,
    watch: Annotated[
        list[str] | None,
        typer.Option("--watch", help="A token to follow, such as ' Paris'; may be repeated. Without: each first one."),
    ] = None,
    position: Annotated[int, typer.Option("--position", help="After which token; -1 is the last.")] = -1,
    tuned: Annotated[
        bool, typer.Option("--tuned", help="Through a tuned lens; fitted first if the cache has none (minutes).")
    ] = False,
    document_start: DocumentStart = None,
    out: ResultFolder = None,
    as_json: AsJson = False,
) -> None:
    """Read the residual stream after every step as a prediction of the next token."""
    from probe.cli._readings import lens_section, save_reading, starts_document
    from probe.methods.lens import logit_lens
    from probe.methods.tuned_lens import load_tuned_lens
    from probe.recording import record as record_values
    from probe.sites import residual_sites
    from probe.terminal import messages

    check_free_folder(out)
    with messages().status("starting") as status:
        loaded, _ = load(model, status)
        start = starts_document(loaded, document_start)
        status.update("running the prompt")
        sites = residual_sites(loaded.config)
        recording = record_values(loaded, text, sites=sites, document_start=start, logits=False)
        raw = logit_lens(loaded, recording, watch=watch)
        raw.entry(0, position)  # raises before a long fit
        status.stop()
        translator = load_tuned_lens(loaded) if tuned else None
        status.start()
        status.update("reading every place")
        readout = raw if translator is None else logit_lens(loaded, recording, watch=watch, tuned=translator)
        section = lens_section(readout, position, None if translator is None else translator.verdict())
        if out is not None:
            save_reading(out, readout, f"{loaded.name}: {section.heading}", [text], section)
    show_result(readout, section, out=out, as_json=as_json)


def attribute(
    text: Annotated[str, typer.Argument(help="The prompt.")],
    model: Model = None,
    token: Annotated[
        str | None, typer.Option("--token", help="Whose logit, such as ' Paris'. Without: the model's first choice.")
    ] = None,
    against: Annotated[
        str | None, typer.Option("--against", help="Take how far it is above this token's instead.")
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="How many parts to show.")] = 20,
    document_start: DocumentStart = None,
    out: ResultFolder = None,
    as_json: AsJson = False,
) -> None:
    """Take the next token's logit apart: what embedding, heads and MLPs wrote towards it."""
    from probe.cli._readings import attribution_section, save_reading, starts_document
    from probe.methods.attribution import attribution_sites, direct_logit_attribution
    from probe.recording import record as record_values
    from probe.terminal import messages

    check_free_folder(out)
    with messages().status("starting") as status:
        loaded, _ = load(model, status)
        start = starts_document(loaded, document_start)
        status.update("running the prompt")
        recording = record_values(loaded, text, sites=attribution_sites(loaded), positions=-1, document_start=start)
        found = direct_logit_attribution(loaded, recording, token=token, against=against)
        section = attribution_section(found, top)
        if out is not None:
            save_reading(out, found, f"{loaded.name}: {section.heading}", [text], section)
    show_result(found, section, out=out, as_json=as_json)


def heads(
    text: Annotated[str | None, typer.Argument(help="A text to score heads on, beside random tokens.")] = None,
    model: Model = None,
    top: Annotated[int, typer.Option("--top", min=1, help="How many heads to show for each score.")] = 5,
    n_random: Annotated[
        int, typer.Option("--n-random", help="Prompts of random tokens, each repeated once; 0: the text only.")
    ] = 8,
    seed: Annotated[int, typer.Option("--seed", help="Of the random tokens.")] = 0,
    document_start: DocumentStart = None,
    out: ResultFolder = None,
    as_json: AsJson = False,
) -> None:
    """Score every attention head: previous token, duplicate token, induction, first token, entropy, distance."""
    from probe.cli._readings import heads_section, save_reading, starts_document
    from probe.methods.heads import head_scores
    from probe.terminal import messages

    check_free_folder(out)
    with messages().status("starting") as status:
        loaded, _ = load(model, status)
        start = starts_document(loaded, document_start)
        status.update("scoring every head")
        scores = head_scores(loaded, text, document_start=start, n_random=n_random, seed=seed, progress=False)
        section = heads_section(scores, top)
        if out is not None:
            save_reading(out, scores, f"{loaded.name}: {section.heading}", [] if text is None else [text], section)
    show_result(scores, section, out=out, as_json=as_json)
