"""probe: look inside GPTs. Record every value of a pass, change any of them, and see what it says.

    import probe
    model = probe.load_model()
    rec = probe.record(model, "The capital of France is", document_start=True)
    rec["pattern", 3]          # attention of layer 3: (batch, head, query_pos, key_pos)

Everything is an argument of one call and nothing stays on the model.
"""

from probe.chat import chat
from probe.config import GPTConfig, RotaryScaling
from probe.contexts import WordsInContext, words_in_context
from probe.errors import ProbeError
from probe.flop_count import count_pass
from probe.generation import Generation, generate
from probe.gpt import GPT
from probe.interventions import Intervention, add, edit, project_out, replace, scale, zero
from probe.methods.ablation import AblationSweep, ablation_sweep, plan_ablation
from probe.methods.agreement import Agreement, agreement
from probe.methods.analogies import evaluate_analogies, nearest_neighbours, solve_analogy
from probe.methods.association import association_test, equalise, neutralise
from probe.methods.attention import read_pair, read_pattern, similar_heads, value_weighted_pattern
from probe.methods.attribution import LogitAttribution, attribution_sites, direct_logit_attribution
from probe.methods.attribution_patching import AttributionPatching, attribution_patching
from probe.methods.circuit_score import CircuitScore, score_circuit
from probe.methods.circuits import (
    composition_scores,
    copying_scores,
    head_writes,
    head_writes_for_token,
    ov_circuit,
    qk_circuit,
)
from probe.methods.directions import Direction, Evaluation, evaluate_direction, fit_direction
from probe.methods.head_search import HeadSearch, search_heads
from probe.methods.heads import HeadScores, head_scores, read_head_scores
from probe.methods.layer_profile import LayerProfile, layer_profile
from probe.methods.lens import lens_difference, logit_lens
from probe.methods.patching import PatchingMap, activation_patching
from probe.methods.path_patching import PathPatching, path_patching
from probe.methods.steering import DoseCurve, ErasureTest, dose_curve, erasure_test
from probe.methods.surprise import TextScores, score_text
from probe.methods.task_score import TaskScore, solve_task
from probe.methods.tuned_lens import TunedLens, fit_tuned_lens, load_tuned_lens
from probe.metrics import (
    custom_metric,
    kl_to_clean,
    log_probability,
    logit_difference,
    loss,
    mean_loss,
    token_rank,
)
from probe.plan import RecordingPlan, plan_recording
from probe.recording import Recording, record
from probe.sites import site_dims, site_names, site_shape
from probe.tasks import Task, load_task, task_names
from probe.transformer_lens_adapter import as_transformer_lens, to_activation_cache
from probe.weight_count import count_weights
from probe.weights import load_model, save_model
from probe.word_lists import WordPairs, load_pairs, load_words, pair_lists
from probe.words import WordVectors, load_word_vectors, word_vectors

__all__ = [
    "AblationSweep",
    "Agreement",
    "AttributionPatching",
    "CircuitScore",
    "Direction",
    "DoseCurve",
    "ErasureTest",
    "Evaluation",
    "GPT",
    "GPTConfig",
    "Generation",
    "HeadScores",
    "HeadSearch",
    "Intervention",
    "LayerProfile",
    "LogitAttribution",
    "PatchingMap",
    "PathPatching",
    "ProbeError",
    "Recording",
    "RecordingPlan",
    "RotaryScaling",
    "Task",
    "TaskScore",
    "TextScores",
    "TunedLens",
    "WordPairs",
    "WordVectors",
    "WordsInContext",
    "ablation_sweep",
    "activation_patching",
    "add",
    "agreement",
    "as_transformer_lens",
    "association_test",
    "attribution_patching",
    "attribution_sites",
    "chat",
    "composition_scores",
    "copying_scores",
    "count_pass",
    "count_weights",
    "custom_metric",
    "direct_logit_attribution",
    "dose_curve",
    "edit",
    "equalise",
    "erasure_test",
    "evaluate_analogies",
    "evaluate_direction",
    "fit_direction",
    "fit_tuned_lens",
    "generate",
    "head_scores",
    "head_writes",
    "head_writes_for_token",
    "kl_to_clean",
    "layer_profile",
    "lens_difference",
    "load_model",
    "load_pairs",
    "load_task",
    "load_tuned_lens",
    "load_word_vectors",
    "load_words",
    "log_probability",
    "logit_difference",
    "logit_lens",
    "loss",
    "mean_loss",
    "nearest_neighbours",
    "neutralise",
    "ov_circuit",
    "pair_lists",
    "path_patching",
    "plan_ablation",
    "plan_recording",
    "project_out",
    "qk_circuit",
    "read_head_scores",
    "read_pair",
    "read_pattern",
    "record",
    "replace",
    "save_model",
    "scale",
    "score_circuit",
    "score_text",
    "search_heads",
    "similar_heads",
    "site_dims",
    "site_names",
    "site_shape",
    "solve_analogy",
    "solve_task",
    "task_names",
    "to_activation_cache",
    "token_rank",
    "value_weighted_pattern",
    "word_vectors",
    "words_in_context",
    "zero",
]
