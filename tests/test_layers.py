"""Every module of probe stands in a layer and imports from lower ones only. Read from the source, nothing is run."""

import ast
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from sys import stdlib_module_names
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "probe"

LAYERS = (
    ("errors",),
    ("arguments", "digests", "json_files", "whole_files"),
    ("geometry", "statistics", "config", "devices", "tokenizer_files", "catalogue"),
    (
        "sites",
        "tokens",
        "tables",
        "store",
        "fetching",
        "rotary",
        "prompts",
        "named_weights",
        "tap_protocol",
        "linear",
    ),  # fmt: skip
    ("norms",),
    ("attention", "distributions"),
    ("gpt", "selection", "pieces", "shown"),
    ("results", "word_lists", "weight_count"),
    ("task_texts", "flop_count"),
    ("metrics", "interventions", "reduction", "provenance", "sampling", "weights"),
    ("request", "words"),
    ("tap", "plan"),
    ("recording",),
    ("generation", "contexts", "tasks", "transformer_lens_adapter"),
    ("chat",),
    ("methods",),
    ("figures",),
    ("terminal",),
    ("cli",),
)
"""From the lowest up: a file directly in probe/, or a folder. Modules of one layer do not import one another."""

UPWARD = {("gpt", "weights"): "GPT.save: users expect the method on the model"}
"""The agreed imports from a higher layer. They stand inside a function."""

PICKERS = {"weights/loading"}
"""Modules that import their siblings: load_model picks the format."""

ONLY_IN = {
    "plotly": {"figures"},
    "streamlit": set(),
    "transformers": {"weights", "transformer_lens_adapter"},
    "transformer_lens": {"weights", "transformer_lens_adapter"},
}
"""Third parties that few may import. The two heavy ones of the last rows are imported inside functions."""
INSIDE_FUNCTIONS = {"transformers", "transformer_lens"}

LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names}


class Import(NamedTuple):
    """One imported module: `probe.x.y`, `plotly.express`."""

    module: str
    line: int
    in_function: bool


def imports_of(source: str, module: str, *, is_package: bool = False) -> Iterator[Import]:
    """Every module that the source imports, wherever in it and by whatever spelling.

    `from probe import x` is `probe.x` where x is a module, and else `probe` itself.
    """
    tree = ast.parse(source)
    inside = {id(n) for f in ast.walk(tree) if isinstance(f, _FUNCTIONS) for n in ast.walk(f) if n is not f}
    for node in ast.walk(tree):
        for name in _named(node, module if is_package else module.rpartition(".")[0]):
            yield Import(name, node.lineno, id(node) in inside)


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def _named(node: ast.AST, package: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        source = ".".join([*parts, node.module] if node.module else parts)
        if source == "probe" or source in {f"probe.{folder}" for folder in LAYER_OF}:
            return [f"{source}.{a.name}" if _is_module(f"{source}.{a.name}") else source for a in node.names]
        return [source]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        function = getattr(node.func, "attr", getattr(node.func, "id", None))
        if function in ("import_module", "__import__") and isinstance(node.args[0].value, str):
            return [node.args[0].value]
    return []


def _is_module(name: str) -> bool:
    _, *rest = name.split(".")
    path = PACKAGE.joinpath(*rest)
    return path.with_suffix(".py").exists() or path.is_dir() or (len(rest) == 1 and rest[0] in LAYER_OF)


def violations(source: str, path: str) -> list[str]:
    """What a file of probe/ (by its path there: 'methods/lens.py') does against the rules, one sentence each."""
    *folders, file = path.removesuffix(".py").split("/")
    parts = [*folders] if file == "__init__" else [*folders, file]
    if not parts:
        return _beyond_re_exports(source, path)
    if parts[0] not in LAYER_OF:
        return [f"probe/{path}: place {parts[0]!r} in LAYERS (tests/test_layers.py) and in the README's tree"]
    found = []
    if file == "__init__":
        found += _beyond_re_exports(source, path)
    for imported in imports_of(source, ".".join(["probe", *parts]), is_package=file == "__init__"):
        wrong = _wrong(imported, parts, is_package=file == "__init__")
        found += [f"probe/{path}:{imported.line}: {wrong}"] if wrong else []
    return found


def _beyond_re_exports(source: str, path: str) -> list[str]:
    allowed = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.Expr)
    other = [node for node in ast.parse(source).body if not isinstance(node, allowed)]
    other = [node for node in other if getattr(node, "name", "") not in ("__getattr__", "__dir__")]  # lazy re-exports
    return [f"probe/{path}:{node.lineno}: an __init__ only re-exports" for node in other]


def _wrong(imported: Import, importer: list[str], *, is_package: bool) -> str | None:
    root, *target = imported.module.split(".")
    if root == "probe":
        return _wrong_inside(imported, importer, target, is_package=is_package)
    if root in ONLY_IN and importer[0] not in ONLY_IN[root]:
        return f"imports {root}, which only {' and '.join(sorted(ONLY_IN[root])) or 'dashboards'} may"
    if root in INSIDE_FUNCTIONS and not imported.in_function:
        return f"imports {root} at the top: import it in the function that uses it, so that probe loads without it"
    return None


