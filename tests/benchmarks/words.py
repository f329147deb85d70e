"""Neighbours and analogies among 400,000 words, against gensim; and what the evidence for a direction costs.

    python tests/benchmarks/words.py [--model NAME_OR_PATH] [--json FILE] [--blocks N] [--threads N] [--quick]

Both sides have the same vectors, with lengths computed beforehand; answers are compared before anything is timed.
"""

from _measure import Measured, compare, hardware, read_options, seconds, spread, write_json
from gensim.models import KeyedVectors

import probe

N_QUERIES, K = 100, 10


def main() -> None:
    """Measure and print; write JSON if asked."""
    arguments = read_options(
        __doc__.splitlines()[0],
        lambda parser: parser.add_argument("--blocks", type=int, default=8, help="of A B B A; left out: 8"),
    )
    blocks = 2 if arguments.quick else arguments.blocks
    words = probe.load_word_vectors()
    print(f"{words.name}, {len(words):,} words, on {hardware()}", flush=True)
    found = [neighbours(words, blocks)]
    print(found[-1], flush=True)
    found += evidence(words, arguments.model, 2 if arguments.quick else 3)
    write_json(arguments.json, words.name, found)


def neighbours(words: probe.WordVectors, blocks: int) -> Measured:
    """100 words in one call, beside gensim's loop."""
    keyed = KeyedVectors(words.d)
    keyed.add_vectors(list(words.words), words.vectors.numpy())
    keyed.fill_norms()
    queries = [words.words[place] for place in range(200, 200 + 300 * N_QUERIES, 300)]

    def ours():
        return probe.nearest_neighbours(words, queries, k=K).words

    def theirs():
        return tuple(tuple(word for word, _ in keyed.most_similar(query, topn=K)) for query in queries)

    print(f"the same neighbours: {'yes' if ours() == theirs() else 'NO'}", flush=True)
    name = f"{N_QUERIES} words' neighbours, probe / gensim's most_similar"
    return compare(name, ours, theirs, pairs=blocks, bar=1.0)


def evidence(words: probe.WordVectors, model: str | None, repeats: int) -> list[Measured]:
    """The whole evaluation of plurality on GloVe, and its profile through every layer of a GPT."""
    pairs = probe.load_pairs("plurality")
    gpt = probe.load_model(model)

    def evaluation():
        return probe.evaluate_direction(probe.fit_direction(words, pairs.all), progress=False)

    def profile():
        return probe.layer_profile(gpt, pairs.all[:120], templates=pairs.templates, progress=False)

    found = []
    for name, call, bar in (
        ("plurality in GloVe: 1,000 permutations, 1,000 directions", evaluation, 20.0),
        ("layer profile, 120 pairs, with the untrained twin", profile, 60.0),
    ):
        found.append(Measured(name, *spread([seconds(call) for _ in range(repeats)]), "s", f"{repeats} runs", bar))
        print(found[-1], flush=True)
    return found


if __name__ == "__main__":
    main()
