"""Nonsense in any argument of any public function is an error of probe's own, never one that escaped from inside."""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

import probe
from probe.arguments import checked
from probe.errors import OutOfRange, ProbeError, WrongType
from probe.words import from_arrays
from tests.tiny import LLAMA, WordTokenizer, tiny_model

pytestmark = [
    pytest.mark.usefixtures("as_users_run_it"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),  # gensim leaves a file open
]

WITH_GRAPH = {"attribution_patching", "loss"}
"""Public functions whose purpose is a gradient."""

NONSENSE: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "NaN": lambda: math.nan,
    "infinity": lambda: math.inf,
    "-1": lambda: -1,
    "huge": lambda: 10**30,
    "2.5": lambda: 2.5,
    "complex": lambda: 1j,
    "no text": lambda: "",
    "text": lambda: "x",
    "odd Unicode": lambda: "\ud800\u202e\x00𓀀",
    "bytes": lambda: b"x",
    "True": lambda: True,
    "empty list": list,
    "empty dict": dict,
    "dict": lambda: {"a": 1},
    "list of None": lambda: [None],
    "list in list": lambda: [[]],
    "list of NaN": lambda: [math.nan],
    "short tuples": lambda: [("a",)],
    "object": object,
    "iterator": lambda: iter([object()]),
    "class": lambda: int,
    "numpy integer": lambda: np.int64(1),
    "numpy float": lambda: np.float32(0.5),
    "numpy text": lambda: np.array(["a"]),
    "0-d integer": lambda: torch.tensor(1),
    "0-d truth": lambda: torch.tensor(True),
    "empty tensor": lambda: torch.zeros(0),
    "tensor of NaN": lambda: torch.full((3,), math.nan),
    "complex tensor": lambda: torch.ones(2) * 1j,
    "model": lambda: MODEL,
}


class Tokenizer(WordTokenizer):
    """Knows any text: what it has no token for becomes "x"."""

    bos = eos = bos_id = eos_id = None
    special_ids = frozenset()
    chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [self.texts.index(f" {word}") if f" {word}" in self.texts else 46 for word in text.split()]

    def decode(self, ids) -> str:
        return "".join(self.str_tokens(ids))