def _wrong_inside(imported: Import, importer: list[str], target: list[str], *, is_package: bool) -> str | None:
    if not target:
        return "imports probe itself: import from the module that defines the name"
    here, there = importer[0], target[0]
    if there not in LAYER_OF:
        return f"imports {imported.module}, which stands in no layer"
    if here == there:
        picks = is_package or "/".join(importer) in PICKERS
        shared = picks or len(target) < 2 or target[1].startswith("_")
        private = len(importer) > 1 and importer[1].startswith("_")
        if len(target) < 2 and not is_package:
            return f"imports its own folder's __init__, probe.{there}"
        if private and not target[1].startswith("_"):
            return f"a private module imports {imported.module}, which may import it"
        return None if shared else f"imports its sibling {imported.module}: share a private _module instead"
    if (here, there) in UPWARD:
        return None if imported.in_function else f"imports {imported.module} outside a function"
    if LAYER_OF[there] >= LAYER_OF[here]:
        return f"imports {imported.module} of layer {LAYER_OF[there]} from layer {LAYER_OF[here]}"
    if len(target) > 1 and target[1].startswith("_"):
        return f"imports {imported.module}, private to its folder"
    return None


def test_every_module_imports_from_lower_layers_only():
    files = sorted(PACKAGE.rglob("*.py"))
    found = [v for file in files for v in violations(file.read_text("utf-8"), file.relative_to(PACKAGE).as_posix())]
    assert not found, "\n" + "\n".join(found)


def test_no_module_stands_in_two_layers():
    assert sum(len(names) for names in LAYERS) == len(LAYER_OF)


def test_every_third_party_that_probe_imports_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    optional = [name for part in ("words",) for name in project["optional-dependencies"][part]]
    declared = {_distribution(requirement) for requirement in [*project["dependencies"], *optional]}
    distributions = packages_distributions()
    for file in sorted(PACKAGE.rglob("*.py")):
        for imported in imports_of(file.read_text("utf-8"), "probe.x"):
            root = imported.module.split(".")[0]
            if root in stdlib_module_names or root in ("probe", "streamlit"):
                continue
            names = {_distribution(name) for name in distributions.get(root, [root])}
            assert names & declared, f"{file.name}:{imported.line} imports {root}: declare it in pyproject.toml"


def _distribution(requirement: str) -> str:
    for end in "[<>=!~; ":
        requirement = requirement.split(end)[0]
    return requirement.lower().replace("_", "-")


PLANTED = {
    "from a higher layer": ("gpt.py", "from probe.recording import record", "layer"),
    "from its own layer": ("sites.py", "from probe.tokens import Tokenizer", "layer"),
    "inside a function": ("sites.py", "def f():\n    import probe.gpt", "layer"),
    "of a folder in a higher layer": ("recording.py", "from probe.methods import lens", "layer"),
    "by name at run time": ("sites.py", "import importlib\nimportlib.import_module('probe.gpt')", "layer"),
    "relative": ("sites.py", "from .gpt import GPT", "layer"),
    "relative, of the package": ("methods/lens.py", "from .. import cli", "layer"),
    "of probe": ("methods/lens.py", "import probe", "probe itself"),
    "of a re-export": ("methods/lens.py", "from probe import record", "probe itself"),
    "of a sibling": ("methods/lens.py", "from probe.methods.attention import head_scores", "sibling"),
    "of a sibling, relative": ("methods/lens.py", "from .heads import head_scores", "sibling"),
    "of a sibling through the folder": ("methods/lens.py", "from probe.methods import score", "__init__"),
    "of another folder's private module": ("methods/lens.py", "from probe.weights._hf_config import x", "private"),
    "of a public module by a private one": ("methods/_rows.py", "from probe.methods.lens import x", "private"),
    "agreed, but at the top": ("gpt.py", "from probe.weights import save_model", "outside a function"),
    "transformers outside weights": ("recording.py", "def f():\n    import transformers.models", "transformers"),
    "transformers at the top": ("weights/_hf_config.py", "import transformers", "at the top"),
    "plotly outside figures": ("methods/lens.py", "import plotly.graph_objects as go", "plotly"),
    "streamlit": ("figures/lens.py", "import streamlit as st", "streamlit"),
    "of no layer": ("surprise.py", "", "place 'surprise'"),
    "of a module of no layer": ("cli.py", "from probe.surprise import x", "no layer"),
    "code in an __init__": ("methods/__init__.py", "def lens(): ...", "only re-exports"),
    "code in the root's __init__": ("__init__.py", "class GPT: ...", "only re-exports"),
}


@pytest.mark.parametrize(("path", "source", "said"), PLANTED.values(), ids=PLANTED.keys())
def test_a_planted_violation_is_caught(path, source, said):
    found = violations(source, path)
    assert len(found) == 1 and said in found[0], found


FINE = {
    "a lower layer": ("recording.py", "from probe.gpt import GPT"),
    "a lower module by name": ("gpt.py", "from probe import sites"),
    "a folder's private module": ("methods/lens.py", "from probe.methods._rows import rows"),
    "the same, relative": ("methods/lens.py", "from ._rows import rows"),
    "re-exports of a folder": ("methods/__init__.py", '"""All."""\nfrom probe.methods.lens import x\n__all__ = ["x"]'),
    "a sibling, by what picks one": ("weights/loading.py", "from probe.weights.gguf import load_gguf"),
    "re-exports of the root": ("__init__.py", "from probe.gpt import GPT"),
    "the agreed exception": ("gpt.py", "def save():\n    from probe.weights import save_model"),
    "transformers in a function of weights": ("weights/hub.py", "def f():\n    import transformers"),
    "plotly in figures": ("figures/lens.py", "import plotly.graph_objects as go"),
}


@pytest.mark.parametrize(("path", "source"), FINE.values(), ids=FINE.keys())
def test_what_the_rules_allow_passes(path, source):
    assert violations(source, path) == []
