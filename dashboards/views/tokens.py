"""Tokens and model: what the model reads, through which shapes it goes, where its weights are and what they compute."""

import pandas
import streamlit as st
from components.controls import Selection
from components.show import Tabled, keep, shown

from probe.flop_count import PassCount, count_pass
from probe.provenance import provenance
from probe.tokens import show_token
from probe.weight_count import GPT3, WeightCount, count_weights

COLOURS = (
    "As in 3Blue1Brown’s introduction, weights are blue or red and the data that flow through them grey: here, the "
    "line under a heading is blue where it is about weights, grey where it is about data."
)

SHOWN = ["kind", "matrices", "shape", "weights", "running_total", "flops", "share"]


def page(chosen: Selection) -> None:
    """The text as tokens, the pipeline, the weights and operations of this model and of GPT-3."""
    n = len(chosen.ids)
    st.header("What does the model read, and what is it made of? (tokens, weights)")
    st.subheader(f"{n:,} tokens", divider="gray", help=COLOURS)
    st.caption("Text is cut into pieces that the model knows; each has a number. A middle dot is a space.")
    st.dataframe(_tokens(chosen), hide_index=True, height=min(420, 38 + 35 * n))
    st.subheader("From text to the next word", divider="gray", help=COLOURS)
    st.caption("What each stage hands on: one row for each token, or one for each head and token.")
    st.dataframe(
        _pipeline(chosen), hide_index=True, placeholder="",
        column_config={
            "page": st.column_config.LinkColumn(
                "on this text", display_text="look at it", help="Opens the page that shows this stage."
            )
        },
    )  # fmt: skip
    st.subheader(f"Where the weights of {shown(chosen.model.name)} are", divider="blue", help=COLOURS)
    counts = count_weights(chosen.model.config), count_pass(chosen.model.config, n)
    _counted(*counts)
    st.subheader("Where those of GPT-3 are", divider="blue", help=COLOURS)
    _counted(count_weights(GPT3, tied=False), count_pass(GPT3, n))
    keep(
        Tabled(
            _count(*counts), {**provenance(chosen.model), "method": "count_pass", "method_arguments": {"n_tokens": n}}
        ),
        chosen.code(
            "print(model.tokenizer.encode(prompt))",
            f"print(probe.count_pass(model.config, {n}).to_dataframe().to_string())",
            "print(probe.count_weights(model.config).weights)",
        ),
        name="tokens", heading="What is the model made of?",
        caption="Counted from the config alone, the same way for both; GPT-3’s unembedding beside its embedding, as if "
        "untied. The position table, biases and norms stand outside the total of weights. Operations (FLOPs) are "
        "additions, multiplications, divisions, roots and exponentials of numbers, for a pass over as many tokens as "
        "the text has, with a prediction after each; attention is counted for every token with every other, as "
        "products of matrices take them, masked or not.",
    )  # fmt: skip


def _tokens(chosen: Selection) -> pandas.DataFrame:
    return pandas.DataFrame(
        {
            "position": range(len(chosen.ids)), "token": [show_token(text) for text in chosen.str_tokens],
            "id": chosen.ids, "bytes": [chosen.model.tokenizer.bytes_of(token).hex(" ") for token in chosen.ids],
        }
    )  # fmt: skip


def _pipeline(chosen: Selection) -> pandas.DataFrame:
    config, n = chosen.model.config, len(chosen.ids)
    read, said = "what the model reads (embedding)", "what the model says (unembedding)"
    stages = [
        ("tokens", None, f"({n},)", "numbers of the vocabulary"),
        ("embedding", chosen.link("directions", space=read, show="Neighbours"), f"({n}, {config.d_model})",
         f"each looked up among {config.d_vocab:,}"),
        (f"attention, {config.n_layers} times", chosen.link("heads"), f"({config.n_heads}, {n}, {n})",
         f"{config.n_heads} heads, each with a weight from every token to every earlier one"),
        *([(f"MLP, {config.n_layers} times", chosen.link("ablation", units="MLPs"), f"({n}, {config.d_mlp})",
            "questions asked of each vector")] if config.d_mlp else []),
        ("last vector", chosen.link("lens"), f"({config.d_model},)", "the whole text, as seen from its end"),
        ("unembedding", chosen.link("directions", space=said, show="Neighbours"), f"({config.n_outputs},)",
         "a score for every token (logits)"),
        ("softmax", chosen.link("generation"), f"({config.n_outputs},)", "probabilities of the next token"),
    ]  # fmt: skip
    return pandas.DataFrame(stages, columns=["stage", "page", "shape", "what it is"])


def _count(weights: WeightCount, operations: PassCount) -> pandas.DataFrame:
    """One row per kind of operation, beside the weights that it uses."""
    of_weights = weights.to_dataframe()[["kind", "matrices", "rows", "columns", "weights", "running_total"]]
    return operations.to_dataframe().merge(of_weights, how="left", on="kind")


def _counted(weights: WeightCount, operations: PassCount) -> None:
    """The table, and its sums in words."""
    table = _count(weights, operations)
    whole = st.column_config.NumberColumn(format="localized")
    rows, columns = (table[name].map("{:,}".format, na_action="ignore") for name in ("rows", "columns"))
    st.dataframe(
        table.assign(shape=rows + " × " + columns)[SHOWN], hide_index=True, height=38 + 35 * len(table), placeholder="",
        column_config={
            "weights": whole, "matrices": whole,
            "running_total": st.column_config.NumberColumn("running total", format="localized"),
            "flops": st.column_config.NumberColumn("operations (FLOPs)", format="localized"),
            "share": st.column_config.NumberColumn("share of operations", format="percent"),
        },
    )  # fmt: skip
    st.markdown(f"In all **{weights.weights:,}** in {weights.matrices:,} matrices.")
    st.markdown(
        f"A pass over {operations.n_tokens:,} tokens takes **{operations.flops:,}** operations (FLOPs), "
        f"**{operations.products / operations.flops:.2%}** of them in products of matrices."
    )
    extras = ", ".join(f"{kind} {number:,}" for kind, number in weights.extras.items() if number)
    st.caption(f"Beside the weights in matrices: {extras}." if extras else "All weights stand in matrices.")