MODEL = tiny_model("llama")
MODEL.tokenizer = Tokenizer()
BARE = tiny_model("llama")
BARE.tokenizer = None
WORDS = WordTokenizer.words
PAIRS = [(WORDS[i], WORDS[i + 8]) for i in range(8)]
CLEAN, CORRUPTED = [[1, 2, 3, 4], [5, 6, 7, 8]], [[1, 9, 3, 4], [5, 10, 7, 8]]
SWEPT = {"metric": probe.logit_difference(1, 2), "progress": False}


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> dict[str, dict[str, Any]]:
    """Arguments with which each public function runs; those with a default that suits are left out."""
    words = from_arrays("mine", list(WORDS), torch.randn(45, 8, generator=torch.Generator().manual_seed(0)))
    rec = probe.record(MODEL, CLEAN)
    other = probe.record(MODEL, CLEAN, interventions=probe.zero("z", layer=1))
    direction = probe.fit_direction(words, PAIRS)
    in_context = probe.fit_direction(probe.words_in_context(MODEL, 1, ["{}"]), PAIRS)
    sweep = probe.ablation_sweep(MODEL, CLEAN, value="zero", **SWEPT)
    folder = tmp_path_factory.mktemp("good")
    probe.save_model(BARE, folder / "model")
    (folder / "vectors.txt").write_text("a 1 2\nb 3 4\n")
    of_model = {"model": MODEL}
    of_words = {"words": words}
    of_head = {"recording": rec, "layer": 1, "head": 1}
    swept = {"model": MODEL, "prompts": CLEAN, "value": "zero", **SWEPT}
    patched = {"model": MODEL, "clean": CLEAN, "corrupted": CORRUPTED, "layers": [0], **SWEPT}
    steered = {"model": MODEL, "direction": in_context, "target": 1, "against": 2, "n_random": 10,
               "unrelated": ["ak al am"], "progress": False}  # fmt: skip
    lens = {"model": MODEL, "n_tokens": 256, "progress": False}
    return {
        "GPT": {"config": LLAMA},
        "GPTConfig": {**{size: 2 for size in "n_layers d_model n_heads d_head d_mlp d_vocab n_ctx".split()}},
        "RotaryScaling": {"kind": "linear"},
        "WordVectors": {"name": "x", "words": ("a", "b"), "vectors": torch.eye(2), "manifest": {"fingerprint": "x"}},
        "ablation_sweep": {**swept, "layers": [0]},
        "activation_patching": patched,
        "add": {"site": "z", "vector": torch.ones(8)},
        "agreement": {"first": sweep, "second": sweep, "k": 3},
        "as_transformer_lens": of_model,
        "association_test": {
            "source": words, "targets": (WORDS[:4], WORDS[4:8]), "attributes": (WORDS[8:12], WORDS[12:16]),
        },
        "attribution_patching": {**patched, "verify_largest": 2, "verify_random": 2},
        "attribution_sites": of_model,
        "chat": {"model": MODEL, "messages": "ak al"},
        "composition_scores": {"model": MODEL, "into": "k"},
        "copying_scores": of_model,
        "count_pass": {"config": LLAMA, "n_tokens": 4},
        "count_weights": {"config": LLAMA},
        "custom_metric": {"function": torch.neg},
        "direct_logit_attribution": {"model": MODEL, "recording": rec, "token": 3},
        "dose_curve": {**steered, "prompts": ["ak al", "am an"], "doses": [0.1]},
        "edit": {"site": "z", "function": torch.neg},
        "equalise": {**of_words, "direction": direction, "pairs": PAIRS[:2]},
        "erasure_test": {**steered, "prompts": [("ak al", "am al"), ("ak bk", "am bk")]},
        "evaluate_analogies": {**of_words, "questions": {"a": [WORDS[:4]]}},
        "evaluate_direction": {
            "direction": direction, "n_permutations": 20, "n_random": 20, "n_unrelated": 10, "progress": False,
        },
        "fit_direction": {"source": words, "pairs": PAIRS},
        "fit_tuned_lens": lens,
        "generate": {"model": MODEL, "prompt": [1, 2], "max_tokens": 2},
        "head_scores": {"model": MODEL, "prompts": CLEAN, "n_random": 2, "random_length": 4, "progress": False},
        "head_writes": {"model": MODEL, **of_head},
        "head_writes_for_token": {"model": MODEL, "layer": 1, "head": 1, "token": 2},
        "kl_to_clean": {},
        "layer_profile": {
            "model": MODEL, "pairs": PAIRS, "templates": ["{}"], "n_permutations": 19, "twin": False, "progress": False,
        },
        "lens_difference": {"model": MODEL, "before": rec, "after": other},
        "load_model": {"source": folder / "model", "device": "cpu", "progress": False},
        "load_pairs": {"name": "gender"},
        "load_task": {"model": MODEL, "name": "induction", "n": 4},
        "load_tuned_lens": of_model,
        "load_word_vectors": {"source": folder / "vectors.txt", "progress": False},
        "load_words": {"name": "numbers"},
        "log_probability": {"target": 1},
        "logit_difference": {"target": 1, "against": 2},
        "logit_lens": {"model": MODEL, "recording": rec},
        "loss": {"model": MODEL, "prompts": CLEAN},
        "mean_loss": {},
        "nearest_neighbours": {**of_words, "queries": WORDS[0], "k": 3},
        "neutralise": {**of_words, "direction": direction},
        "ov_circuit": {"model": MODEL, "layer": 1, "head": 1},
        "pair_lists": {},
        "path_patching": {"model": MODEL, "clean": CLEAN, "corrupted": CORRUPTED, "senders": [(0, 0)], **SWEPT},
        "plan_ablation": {**{key: swept[key] for key in ("model", "prompts", "metric")}},
        "plan_recording": {"model": MODEL, "prompts": CLEAN},
        "project_out": {"site": "z", "direction": torch.ones(8)},
        "qk_circuit": {"model": MODEL, "layer": 1, "head": 1},
        "read_head_scores": {"recording": rec},
        "read_pair": {**of_head, "query": -1, "key": 0},
        "read_pattern": of_head,
        "record": {"model": MODEL, "prompts": CLEAN},
        "replace": {"site": "z", "value": torch.ones(8)},
        "save_model": {"model": BARE, "folder": folder / "again"},
        "scale": {"site": "z", "factor": 2.0},
        "score_circuit": {**swept, "circuit": [(0, 1)], "n_random": 2},
        "score_text": {"model": MODEL, "prompts": CLEAN},
        "search_heads": {**swept, "prompts": CLEAN * 2, "n_heads": 1, "candidates": 2, "n_random": 1},
        "similar_heads": of_head,
        "site_dims": {"name": "z"},
        "site_names": {"config": LLAMA},
        "site_shape": {"config": LLAMA, "name": "z", "batch": 1, "pos": 2},
        "solve_analogy": {**of_words, "positive": [WORDS[0]], "negative": [WORDS[1]], "k": 3},
        "solve_task": {"model": MODEL, "task": probe.load_task(MODEL, "induction", 4)},
        "task_names": {},
        "to_activation_cache": {"recording": rec, "model": MODEL},
        "token_rank": {"target": 1},
        "value_weighted_pattern": {"model": MODEL, **of_head},
        "word_vectors": of_model,
        "words_in_context": {"model": MODEL, "layer": 1, "templates": ["{}"]},
        "zero": {"site": "z"},
    }  # fmt: skip


