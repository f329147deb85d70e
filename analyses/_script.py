"""What every analysis shares: its options, and how an answer is shown and kept.

Each script asks one question of one model. `--quick` asks it of fewer examples, to see that it runs; the answers in
README.md are from whole runs.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas
import torch

import probe
from probe.errors import BadPrompt
from probe.figures.page import PageSection, html_page
from probe.provenance import provenance
from probe.results import Result
from probe.shown import Summary
from probe.store import check_free, save_files
from probe.terminal import messages, output, show_section, show_words


@dataclass(frozen=True, eq=False)
class Answer(Result):
    """A question, what was found, and every number behind it."""

    question: str
    lead: Sequence[str]
    """What was measured, on what."""
    sections: Sequence[PageSection]
    table: pandas.DataFrame
    manifest: Mapping[str, Any]

    def summary(self) -> Summary:
        """The question; the answer is in the sections."""
        return Summary(self.question)

    def to_dataframe(self) -> pandas.DataFrame:
        """Every number, in long form."""
        return self.table

    def files(self) -> dict[str, str]:
        """Table, manifest, and a page: of each section the figures first."""
        return {**super().files(), "index.html": html_page(self.question, self.lead, self.sections)}


Say = Callable[[str], object]
"""Shows what is being done now."""


def main(question: str, ask: Callable[[probe.GPT, bool, Say], Answer]) -> None:
    """Read the options, ask, show the answer; a mistake of the user's is one line and exit code 2."""
    options = _options(question)
    try:
        answer = _ask(options, ask)
    except probe.ProbeError as error:
        messages().print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    console = output()
    console.rule(question, characters="━")
    show_words(console, answer.lead)
    for section in answer.sections:
        show_section(console, section)
    if options.out is not None:
        show_words(console, [f"With figures, table and manifest: {options.out}"])


def origin(model: probe.GPT, **arguments: Any) -> dict[str, Any]:
    """The manifest of an analysis: the model, and what the script was asked."""
    return {**provenance(model), "method": Path(sys.argv[0]).name, "method_arguments": arguments}


def document_start(model: probe.GPT) -> bool:
    """Whether texts are to begin with the model's document separator: where its files name one."""
    if model.tokenizer is None:
        raise BadPrompt(f"{model.name} has no tokenizer, and the analyses read text")
    return model.tokenizer.document_start_id is not None


def start_in_words(model: probe.GPT) -> str:
    """For the lead of an answer."""
    return "each after the model's document start" if document_start(model) else "without a document start"


def untrained_twin(model: probe.GPT) -> probe.GPT:
    """A model of the same shape with random weights, drawn with a fixed seed."""
    twin = probe.GPT(model.config, model.tokenizer, name="untrained").to(model.device)
    twin.draw_weights(torch.Generator(model.device).manual_seed(0))
    return twin


def _options(question: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("--quick", action="store_true", help="fewer examples, to see that it runs")
    parser.add_argument("--model", help="a known name, a folder or a .gguf file; without: the default model")
    parser.add_argument("--out", type=Path, help="new folder for a page with figures, the table and the manifest")
    return parser.parse_args()


def _ask(options: argparse.Namespace, ask: Callable[[probe.GPT, bool, Say], Answer]) -> Answer:
    if options.out is not None:
        check_free(options.out)
    model = probe.load_model(options.model)
    with messages().status("starting") as status:
        answer = ask(model, options.quick, status.update)
    answer = dataclasses.replace(answer, manifest={**answer.manifest, "quick": options.quick})
    if options.out is not None:
        save_files(options.out, answer.files())
    return answer
