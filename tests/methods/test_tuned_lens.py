"""The tuned lens: what it learns, what it is told apart from, and what an interruption costs."""

import math

import pytest
import torch

import probe.methods.tuned_lens as tuned_lens
from probe.errors import BadPrompt, BrokenFile, DifferentModel, NotSaved, OutOfRange
from probe.methods.lens import logit_lens
from probe.methods.tuned_lens import TunedLens, find_tuned_lens, fit_tuned_lens, load_tuned_lens
from probe.recording import record
from tests.tiny import CONFIGS, tiny_model, tiny_tokens

FEW = {"n_tokens": 3000, "progress": False}


@pytest.fixture(params=CONFIGS)
def model(request):
    return tiny_model(request.param)


def test_translators_are_the_ridge_regression_of_the_last_residual_stream(model):
    windows = tiny_tokens(40, 16).tolist()
    lens = fit_tuned_lens(model, windows, ridge=0.01, progress=False)
    kept = record(model, windows[:36])  # the last tenth is held out
    for index, place in enumerate(lens.places):
        x, y = (kept[name][:, 1:].flatten(0, 1).double() for name in (place, "blocks.2.hook_resid_post"))
        centred = x - x.mean(0)
        penalty = 0.01 * centred.var(0, correction=0).mean() * len(x) * torch.eye(32)
        weight = torch.linalg.solve(centred.T @ centred + penalty, centred.T @ (y - y.mean(0)))
        torch.testing.assert_close(lens.weights[index].double(), weight, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(lens.biases[index].double(), y.mean(0) - x.mean(0) @ weight, atol=1e-2, rtol=1e-3)


def test_a_stream_that_is_an_affine_map_away_is_read_exactly():
    model = tiny_model()
    with torch.no_grad():
        for layer in range(3):  # nothing is added after the embedding but a turn of the basis, undone at the end
            model.blocks[layer].attn.W_O.zero_()
            model.blocks[layer].mlp.W_out.zero_()
    lens = fit_tuned_lens(model, ridge=1e-9, **FEW)
    torch.testing.assert_close(lens.weights[0], torch.eye(32), atol=1e-3, rtol=0)
    assert lens.tuned_kl.max() < 1e-3 and math.isclose(float(lens.raw_kl.max()), 0, abs_tol=1e-6)


def test_reported_divergences_are_those_of_the_lens_on_the_windows_held_out(model):
    windows = tiny_tokens(20, 12).tolist()
    lens = fit_tuned_lens(model, windows, progress=False)
    held_out = record(model, windows[18:])
    for tuned, found in ((lens, lens.tuned_kl), (None, lens.raw_kl)):
        readout = logit_lens(model, held_out, tuned=tuned)
        expected = readout.kl_to_final[:-1, :, 1:].mean((1, 2))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert math.isclose(lens.uniform_kl, float(readout.uniform_kl[:, 1:].mean()), rel_tol=1e-4)
    assert lens.manifest["held_out_positions"] == 22


def test_it_beats_the_raw_lens_on_text_that_the_model_writes():
    lens = fit_tuned_lens(tiny_model(scale=4.0), **FEW)
    assert bool((lens.tuned_kl < lens.raw_kl).all())
    assert lens.to_dataframe().passes.all() == (not lens.falls_short)
    assert "better than the raw lens" in lens.verdict()


def test_a_place_that_falls_short_is_named(model):
    lens = fit_tuned_lens(model, tiny_tokens(4, 8).tolist(), progress=False)  # far too little text
    assert lens.falls_short and "not at blocks." in lens.verdict()


def test_gradient_steps_lower_the_divergence(model):
    windows = tiny_tokens(100, 16).tolist()
    closed = fit_tuned_lens(model, windows, ridge=1.0, progress=False)
    stepped = fit_tuned_lens(model, windows, ridge=1.0, gradient_steps=60, progress=False)
    assert stepped.tuned_kl.mean() < closed.tuned_kl.mean()


def test_the_last_place_is_left_as_it_is_and_the_readout_says_that_it_is_tuned(model):
    lens = fit_tuned_lens(model, **FEW)
    recording = record(model, tiny_tokens())
    readout = logit_lens(model, recording, tuned=lens)
    assert readout.tuned and readout.kl_to_final[-1].abs().max() == 0
    assert readout.manifest["method_arguments"]["tuned"]["method"] == "tuned lens"
    raw = logit_lens(model, recording)
    assert not raw.tuned and not torch.allclose(raw.kl_to_final[0], readout.kl_to_final[0])


def test_the_same_seed_fits_the_same_lens(model):
    one, other = fit_tuned_lens(model, **FEW), fit_tuned_lens(model, **FEW)
    assert torch.equal(one.weights, other.weights) and torch.equal(one.tuned_kl, other.tuned_kl)
    assert not torch.equal(one.weights, fit_tuned_lens(model, seed=1000, **FEW).weights)


def test_an_interrupted_fit_goes_on_where_it_stopped(model, tmp_path, monkeypatch):
    whole = fit_tuned_lens(model, **FEW)
    monkeypatch.setattr(tuned_lens, "MOMENT_BYTES", 1)  # every place by itself
    fit, done = tuned_lens._fit, []

    def fail_at_the_third(model, places, *rest):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.extend(places)
        return fit(model, places, *rest)

    monkeypatch.setattr(tuned_lens, "_fit", fail_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        fit_tuned_lens(model, folder=tmp_path / "work", **FEW)
    monkeypatch.setattr(
        tuned_lens, "_fit", lambda model, places, *rest: done.extend(places) or fit(model, places, *rest)
    )
    monkeypatch.setattr(tuned_lens, "sample_batch", None)  # the text is there already
    lens = fit_tuned_lens(model, folder=tmp_path / "work", **FEW)
    assert done == list(lens.places)  # none of them twice
    torch.testing.assert_close(lens.weights, whole.weights)
    with pytest.raises(NotSaved, match="another call: seed was 0 there and is 5 here"):
        fit_tuned_lens(model, folder=tmp_path / "work", seed=5, **FEW)


def test_the_cache_keeps_one_for_each_model(model, tmp_path, monkeypatch):
    monkeypatch.setenv("PROBE_CACHE", str(tmp_path))
    monkeypatch.setattr(tuned_lens, "fit_tuned_lens", lambda *args, **kw: fit_tuned_lens(*args, **kw, n_tokens=600))
    assert find_tuned_lens(model) is None and not (tmp_path / "tuned-lenses").exists()  # looking fits nothing
    first = load_tuned_lens(model, progress=False)
    assert sorted(path.suffix for path in (tmp_path / "tuned-lenses").iterdir()) == ["", ".lock"]
    monkeypatch.setattr(tuned_lens, "fit_tuned_lens", None)
    again = load_tuned_lens(model, progress=False)
    assert torch.equal(first.weights, again.weights) and first.verdict() == again.verdict()
    assert again.places == first.places and dict(again.manifest) == dict(first.manifest)


def test_a_lens_of_another_model_is_refused(model):
    lens = fit_tuned_lens(model, tiny_tokens(4, 8).tolist(), progress=False)
    other = tiny_model("llama", seed=7)
    with pytest.raises(DifferentModel, match=r"was fitted on .*fit one with probe.fit_tuned_lens\(model\)"):
        logit_lens(other, record(other, tiny_tokens()), tuned=lens)


def test_something_else_is_no_tuned_lens(model, tmp_path):
    record(model, tiny_tokens()).save(tmp_path / "recording")
    with pytest.raises(BrokenFile, match="not a tuned lens"):
        TunedLens.load(tmp_path / "recording")


@pytest.mark.parametrize(
    ("texts", "arguments", "error", "said"),
    [
        (None, {"n_tokens": 10}, OutOfRange, "expected at least 256"),
        (None, {"ridge": -1.0}, OutOfRange, "ridge=-1.0"),
        (None, {"gradient_steps": -1}, OutOfRange, "gradient_steps=-1"),
        (["a"], {}, BadPrompt, "windows of text, expected at least 2"),
        ([[1, 2, 99], [3, 4]], {}, OutOfRange, "token id 99"),
    ],
)
def test_what_cannot_be_fitted_on_is_said_before_any_work(model, texts, arguments, error, said):
    with pytest.raises(error, match=said):
        fit_tuned_lens(model, texts, progress=False, **arguments)