TAKES_WHAT_IT_GETS = """
AblationSweep Agreement AttributionPatching CircuitScore Direction DoseCurve ErasureTest Evaluation Generation
HeadScores HeadSearch Intervention LayerProfile LogitAttribution PatchingMap PathPatching ProbeError Recording
RecordingPlan Task TaskScore TextScores TunedLens WordPairs WordsInContext
""".split()
"""Results: methods make them, users read them."""
OF_THE_USER = {("custom_metric", "function"), ("edit", "function")}
"""Functions of the user's, which raise what they like."""


def finished(function: str, /, **arguments: Any) -> Any:
    """What a call gives; interventions and metrics are put to use, generations run to their end."""
    found = getattr(probe, function)(**arguments)
    if isinstance(found, probe.Generation):
        found.run()
    if isinstance(found, probe.Intervention):
        probe.record(MODEL, CLEAN, interventions=found)
    if isinstance(found, probe.metrics.Metric):
        probe.plan_ablation(MODEL, CLEAN, metric=found, value="zero")
    return found


def test_the_table_names_every_public_function(good):
    assert sorted([*good, *TAKES_WHAT_IT_GETS]) == sorted(probe.__all__)


FUNCTIONS = [name for name in probe.__all__ if name not in TAKES_WHAT_IT_GETS]
FEW = ("None", "NaN", "-1", "text", "list of None", "object", "0-d integer")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_nonsense_in_any_argument_is_an_error_of_probes_own(name, good, tmp_path, monkeypatch):
    nothing_escapes(name, good, FEW, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_other_nonsense_is_one_too(name, good, tmp_path, monkeypatch):
    nothing_escapes(name, good, [what for what in NONSENSE if what not in FEW], tmp_path, monkeypatch)


def nothing_escapes(name, good, kinds, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROBE_CACHE", str(tmp_path / "cache"))
    if name != "load_tuned_lens":  # minutes, where it works
        finished(name, **good[name])
    parameters = inspect.signature(getattr(probe, name)).parameters.values()
    where = {"add", "edit", "project_out", "replace", "scale", "zero"}
    arguments = [one.name for one in parameters if one.kind is not inspect.Parameter.VAR_KEYWORD]
    arguments += ["layer", "heads", "positions", "rows"] if name in where else []
    escaped = []
    for argument in arguments:
        for what in kinds:
            if (name, argument) in OF_THE_USER or (argument, what) in {("metric", "class"), ("model", "model")}:
                continue
            try:
                finished(name, **{**good[name], argument: NONSENSE[what]()})
            except ProbeError:
                pass
            except Exception as error:  # noqa: BLE001  whatever it is, it escaped
                escaped.append(f"{argument}={what}: {type(error).__name__}: {error}")
    assert not escaped, "\n".join(escaped)


@checked
def example(
    n: int,
    share: float = 0.5,
    flag: bool = False,
    words: list | None = None,
    *,
    names: "str" = "",
    texts: Sequence[str] = (),
) -> tuple[Any, ...]:
    """What a function marked so is given."""
    return n, share, flag, texts


def test_numbers_of_numpy_and_torch_arrive_as_pythons_own():
    n, share, flag, texts = example(np.int64(3), torch.tensor(2.0), np.bool_(True), texts=np.array(["a", "b"]))
    assert (n, share, flag, texts) == (3, 2.0, True, ["a", "b"])
    assert [type(value) for value in (n, share, flag)] == [int, float, bool]


def test_a_text_alone_is_one_of_several_texts_and_never_its_letters():
    assert example(1, texts="cat")[-1] == ["cat"]


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"n": 2.5}, OutOfRange, "n=2.5: expected an integer"),
        ({"n": True}, OutOfRange, "n=True: expected an integer"),
        ({"n": 2**63}, OutOfRange, "64 bits"),
        ({"n": 1, "share": math.nan}, OutOfRange, "share=nan"),
        ({"n": 1, "share": "a"}, OutOfRange, "share='a': expected a number"),
        ({"n": 1, "share": 10**400}, OutOfRange, "a float can hold"),
        ({"n": 1, "flag": 1}, WrongType, "flag=1: expected True or False"),
        ({"n": 1, "texts": 3}, WrongType, "texts=3: expected several"),
        ({"n": 1, "texts": [3]}, WrongType, r"texts\[0\]=3: expected text"),
    ],
)
def test_an_argument_of_another_kind_is_named_with_what_was_expected(arguments, error, said):
    with pytest.raises(error, match=said) as raised:
        example(**arguments)
    assert isinstance(raised.value, ProbeError)


