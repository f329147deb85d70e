"""What a generated token costs, against Hugging Face's `generate` with the same weights.

    python tests/benchmarks/generate.py [--model NAME_OR_PATH] [--json FILE] [--blocks N] [--threads N] [--quick]

Greedy, one prompt, the same number of new tokens, both with a key/value cache; first it is checked that both say the
same. Ours keeps the 64 likeliest tokens and a histogram of every step while it is at it.
"""

import torch
from _measure import compare, hardware, read_options, write_json

import probe
from probe.catalogue import DEFAULT_MODEL
from probe.weights.parity import huggingface_model

PROMPT = "Once upon a time there was a small village at the foot of a mountain, where"
NEW = 64


def main() -> None:
    """Measure and print; write JSON if asked."""
    arguments = read_options(
        __doc__.splitlines()[0],
        lambda parser: parser.add_argument("--blocks", type=int, default=8, help="of A B B A; left out: 8"),
    )
    new, blocks = (4, 2) if arguments.quick else (NEW, arguments.blocks)
    model = probe.load_model(arguments.model)
    theirs = huggingface_model(arguments.model or DEFAULT_MODEL, dtype=torch.float32)
    ids = torch.tensor([list(probe.generate(model, PROMPT).prompt)])
    print(f"{model.name} on {hardware()}; {new} tokens after {ids.shape[1]}", flush=True)

    def ours(sampled: bool = False):
        settings = {"temperature": 0.8, "seed": 0} if sampled else {"temperature": 0}
        return probe.generate(model, ids, max_tokens=new, stop=[], **settings).run()

    @torch.inference_mode()
    def huggingface():
        return theirs.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new, do_sample=False,
            pad_token_id=0,
        )  # fmt: skip

    same = ours().ids == huggingface()[0].tolist()
    print(f"the same {new} tokens: {'yes' if same else 'NO'}", flush=True)
    found = [compare(f"greedy, probe / Hugging Face, {new} tokens", ours, huggingface, pairs=blocks, bar=0.85)]
    print(found[-1], flush=True)
    name = f"sampled / greedy, both probe, {new} tokens"
    found.append(compare(name, lambda: ours(sampled=True), ours, pairs=blocks))
    print(found[-1], flush=True)
    write_json(arguments.json, model.name, found)


if __name__ == "__main__":
    main()
