"""The examples of the visual introduction, tried on a model.

They stand in the analyses, which are scripts and no package: their folder is put on the path here.
"""

import sys

import pandas
import streamlit as st

import probe
from probe.cli._dashboard import find_folder
from state.models import load_model

sys.path.append(str(find_folder("analyses")))
import introduction
from _introduction import Chapter, Subject, projections


@st.cache_resource(max_entries=1, show_spinner="Reading word vectors")
def introduction_subject(name: str) -> Subject:
    """What the examples of the visual introduction are tried on."""
    return introduction.read_subject(load_model(name), introduction.QUICK_TOKENS)


@st.cache_resource(max_entries=16, show_spinner="Trying the examples of this chapter")
def introduction_chapter(name: str, chapter: str) -> Chapter:
    """One chapter of the visual introduction, with this model's numbers."""
    return introduction.CHAPTERS[chapter](introduction_subject(name))


@st.cache_resource(max_entries=2, show_spinner=False)
def introduction_numbers(name: str) -> pandas.DataFrame:
    """How far number words lie along cats - cat, in each space."""
    subject = introduction_subject(name)
    words = list(probe.load_words("numbers")[:10])
    spaces = {"this GPT’s embedding": subject.own, "GloVe": subject.words}
    return pandas.DataFrame(
        {"word": words, **{space: projections(source, words).tolist() for space, source in spaces.items()}}
    )
