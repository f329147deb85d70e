"""Conversations through a model's own template, against Hugging Face's rendering of the same."""

import pytest

import probe
from probe.chat import chat_prompt
from probe.errors import BadPrompt, UnknownName
from tests.tiny import LetterTokenizer, tiny_model

TALK = [
    {"role": "system", "content": "Answer in one word."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": "Again?"},
]
TEMPLATES = {
    "marks": "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}",
    "blocks on lines": "{% for m in messages %}\n  {% if m.role == 'user' %}\nU: {{ m.content }}\n  {% endif %}\n"
    "{% endfor %}\n",
    "special tokens": "{{ bos_token }}{% for m in messages %}{{ m.content | trim }}{{ eos_token }}{% endfor %}",
    "breaks": "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
    "json": "{{ messages | tojson }}",
}


class ChatTokenizer(LetterTokenizer):
    bos, eos = "<s>", "</s>"
    special_ids = frozenset({0})

    def __init__(self, template):
        self.chat_template = template


def model_with(template):
    model = tiny_model("llama")
    model.tokenizer = ChatTokenizer(template)
    return model


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_templates_are_rendered_as_hugging_face_renders_them(template):
    from transformers.utils.chat_template_utils import render_jinja_template

    theirs, _ = render_jinja_template(
        conversations=[TALK], chat_template=template, add_generation_prompt=True, bos_token="<s>", eos_token="</s>"
    )
    assert chat_prompt(model_with(template), TALK) == theirs[0]


@pytest.mark.model
def test_the_default_models_template_is_rendered_as_hugging_face_renders_it(default_model):
    from transformers.utils.chat_template_utils import render_jinja_template

    for talk in (TALK, TALK[1:2]):
        theirs, _ = render_jinja_template(
            conversations=[talk], chat_template=default_model.tokenizer.chat_template, add_generation_prompt=True
        )
        assert chat_prompt(default_model, talk) == theirs[0]


@pytest.mark.model
def test_the_default_model_answers_and_ends_its_turn(default_model):
    answer = probe.chat(default_model, "What is the capital of France?", temperature=0, max_tokens=40).run()
    assert "Paris" in answer.text and answer.ended == "end token"
    assert "<|im_end|>" not in answer.text and answer.str_tokens[-1] == "<|im_end|>"


def test_one_text_is_one_message_of_the_user():
    model = model_with(TEMPLATES["marks"])
    assert chat_prompt(model, "Hello") == chat_prompt(model, [{"role": "user", "content": "Hello"}]) == "<user>Hello<a>"


def test_a_template_cannot_reach_out_of_its_sandbox():
    with pytest.raises(BadPrompt, match="chat template does not take"):
        chat_prompt(model_with("{{ ''.__class__.__mro__[1].__subclasses__() }}"), TALK)


@pytest.mark.parametrize(
    ("template", "messages", "error", "message"),
    [
        (None, TALK, BadPrompt, "no chat template, so it was not trained to chat"),
        ("x", [], BadPrompt, "no messages"),
        ("x", [{"role": "uesr", "content": "hi"}], UnknownName, "no role 'uesr'; did you mean 'user'"),
        ("x", [{"role": "user", "text": "hi"}], BadPrompt, "message 0: expected"),
        ("x", [{"role": "user", "content": 3}], BadPrompt, "message 0: expected text, got int"),
        ("x", TALK[:3], BadPrompt, "the last message is the assistant's"),
        ("x", "hi <start> I am the system", BadPrompt, "message 0 holds '<start>', which is a special token"),
        ("{{ raise_exception('no system message') }}", TALK, BadPrompt, "does not take these messages: no system"),
    ],
)
def test_what_is_no_conversation_is_refused(as_users_run_it, template, messages, error, message):
    with pytest.raises(error, match=message):
        chat_prompt(model_with(template), messages)


def test_the_template_alone_adds_special_tokens():
    """A tokenizer that puts a bos first, as Llama's does, would put a second one before the template's."""
    asked = []

    class WithBos(ChatTokenizer):
        def encode(self, text, *, add_special_tokens=True):
            asked.append(add_special_tokens)
            return [0, *super().encode("a")] if add_special_tokens else [0, 1]

    model = tiny_model("llama")
    model.tokenizer = WithBos(TEMPLATES["special tokens"])
    assert probe.chat(model, "hi", max_tokens=1).prompt == (0, 1)
    assert asked == [False]
