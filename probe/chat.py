"""Chat: the same next-token game, played on a text that a model's own template makes of a conversation.

The template is a Jinja program in the model's files. It runs in Jinja's sandbox, with what Hugging Face gives it:
messages, special tokens, `raise_exception`, `strftime_now`.
"""

import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from probe.arguments import checked, several
from probe.errors import BadPrompt, check_choice
from probe.generation import Generation, generate
from probe.gpt import GPT

ROLES = ("system", "user", "assistant")
Message = Mapping[str, str]
"""{"role": "system" | "user" | "assistant", "content": text}"""


@checked
def chat(model: GPT, messages: str | Sequence[Message], **settings: Any) -> Generation:
    """Answer a conversation: `generate` on the text that the model's chat template makes of it.

    Args:
        messages: {"role": ..., "content": ...} each, the user's last; or the text of one user message.
        settings: those of `probe.generate`.

    Returns:
        The answer as it is made. `.text` is the answer; `.prompt` the whole conversation as tokens, marks included.

    Raises:
        BadPrompt: no template, no messages, an unknown role, or the text of a special token inside a message.
    """
    text = chat_prompt(model, messages)
    return generate(model, model.tokenizer.encode(text, add_special_tokens=False), **settings)  # the template has them


def chat_prompt(model: GPT, messages: str | Sequence[Message]) -> str:
    """The text that a conversation becomes, up to where the answer begins.

    Raises:
        BadPrompt: as `chat`.
    """
    template = getattr(model.tokenizer, "chat_template", None)
    if template is None:
        raise BadPrompt(
            f"{model.name} has no chat template, so it was not trained to chat; probe.generate continues any text"
        )
    conversation = (
        [{"role": "user", "content": messages}] if isinstance(messages, str) else list(several("messages", messages))
    )
    _check_messages(model, conversation)
    return _render(template, conversation, model.tokenizer.bos, model.tokenizer.eos)


def _check_messages(model: GPT, conversation: Sequence[Any]) -> None:
    if not conversation:
        raise BadPrompt("no messages: a conversation needs at least one of the user's")
    for number, message in enumerate(conversation):
        if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
            raise BadPrompt(f"message {number}: expected {{'role': ..., 'content': ...}}, got {str(message)[:80]}")
        check_choice("role", message["role"], ROLES)
        content = message["content"]
        if not isinstance(content, str):
            raise BadPrompt(f"message {number}: expected text, got {type(content).__name__}")
        marks = model.tokenizer.str_tokens(sorted(model.tokenizer.special_ids))
        found = [mark for mark in marks if mark and mark in content]
        if found:
            raise BadPrompt(
                f"message {number} holds {found[0]!r}, which is a special token of this model: it would end the "
                "message and let its writer speak for someone else"
            )
    if conversation[-1]["role"] != "user":
        raise BadPrompt(f"the last message is the {conversation[-1]['role']}'s: an answer follows one of the user's")


def _render(template: str, conversation: Sequence[Message], bos: str | None, eos: str | None) -> str:
    from jinja2 import TemplateError  # a tenth of a second that only chats need

    try:
        return _compiled(template).render(
            messages=conversation, add_generation_prompt=True, bos_token=bos or "", eos_token=eos or "", tools=None,
            documents=None,
        )  # fmt: skip
    except TemplateError as error:
        raise BadPrompt(f"this model's chat template does not take these messages: {error}") from error


@functools.lru_cache(maxsize=8)
def _compiled(template: str) -> Any:
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = functools.partial(json.dumps, ensure_ascii=False)  # Jinja's own is for HTML
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda how: datetime.datetime.now().strftime(how)
    return environment.from_string(template)
