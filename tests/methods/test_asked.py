"""A task stands in for prompts, partners, metric and groups, and says so where something does not fit."""

import pytest
import torch

import probe
from probe.errors import BadPrompt, DifferentModel, OutOfRange, UnknownName
from tests.english import english_model


@pytest.fixture(scope="module")
def model():
    return english_model()


@pytest.fixture(scope="module")
def task(model):
    return probe.load_task(model, "agreement", 8)


def test_a_task_brings_prompts_metric_and_groups_to_a_sweep(model, task):
    found = probe.ablation_sweep(model, task, progress=False)
    spelled = probe.ablation_sweep(
        model, task.prompts, metric=task.metric, groups=task.groups, progress=False
    )  # fmt: skip
    assert torch.equal(found.effects, spelled.effects) and dict(found.groups) == dict(spelled.groups)
    assert found.manifest == spelled.manifest
    assert probe.plan_ablation(model, task).rows == len(found.units) * len(task)


def test_a_task_brings_both_sides_to_patching(model, task):
    found = probe.activation_patching(model, task, sites="z", progress=False)
    spelled = probe.activation_patching(
        model, task.prompts, task.corrupted, "z", metric=task.metric, groups=task.groups, progress=False
    )
    assert torch.equal(found.patched, spelled.patched) and set(found.groups) == {"template", "filler"}


def test_what_is_given_comes_before_what_the_task_brings(model, task):
    found = probe.ablation_sweep(model, task, metric=probe.kl_to_clean(), groups={"all": range(8)}, progress=False)
    assert found.metric == "KL to clean" and set(found.groups) == {"all"}


def test_path_and_attribution_patching_take_a_task(model, task):
    path = probe.path_patching(model, task, receiver="logits", progress=False)
    assert path.receiver == "logits" and path.patched.shape[1] == len(task)
    gradients = probe.attribution_patching(model, task, sites="z", progress=False)
    assert gradients.estimated.shape[1] == len(task)


def test_mistakes_with_tasks_are_named_before_anything_runs(model, task):
    with pytest.raises(BadPrompt, match="brings its own prompts, partners .* leave corrupted prompts out"):
        probe.activation_patching(model, task, "z", progress=False)
    with pytest.raises(BadPrompt, match="leave document_start out"):
        probe.ablation_sweep(model, task, document_start=True)
    with pytest.raises(DifferentModel, match="makes it anew"):
        probe.ablation_sweep(english_model("when", "The"), task)
    with pytest.raises(UnknownName, match=r"no metric: .*logit_difference"):
        probe.ablation_sweep(model, task.prompts)
    with pytest.raises(BadPrompt, match="no corrupted prompts"):
        probe.activation_patching(model, task.prompts, metric=task.metric)
    with pytest.raises(OutOfRange, match="3 numbers for 8 prompts"):
        probe.ablation_sweep(model, task, groups={"template": [0, 1, 2]})


def test_a_reference_beside_a_task_begins_as_its_prompts_do(model, task):
    """With the document separator here, and so does that of the twin."""
    assert task.document_start
    found = probe.ablation_sweep(model, task, reference=list(task.texts[:3]), twin=model, progress=False)
    for one in (found, found.twin):
        assert one.manifest["method_arguments"]["reference"] == [list(ids) for ids in task.prompts[:3]]
