"""What everything shows of itself: short, safe, true, and the same way for all."""

import dataclasses
import inspect
import pkgutil
import re
import subprocess
import sys
import typing
from html.parser import HTMLParser
from importlib import import_module
from types import UnionType

import pandas
import plotly.graph_objects
import pytest
import torch

import probe
import probe.figures
import probe.methods
from probe.methods.attention import read_pattern
from probe.results import LongResult, Result
from probe.shown import FIGURES, PROMPTS, ROWS, TOKENS, Shown
from tests.shown import EVIL, evil_model, one_of_each
from tests.tiny import GPT2, tiny_model

ABSTRACT = {Result, LongResult}


def kinds(of: type = Shown) -> set[type]:
    """All classes that show themselves."""
    for module in pkgutil.iter_modules(probe.methods.__path__):
        import_module(f"probe.methods.{module.name}")
    return {kind for child in of.__subclasses__() for kind in {child, *kinds(child)}} - ABSTRACT


KINDS = {kind.__name__: kind for kind in kinds() if kind.__module__.startswith("probe.")}
WITH_TABLES = sorted(name for name, kind in KINDS.items() if hasattr(kind, "to_dataframe"))


class Parsed(HTMLParser):
    """Tags, attributes and text of a card; fails on a tag that is not closed."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: set[str] = set()
        self.styles: set[str] = set()
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.styles |= {f"{name}={value}" for name, value in attrs}
        self.open += [] if tag == "wbr" else [tag]
        self.rows += [[]] if tag == "tr" else []
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


@pytest.mark.parametrize("tokenizer", [True, False], ids=["with a tokenizer", "without"])
def test_it_is_short_and_safe_whatever_tokens_and_names_say(tokenizer):
    for name, one in one_of_each(tokenizer=tokenizer).items():
        plain, card = repr(one), one._repr_html_()
        assert plain.startswith(name) and "tensor(" not in plain and len(plain) < 1500, plain
        assert all(line.isprintable() for line in plain.split("\n")) and len(plain.split("\n")) <= 6, plain
        found = Parsed(card)
        assert found.tags <= {"div", "b", "span", "wbr", "table", "thead", "tbody", "tr", "th", "td", "code"}, name
        assert len(card) < 20_000 and found.text.startswith(name) and "<script" not in card, card
        looks = " ".join(found.styles)
        assert not re.search(r"https?:|url\(|#[0-9a-f]{3}|(?<!-)color:|background", looks), (name, looks)


def test_everything_that_shows_itself_is_tested():
    assert set(KINDS) == set(one_of_each())


def test_the_hostile_text_reaches_every_card_that_has_text():
    """Else the test above would pass on cards without any."""
    without = {
        name for name, one in one_of_each().items() if "&lt;script&gt;&amp;&quot;&#x27;⏎" not in one._repr_html_()
    }
    assert without == {
        "Agreement", "FactoredMatrix", "PassCount", "RecordingPlan", "Step", "SweepPlan", "WeightCount",
    } and EVIL.startswith("<script>&\"'\n")  # fmt: skip


def test_a_card_holds_the_beginning_of_the_table_and_its_length():
    for name in WITH_TABLES:
        one = one_of_each()[name]
        shown, table = one.first_rows(ROWS), one.to_dataframe()
        if name == "Recording":  # its card sums up the layers
            kinds_kept = table["name"].str.replace(r"blocks\.\d+", "", regex=True).nunique()
            assert shown.n_rows == len(shown.rows) == kinds_kept
            assert sum(row[-1] for row in shown.rows) == pytest.approx(table["megabytes"].sum())
            continue
        rows = one.to_dataframe(one.words).head(ROWS) if name == "WordVectors" else table.head(ROWS)
        assert shown.n_rows == len(table) and list(shown.columns) == list(table.columns), name
        for row, expected in zip(shown.rows, rows.itertuples(index=False), strict=True):
            assert list(map(comparable, row)) == list(map(comparable, expected)), name


def comparable(cell):
    """Whole numbers in a column with gaps are floats, in a part of it without gaps they are not."""
    if isinstance(cell, (str, list, tuple)):
        return cell
    return None if pandas.isna(cell) else float(cell)


def test_a_card_says_how_many_rows_and_columns_are_not_shown():
    card = Parsed(one_of_each()["LensReadout"]._repr_html_())
    table = one_of_each()["LensReadout"].to_dataframe()
    assert f"the first {ROWS} of {len(table):,} rows, 12 of {table.shape[1]} columns" in card.text
    assert card.rows[0] == list(table.columns[:12]) and len(card.rows) == 1 + ROWS


def drawn_by(function) -> set[str]:
    """The classes that the first argument of a figure function may have."""
    hints = typing.get_type_hints(function)
    hint = next(iter(hints.values())) if hints["return"] is plotly.graph_objects.Figure else None
    kinds = typing.get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return {kind.__name__ for kind in kinds if isinstance(kind, type) and issubclass(kind, Shown)}


def test_the_figures_named_are_those_that_draw_it():
    """But for pictures of sources, which take words as well."""
    found: dict[str, set[str]] = {}
    for module in pkgutil.iter_modules(probe.figures.__path__):
        loaded = import_module(f"probe.figures.{module.name}")
        for name, function in inspect.getmembers(loaded, inspect.isfunction):
            if function.__module__ == loaded.__name__ and not name.startswith("_") and not module.name.startswith("_"):
                for kind in drawn_by(function):
                    found.setdefault(kind, set()).add(f"{module.name}.{name}")
    assert found.pop("Direction") - {"word_space.two_directions"} == set(FIGURES["Direction"])
    assert found == {kind: set(names) for kind, names in FIGURES.items() if kind != "Direction"}


def test_the_code_that_is_shown_runs():
    shown = [line.split(": ", 1)[1] for line in repr(one_of_each()["LensReadout"]).split("\n")[2:]]
    assert shown[0] == ".to_dataframe()"
    names: dict[str, object] = {}
    exec(shown[1], names)
    assert {"lens_heatmap", "lens_lines"} < set(names)


def test_two_thousand_tokens_are_shown_without_making_their_table(monkeypatch):
    torch.manual_seed(0)
    model = probe.GPT(dataclasses.replace(GPT2, n_ctx=2048), tokenizer=tiny_model().tokenizer)
    rec = probe.record(model, torch.randint(1, 27, (1, 2000)), sites=["resid_post", "blocks.2.attn.hook_pattern"])
    scores = probe.score_text(model, torch.randint(1, 27, (1, 2000)))
    lens, pattern = probe.logit_lens(model, rec, sites=["resid_post"]), read_pattern(rec, 2, 1)
    monkeypatch.setattr(LongResult, "to_dataframe", lambda self: pytest.fail("the whole table was made"))
    for one in (rec, lens, pattern, scores):
        card = one._repr_html_()
        assert len(repr(one)) < 1500 and len(card) < 20_000
        assert f"and {2000 - TOKENS:,} more tokens" in Parsed(card).text
    assert "the first 5 of 2,001,000 rows" in pattern._repr_html_()


def test_many_prompts_and_many_interventions_are_counted_not_listed():
    changes = [probe.zero("z", layer=layer, heads=[head]) for layer in range(3) for head in range(4)]
    rec = probe.record(tiny_model("gpt2"), [[1, 2, 3]] * 30, sites="z", interventions=changes)
    assert f"and {30 - PROMPTS} more prompts" in rec._repr_html_()
    assert "zero z, layer 1, heads [0]: changed 90 vectors at blocks.1.attn.hook_z · and: 7 more" in repr(rec)


def test_a_recording_shows_tokens_sites_layers_and_size():
    rec = probe.record(tiny_model("gpt2"), "abc", sites=["resid_post", "q"], layers=[0, 2], dtype="float16")
    assert repr(rec) == (
        "Recording of tiny gpt2: 1 prompt of 3 tokens, 4 values (q, resid_post), 0.0 MB\n  table: .to_dataframe()"
    )
    card = Parsed(rec._repr_html_())
    assert card.rows[1:] == [
        ["q", "0,2", "batch pos head d_head", "1 × 3 × 4 × 8", "float16", "0.000384"],
        ["resid_post", "0,2", "batch pos d_model", "1 × 3 × 32", "float16", "0.000384"],
        ["logits", "", "batch pos d_vocab_out", "1 × 3 × 50", "float16", "0.0003"],
    ]
    assert "abc" in card.text and "3 sites" in card.text


def test_a_pass_from_a_residual_stream_says_that_it_has_no_tokens():
    model = tiny_model("gpt2")
    rec = probe.record(model, torch.randn(1, 3, 32), start_at_layer=1, sites="z")
    assert "2 values (z)" in repr(rec) and "began with a residual stream" in rec._repr_html_()


def test_what_was_interrupted_says_so():
    for name in ("AblationSweep", "PatchingMap", "PathPatching", "CircuitScore", "HeadSearch"):
        whole = one_of_each()[name]
        assert "interrupted" not in repr(whole) + whole._repr_html_(), name
        partial = dataclasses.replace(whole, complete=False)
        assert "Not complete" in repr(partial) and "Not complete" in partial._repr_html_(), name


def test_a_result_of_ones_own_shows_the_first_line_of_its_description():
    @dataclasses.dataclass(frozen=True, eq=False)
    class Mine(Result):
        """What I found.

        More of it.
        """

        values: torch.Tensor

        def to_dataframe(self):
            return pandas.DataFrame({"value": self.values.tolist()})

    found = Mine(torch.tensor([1.5, float("nan")]))
    assert repr(found) == "Mine: What I found.\n  table: .to_dataframe()"
    assert Parsed(found._repr_html_()).rows == [["value"], ["1.5"], ["–"]]


def test_head_scores_that_were_interrupted_say_so_too():
    whole = one_of_each()["HeadScores"]
    partial = dataclasses.replace(whole, manifest={**whole.manifest, "complete": False})
    assert "Not complete" in repr(partial) and "Not complete" not in repr(whole)


def test_one_prompt_has_no_intervals_and_is_shown_all_the_same():
    found = probe.ablation_sweep(evil_model(), [[1, 2, 3]], metric=probe.logit_difference(5, 7), value="zero",
                                 progress=False)  # fmt: skip
    assert "1 prompt:" in repr(found) and "the first 5 of 12 rows" in found._repr_html_()


def test_a_generation_shows_how_far_it_is():
    story = probe.generate(evil_model(), "ab", max_tokens=2, seed=0)
    assert "0 tokens after 2, not complete: iterate, or .run()" in repr(story) and "0 rows" in story._repr_html_()
    assert "2 tokens after 2, ended: max tokens" in repr(story.run())


def test_a_lens_that_never_reads_the_answer_first_says_nothing_of_where():
    model = tiny_model("gpt2")
    readout = probe.logit_lens(model, probe.record(model, "abcd"), sites=["resid_pre"])
    never = dataclasses.replace(readout, final_ranks=torch.full_like(readout.final_ranks, 9))
    assert "first there: –" in repr(never)


def test_showing_loads_neither_plotly_nor_pandas_unless_asked_for():
    code = """
import sys, torch, probe
model = probe.GPT(probe.GPTConfig(n_layers=1, d_model=4, n_heads=1, d_head=4, d_mlp=4, d_vocab=5, n_ctx=8))
rec = probe.record(model, torch.tensor([[1, 2, 3]]))
readout = probe.logit_lens(model, rec)
shown = [repr(rec), repr(readout), rec._repr_html_()]
print("pandas" in sys.modules, "plotly" in sys.modules)
readout._repr_html_()
print("pandas" in sys.modules, "plotly" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.stderr) == (["False", "False", "True", "False"], "")