def test_a_call_with_too_many_or_misspelt_arguments_is_pythons_own_error():
    with pytest.raises(TypeError, match="example"):
        example(1, 2.0, False, None, 5)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="nn"):
        example(nn=1)  # type: ignore[call-arg]


def test_a_model_is_no_tokenizer_of_another_one():
    """It would become a part of it, and its weights would be drawn anew with the other's."""
    other = tiny_model("llama")
    before = other.W_E.detach().clone()
    with pytest.raises(WrongType, match="tokenizer=<GPT>"):
        probe.GPT(LLAMA, tokenizer=other)
    assert torch.equal(other.W_E, before)


def test_a_seed_of_numpy_is_written_down_and_gives_the_same_numbers():
    first, second = (
        probe.ablation_sweep(MODEL, CLEAN, value="resample", seed=seed, **SWEPT) for seed in (np.int64(3), 3)
    )
    assert torch.equal(first.effects, second.effects) and first.manifest == second.manifest


def test_what_is_no_token_in_a_list_of_tokens_is_named():
    with pytest.raises(OutOfRange, match=r"logit difference: \[\] is no token"):
        probe.plan_ablation(MODEL, CLEAN, metric=probe.logit_difference([[], []], 3), value="zero")


@pytest.mark.parametrize("n", [-1, 0])
def test_no_largest_ones_cannot_be_asked_for(n):
    sweep = probe.ablation_sweep(MODEL, CLEAN, value="zero", **SWEPT)
    with pytest.raises(OutOfRange, match=f"n={n}: expected at least 1"):
        sweep.top(n)


class GraphsOnWeights(TorchFunctionMode):
    """Counts what begins a graph at a weight."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        of_weight = any(isinstance(one, torch.nn.Parameter) for one in args)
        if of_weight and isinstance(result, torch.Tensor) and result.grad_fn is not None:
            self.found.append(getattr(func, "__name__", str(func)))
        return result


def test_only_gradients_begin_a_graph_at_a_weight(good):
    """A graph costs memory, and in torch a lock that other threads with the same model wait for."""
    assert torch.is_grad_enabled()
    began = {}
    for name, arguments in good.items():
        if name in ("load_tuned_lens", "load_word_vectors", "load_model", "GPT"):
            continue
        with GraphsOnWeights() as watched:
            result = getattr(probe, name)(**arguments)
            getattr(result, "run", lambda: None)()
        if watched.found:
            began[name] = watched.found
    assert set(began) == WITH_GRAPH, began
