"""The commands about directions: `probe directions`, `probe steer`."""

from typing import Annotated, Any

import typer

from probe.cli._options import AsJson, DocumentStart, Model, ResultFolder, check_free_folder, load, show_result
from probe.errors import BadPrompt, OutOfRange

Contrast = Annotated[
    str, typer.Argument(help="A list of word pairs: plurality, gender, tense, size, sentiment, capital, nationality.")
]
MOST_PROMPTS = 12
"""Prompts that `probe steer` makes of a list."""


def directions(
    contrast: Contrast = "plurality",
    pair: Annotated[
        list[str] | None, typer.Option("--pair", help="Your own pairs instead, as in cats/cat; may be repeated.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--source",
            "-s",
            show_default=False,
            help="glove-6b-50d (the default), a word2vec or GloVe file, 'embed' or 'unembed' of a GPT, or a layer, as "
            "in 12.",
        ),
    ] = None,
    model: Model = None,
    profile: Annotated[bool, typer.Option("--profile", help="Every layer of the GPT instead of one place.")] = False,
    project: Annotated[
        str | None, typer.Option("--project", help="Also show where these words stand, as in one,two,three.")
    ] = None,
    estimator: Annotated[
        str, typer.Option("--estimator", help="mean difference, pca, logistic or lda.")
    ] = "mean difference",
    seed: Annotated[int, typer.Option("--seed", help="Of permutations, resampling and random directions.")] = 0,
    out: ResultFolder = None,
    as_json: AsJson = False,
) -> None:
    """Fit the direction between two groups of words, and say with what evidence it is more than noise."""
    from probe.cli._direction_readings import evaluation_section, profile_section, projection_lines
    from probe.cli._readings import save_reading
    from probe.methods.directions import evaluate_direction, fit_direction
    from probe.methods.layer_profile import layer_profile
    from probe.terminal import messages

    check_free_folder(out)
    if pair is not None and contrast != "plurality":
        raise BadPrompt(f"{contrast} and --pair: give one of the two, a list by name or pairs of your own")
    if profile and (source is not None or project is not None):
        given = "--source" if source is not None else "--project"
        raise BadPrompt(f"--profile looks at every layer, so {given} has no place in it: leave one of them out")
    pairs = read_pairs(contrast, pair)
    options: dict[str, Any] = {"estimator": estimator, "on_missing": "drop"}
    with messages().status("starting") as status:
        if profile:
            loaded, _ = load(model, status)
            status.stop()
            templates = pairs.templates if pair is None else ("The next word is {}",)
            words = pairs if pair is None else pairs.fit
            result: Any = layer_profile(loaded, words, templates=templates, seed=seed, **options)
            section = profile_section(result)
        else:
            place, pairs = open_source(source, model, pairs, status)
            status.stop()
            direction = fit_direction(place, pairs if pair is None else pairs.fit, **options)
            result = evaluate_direction(direction, pairs if pair is None else None, on_missing="drop", seed=seed)
            section = evaluation_section(result, projection_lines(direction, project))
        if out is not None:
            save_reading(out, result, section.heading, [], section)
    show_result(result, section, out=out, as_json=as_json)


USUAL = {"plurality": (" are", " is", "The {}"), "gender": (" she", " he", "The {} said that")}
"""Target, token to compare with and prompt, of word lists for which these are the custom."""


def steer(
    contrast: Contrast = "plurality",
    model: Model = None,
    layer: Annotated[
        int | None,
        typer.Option(
            "--layer",
            "-l",
            help="Where the direction is found and added; left out: 12, or the middle of a smaller model.",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            help="The token that it should make likelier; left out, with --against: as is usual "
            "for plurality (' are', ' is') and gender (' she', ' he').",
        ),
    ] = None,
    against: Annotated[str | None, typer.Option("--against", help="The token to compare with.")] = None,
    template: Annotated[
        str | None,
        typer.Option(
            "--template",
            help="Prompts: this text with held-out words at {}; left out: 'The {}', for gender 'The {} said that'.",
        ),
    ] = None,
    n_random: Annotated[int, typer.Option("--n-random", help="Random directions to compare with.")] = 20,
    seed: Annotated[int, typer.Option("--seed", help="Of the random directions.")] = 0,
    document_start: DocumentStart = None,
    out: ResultFolder = None,
    as_json: AsJson = False,
) -> None:
    """Add a direction to the residual stream, dose by dose, beside random directions: does the model use it?

    The prompts hold the held-out negative words (singular nouns, for plurality), so that there is room to move.
    """
    from probe.cli._direction_readings import dose_section
    from probe.cli._readings import save_reading, starts_document
    from probe.contexts import words_in_context
    from probe.methods.directions import fit_direction
    from probe.methods.steering import dose_curve
    from probe.terminal import messages

    check_free_folder(out)
    pairs = read_pairs(contrast, None)
    usual = USUAL.get(contrast)
    if usual is None and (target is None or against is None):
        raise BadPrompt(
            f"{contrast}: which token should this direction make likelier, and than which? Give --target and --against"
        )
    target, against, template = (
        own if given is None else given
        for given, own in zip((target, against, template), usual or ("", "", "The {}"), strict=True)
    )
    if template.count("{}") != 1:
        raise BadPrompt(f"--template {template!r}: expected a text with {{}} once, where the word goes")
    prompts = [template.format(negative) for _, negative in pairs.held_out[:MOST_PROMPTS]]
    with messages().status("starting") as status:
        loaded, _ = load(model, status)
        start = starts_document(loaded, document_start)
        status.stop()
        layer = min(12, loaded.config.n_layers // 2) if layer is None else layer
        source = words_in_context(loaded, layer, pairs.templates, document_start=start)
        direction = fit_direction(source, pairs)
        curve = dose_curve(
            loaded, direction, prompts, target=target, against=against, n_random=n_random, seed=seed,
            document_start=start,
        )  # fmt: skip
        section = dose_section(curve)
        if out is not None:
            save_reading(out, curve, section.heading, prompts, section)
    show_result(curve, section, out=out, as_json=as_json)


def read_pairs(contrast: str, own: list[str] | None) -> Any:
    """A list by name, or the pairs given as 'cats/cat'."""
    from probe.word_lists import WordPairs, load_pairs

    if own is None:
        return load_pairs(contrast)
    pairs = []
    for text in own:
        positive, slash, negative = text.partition("/")
        if not slash or not positive.strip() or not negative.strip():
            raise OutOfRange(f"--pair {text!r}: expected two words with / between them, as in cats/cat")
        pairs.append((positive.strip(), negative.strip()))
    return WordPairs("your pairs", "first", "second", "given on the command line", tuple(pairs), (), ())


def open_source(source: str | None, model: str | None, pairs: Any, status: Any) -> tuple[Any, Any]:
    """Where the words get their vectors, and the pairs as it spells them."""
    from probe.contexts import words_in_context
    from probe.words import load_word_vectors, word_vectors

    if source is not None and source.lstrip("-").isdigit():
        loaded, _ = load(model, status)
        return words_in_context(loaded, int(source), pairs.templates or ("The next word is {}",)), pairs
    if source in ("embed", "unembed"):
        loaded, _ = load(model, status)
        return word_vectors(loaded, "embed" if source == "embed" else "unembed"), pairs
    if model is not None:
        raise OutOfRange(f"--model {model}: say where in it, with --source embed, unembed or a layer, or --profile")
    status.stop()
    words = load_word_vectors(source)
    has_case = any(word in words for pair in pairs.all for word in pair if word != word.lower())
    return words, pairs if has_case else pairs.lower()
