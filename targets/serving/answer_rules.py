"""What the answer to a chat request must be: its reasoning, its calls of tools, its format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .failures import Rejected
from .grammar import Grammars
from .guide import Constrained, Forced, Free, Guide, Stage, Thinking
from .reasoning import CLOSE, OPEN
from .requests import ChatRequest
from .tool_calls import ToolCalls
from .tool_formats import CallFormat, format_of
from .tools import NamedChoice, ObjectFormat, SchemaFormat, Tool
from .vocabulary import Vocabulary

__all__ = ["AnswerRules", "offered_tools"]

MakeStage = Callable[[], Stage]


def offered_tools(request: ChatRequest) -> list[Tool]:
    """The tools that the model may call: none if the request says so, or the one that it names.

    Raises:
        Rejected: the request contradicts itself.
    """
    tools = request.tools or []
    names = [tool.function.name for tool in tools]
    choice = request.tool_choice
    if len(set(names)) < len(names):
        raise _wrong("tools", "two tools have the same name")
    if choice not in (None, "none", "auto") and not tools:
        raise _wrong("tool_choice", "it needs `tools`")
    if choice == "none":
        return []
    if isinstance(choice, NamedChoice):
        if choice.function.name not in names:
            raise _wrong("tool_choice", f"there is no tool `{choice.function.name}`")
        return [tool for tool in tools if tool.function.name == choice.function.name]
    return tools


@dataclass(frozen=True)
class AnswerRules:
    """Makes the guides of answers, and what takes their calls out.

    Args:
        vocabulary: the model's tokens.
        grammars: compiles JSON schemas.
        size: number of logits of a position.
        ends: tokens that end an answer.
    """

    vocabulary: Vocabulary
    grammars: Grammars
    size: int
    ends: frozenset[int]

    def calls(self, request: ChatRequest, template: str) -> Callable[[], ToolCalls | None]:
        """Make what takes the calls out of an answer, once for each answer.

        Raises:
            Rejected: the model cannot call tools, or in a way that is not known here.
        """
        tools = offered_tools(request)
        if not tools:
            return _nothing
        names = frozenset(tool.function.name for tool in tools)
        several = request.parallel_tool_calls is not False
        return partial(ToolCalls, _known_format(template), names, several)

    def guide(
        self, request: ChatRequest, template: str, reasons: bool
    ) -> Callable[[], Guide | None]:
        """Make the guide of an answer, once for each answer.

        Args:
            request: the request.
            template: the model's chat template.
            reasons: whether the prompt opens the reasoning.

        Raises:
            Rejected: the model has no reasoning or no tools, or a schema is not supported.
        """
        budget = request.max_thinking_tokens
        if budget is not None and OPEN not in template and not self.vocabulary.has(OPEN):
            raise _wrong(
                "max_thinking_tokens", "this model does not reason", "unsupported_parameter"
            )
        rules, repeat = self._rules(request, template)
        if not rules and budget is None:
            return _nothing
        stages = list(rules or [Free])
        if reasons or (budget is not None and not rules):
            closing = self.vocabulary.encode(CLOSE, add_special_tokens=False)
            inner = None
            if rules:  # an answer that ends in its reasoning would not follow them
                inner = np.ones(self.size, np.bool_)
                inner[list(self.ends)] = False
            decode = self.vocabulary.decode_marked
            stages.insert(0, partial(Thinking, reasons, budget, closing, decode, inner))
        return partial(Guide, stages, repeat=len(stages) - len(rules) if repeat else None)

    def _rules(self, request: ChatRequest, template: str) -> tuple[list[MakeStage], bool]:
        """The stages after the reasoning, and whether they repeat; none: anything may come."""
        format = request.response_format
        tools = offered_tools(request)
        wanted = isinstance(format, ObjectFormat | SchemaFormat)
        if wanted and tools:
            raise _wrong(
                "response_format",
                "an answer is either in a format or may call tools: give tool_choice none",
                "unsupported_parameter",
            )
        if isinstance(format, ObjectFormat):
            return [self._constrained({"type": "object"}, "response_format")], False
        if isinstance(format, SchemaFormat):
            schema = format.json_schema.schema_
            schema = {"type": "object"} if schema is None else schema
            return [self._constrained(schema, "response_format.json_schema.schema")], False
        if tools:
            return self._call_rules(request, tools, _known_format(template))
        return [], False

    def _call_rules(
        self, request: ChatRequest, tools: list[Tool], format: CallFormat
    ) -> tuple[list[MakeStage], bool]:
        """As `_rules`, for a request with tools."""
        must = request.tool_choice not in (None, "auto")
        if not must and not any(tool.function.strict for tool in tools):
            return [], False
        if not must and format.bare:
            raise _wrong(
                "tools",
                f"{format.name} models begin a call without a mark, so `strict` needs tool_choice "
                "required, or the name of a function",
                "unsupported_parameter",
            )
        schemas = {tool.function.name: tool.function.arguments for tool in tools}
        call = self._constrained(format.schema(schemas), "tools")
        if must:
            before, after = self._forced(format.opening), self._forced(format.closing)
            return [*before, call, *after], False
        free = partial(Free, format.mark, self.vocabulary.decode_marked)
        between, after = self._forced(format.space), self._forced(format.closing)
        return [free, *between, call, *after], bool(format.end)

    def _constrained(self, schema: Mapping[str, Any], param: str) -> MakeStage:
        matcher = self.grammars.matcher(schema, param)
        return lambda: Constrained(matcher.deep_copy(), self.size)

    def _forced(self, text: str) -> list[MakeStage]:
        """A stage that forces a text; none if it is empty."""
        tokens = self.vocabulary.encode(text, add_special_tokens=False)
        return [partial(Forced, tokens)] if tokens else []


def _known_format(template: str) -> CallFormat:
    """How the model with this template writes calls."""
    if "tools" not in template:
        raise _wrong("tools", "this model's chat template has no tools", "unsupported_parameter")
    if not (found := format_of(template)):
        raise _wrong(
            "tools",
            "this model writes calls in a way that this server does not read",
            "unsupported_parameter",
        )
    return found


def _nothing() -> None:
    return None


def _wrong(param: str, reason: str, code: str = "invalid_value") -> Rejected:
    return Rejected(400, f"{param}: {reason}", param=param, code=code)
