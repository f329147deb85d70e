"""probe: look inside GPTs. Record every value of a pass, change any of them, and see what it says.

    import probe
    model = probe.load_model()
    rec = probe.record(model, "The capital of France is", document_start=True)
    rec["pattern", 3]          # attention of layer 3: (batch, head, query_pos, key_pos)

Everything is an argument of one call and nothing stays on the model.
"""

from probe.chat import chat
from probe.config import GPTConfig, RotaryScaling
from probe.errors import ProbeError
from probe.generation import Generation, generate
from probe.gpt import GPT
from probe.interventions import Intervention, add, edit, project_out, replace, scale, zero
from probe.methods.attention import read_pair, read_pattern, similar_heads, value_weighted_pattern
from probe.methods.attribution import LogitAttribution, attribution_sites, direct_logit_attribution
from probe.methods.circuits import (
    composition_scores,
    copying_scores,
    head_writes,
    head_writes_for_token,
    ov_circuit,
    qk_circuit,
)
from probe.methods.heads import HeadScores, head_scores
from probe.methods.lens import lens_difference, logit_lens
from probe.methods.surprise import TextScores, score_text
from probe.methods.tuned_lens import TunedLens, fit_tuned_lens, load_tuned_lens
from probe.metrics import loss
from probe.plan import RecordingPlan, plan_recording
from probe.recording import Recording, record
from probe.sites import site_dims, site_names, site_shape
from probe.weights import load_model, save_model

__all__ = [
    "GPT",
    "GPTConfig",
    "Generation",
    "HeadScores",
    "Intervention",
    "LogitAttribution",
    "ProbeError",
    "Recording",
    "RecordingPlan",
    "RotaryScaling",
    "TextScores",
    "TunedLens",
    "add",
    "attribution_sites",
    "chat",
    "composition_scores",
    "copying_scores",
    "direct_logit_attribution",
    "edit",
    "fit_tuned_lens",
    "generate",
    "head_scores",
    "head_writes",
    "head_writes_for_token",
    "lens_difference",
    "load_model",
    "load_tuned_lens",
    "logit_lens",
    "loss",
    "ov_circuit",
    "plan_recording",
    "project_out",
    "qk_circuit",
    "read_pair",
    "read_pattern",
    "record",
    "replace",
    "save_model",
    "scale",
    "score_text",
    "similar_heads",
    "site_dims",
    "site_names",
    "site_shape",
    "value_weighted_pattern",
    "zero",
]
