"""Path patching equals the two passes that define it: every other head held, then only the receiver replaced."""

import pytest
import torch

import probe
from probe.errors import OutOfRange, UnknownName
from tests.induction import INDUCTION, PREVIOUS, induction_model
from tests.tiny import tiny_model

EXACT = 1e-4
CLEAN, CORRUPTED = ["abcdefgh", "hgfedcba"], ["abxdefgh", "hgfkdcba"]
METRIC = probe.logit_difference(5, 7)


def paths(model, receiver, *, clean=CLEAN, corrupted=CORRUPTED, metric=METRIC, **arguments):
    return probe.path_patching(model, clean, corrupted, receiver, metric=metric, progress=False, **arguments)


def by_two_passes(model, base, source, sender, receiver, *, through_mlps):
    """First pass: the sender's new output, every other head's z as it was (MLPs too, unless they pass it on), and what
    the receiver makes of it. Second pass: only that is replaced."""
    was, other = probe.record(model, base), probe.record(model, source)
    n_layers, (layer, head) = model.config.n_layers, sender
    held = []
    for number in range(n_layers):
        z = was["z", number].clone()
        if number == layer:
            z[:, :, head] = other["z", layer][:, :, head]
        held.append(probe.replace("z", z, layer=number))
        if not through_mlps and model.config.d_mlp:
            held.append(probe.replace("mlp_out", was["mlp_out", number], layer=number))
    if receiver == "logits":
        logits = probe.record(model, base, sites=[], interventions=held).logits[0, -1]
        return float(logits[5] - logits[7])
    site = "mlp_out" if receiver[0] == "mlp" else receiver[0]
    free = [one for one in held if not (one.site == "mlp_out" and one.where["layer"] == receiver[1])]
    reached = probe.record(model, base, interventions=free)[site, receiver[1]]
    where = {"layer": receiver[1]}
    if site != "mlp_out":
        reached, where["heads"] = reached[:, :, [receiver[2]]], receiver[2]
    second = probe.record(model, base, sites=[], interventions=[probe.replace(site, reached, **where)])
    return float(second.logits[0, -1, 5] - second.logits[0, -1, 7])


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("receiver", [("q", 2, 3), ("k", 2, 1), ("v", 1, 0), ("mlp", 1), "logits"], ids=str)
@pytest.mark.parametrize("through_mlps", [False, True])
def test_it_equals_the_two_passes_that_define_it(family, receiver, through_mlps):
    model = tiny_model(family)
    found = paths(model, receiver, through_mlps=through_mlps)
    for number, sender in enumerate(found.senders):
        expected = by_two_passes(model, CLEAN[1], CORRUPTED[1], sender, receiver, through_mlps=through_mlps)
        assert float(found.patched[number, 1]) == pytest.approx(expected, abs=EXACT), sender
    assert found.effects.abs().max() > 0.01


def test_denoising_sends_clean_messages_in_the_corrupted_run():
    model = tiny_model()
    found = paths(model, ("q", 2, 3), direction="denoise")
    expected = by_two_passes(model, CORRUPTED[0], CLEAN[0], found.senders[5], ("q", 2, 3), through_mlps=False)
    assert float(found.patched[5, 0]) == pytest.approx(expected, abs=EXACT)


def test_prompts_of_different_lengths_come_out_as_each_would_alone():
    model = tiny_model()
    clean, corrupted = ["abcdef", "hgfedcba"], ["abxdef", "hgfkdcba"]
    both = paths(model, ("k", 2, 1), clean=clean, corrupted=corrupted)
    for row in (0, 1):
        alone = paths(model, ("k", 2, 1), clean=[clean[row]], corrupted=[corrupted[row]])
        torch.testing.assert_close(both.patched[:, row], alone.patched[:, 0], atol=EXACT, rtol=0)


def test_the_previous_token_head_tells_the_induction_head_by_its_keys_and_in_no_other_way():
    """Layer 0, head 1 writes which token came before; layer 1, head 2 looks for that with its keys."""
    model = induction_model()
    prompts = {"clean": [[0, 3, 7, 5, 9, 3]], "corrupted": [[0, 8, 7, 5, 9, 3]], "metric": probe.logit_difference(7, 5)}
    layer, head = INDUCTION
    by_keys = paths(model, ("k", layer, head), **prompts)
    assert by_keys.top(1)[0][0] == PREVIOUS
    whole = float((by_keys.corrupted - by_keys.clean).mean())
    assert by_keys.top(1)[0][1] == pytest.approx(whole, abs=1e-3)
    for other in (("q", layer, head), ("v", layer, head), ("k", layer, 0)):
        assert paths(model, other, **prompts).effects.abs().max() < 1e-3
    to_logits = paths(model, "logits", **prompts)
    assert to_logits.top(1)[0][0] == INDUCTION and to_logits.top(1)[0][1] == pytest.approx(whole, abs=1e-3)


def test_senders_are_those_that_come_before():
    model = tiny_model()
    assert len(paths(model, ("q", 1, 0)).senders) == 4
    assert len(paths(model, ("mlp", 1)).senders) == 8  # those of its own layer too
    assert len(paths(model, "logits").senders) == 12
    assert paths(model, "logits", senders=[(1, 2)]).senders == ((1, 2),)
    table = paths(model, "logits").to_dataframe()
    assert {"layer", "head", "effect", "share", "share_low", "p_grid", "marked"} <= set(table)


BAD = {
    "an unknown receiver": (dict(receiver=("queries", 1, 0)), UnknownName, "no receiver 'queries'"),
    "no receiver": (dict(receiver="q"), UnknownName, "expected \\('q', layer, head\\)"),
    "an MLP's head": (dict(receiver=("mlp", 1, 0)), UnknownName, "expected \\('q', layer, head\\)"),
    "an unknown layer": (dict(receiver=("q", 3, 0)), OutOfRange, "layer 3"),
    "a query's head for keys": (dict(receiver=("k", 2, 3)), OutOfRange, "head 3: 'k' of this model has heads 0 to 1"),
    "the first layer": (dict(receiver=("q", 0, 0)), OutOfRange, "no head comes before q of 0.0"),
    "a later sender": (dict(receiver=("q", 1, 0), senders=[(1, 1)]), OutOfRange, "1.1 does not come before q of 1.0"),
    "no senders": (dict(receiver="logits", senders=[]), OutOfRange, "the list is empty"),
    "a sender that is no head": (dict(receiver="logits", senders=["1.1"]), OutOfRange, "expected \\(layer, head\\)"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "error", "said"), BAD.values(), ids=BAD.keys())
def test_what_is_no_path_is_said(arguments, error, said, as_users_run_it):
    with pytest.raises(error, match=said):
        paths(tiny_model(), **arguments)
