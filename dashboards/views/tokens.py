"""Tokens and model: what the model reads, through which shapes it goes, and where its weights are."""

import pandas
import streamlit as st
from components.controls import Selection
from components.show import shown

from probe.tokens import show_token
from probe.weight_count import GPT3, WeightCount, count_weights


def page(chosen: Selection) -> None:
    """The text as tokens, the pipeline, the weights of this model and of GPT-3."""
    st.header("What does the model read, and what is it made of? (tokens, weights)")
    st.subheader(f"{len(chosen.ids):,} tokens")
    st.caption("Text is cut into pieces that the model knows; each has a number. A middle dot is a space.")
    st.dataframe(_tokens(chosen), hide_index=True, height=min(420, 38 + 35 * len(chosen.ids)))
    st.subheader("From text to the next word")
    st.caption("What each stage hands on: one row for each token, or one for each head and token.")
    st.dataframe(_pipeline(chosen), hide_index=True)
    st.subheader(f"Where the weights of {shown(chosen.model.name)} are")
    _weights(count_weights(chosen.model.config))
    st.subheader("Where those of GPT-3 are")
    _weights(count_weights(GPT3, tied=False))
    st.caption(
        "Counted from the config alone, the same way for both; GPT-3’s unembedding beside its embedding, as if untied. "
        "The position table, biases and norms stand outside the total."
    )
    with st.expander("Copy as Python"):
        st.code(
            chosen.code("print(model.tokenizer.encode(prompt))", "print(probe.count_weights(model.config).weights)"),
            language="python",
        )


def _tokens(chosen: Selection) -> pandas.DataFrame:
    return pandas.DataFrame(
        {
            "position": range(len(chosen.ids)), "token": [show_token(text) for text in chosen.str_tokens],
            "id": chosen.ids, "bytes": [chosen.model.tokenizer.bytes_of(token).hex(" ") for token in chosen.ids],
        }
    )  # fmt: skip


def _pipeline(chosen: Selection) -> pandas.DataFrame:
    config, n = chosen.model.config, len(chosen.ids)
    stages = [
        ("tokens", f"({n},)", "numbers of the vocabulary"),
        ("embedding", f"({n}, {config.d_model})", f"each looked up among {config.d_vocab:,}"),
        (f"attention, {config.n_layers} times", f"({config.n_heads}, {n}, {n})",
         f"{config.n_heads} heads, each with a weight from every token to every earlier one"),
        (f"MLP, {config.n_layers} times", f"({n}, {config.d_mlp})", "questions asked of each vector"),
        ("last vector", f"({config.d_model},)", "the whole text, as seen from its end"),
        ("unembedding", f"({config.d_vocab},)", "a score for every token (logits)"),
        ("softmax", f"({config.d_vocab},)", "probabilities of the next token"),
    ]  # fmt: skip
    return pandas.DataFrame(stages, columns=["stage", "shape", "what it is"])


def _weights(count: WeightCount) -> None:
    rows = [
        {"kind": row.kind, "matrices": row.matrices, "shape": f"{row.shape[0]:,} × {row.shape[1]:,}",
         "weights": f"{row.weights:,}", "running total": f"{running:,}"}
        for row, running in zip(count.rows, count.running, strict=True)
    ]  # fmt: skip
    st.dataframe(pandas.DataFrame(rows), hide_index=True)
    st.markdown(f"In all **{count.weights:,}** in {count.matrices:,} matrices.")
    extras = ", ".join(f"{kind} {number:,}" for kind, number in count.extras.items() if number)
    st.caption(f"Beside them: {extras}." if extras else "Nothing beside them.")
