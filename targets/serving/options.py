"""Options of `edgewright serve`: where it listens, and the limits that protect it.

With the defaults, bodies of requests take at most `max_connections` x `max_body_bytes` = 128 MiB.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import BaseModel, Field

from ...steps.panels import Panels
from ...steps.places import Reads
from ...steps.strict import STRICT

__all__ = ["ServeLimits", "ServeOptions"]


class ServeOptions(BaseModel):
    """How an artifact is served over HTTP."""

    model_config = STRICT
    panels: ClassVar = Panels("Speed and memory", common=("host", "port", "api_key_file"))

    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8000, ge=0, lt=65536, description="port to listen on")
    api_key_file: Annotated[Path | None, Reads()] = Field(
        default=None,
        description="file with one API key a line; requests without one of them get status 401. "
        "Default: the key in the environment variable EDGEWRIGHT_API_KEY, if it is set",
    )
    threads: int | None = Field(
        default=None, ge=1, description="threads of ONNX Runtime; default: all cores"
    )
    max_batch: int = Field(
        default=16, ge=1, description="most sequences in one batch; fewer if memory is short"
    )
    context: int | None = Field(
        default=None,
        ge=2,
        description="most tokens of prompt and answer together; default: the model's limit",
    )
    prefix_cache_mb: int = Field(
        default=256,
        ge=0,
        description="memory for the caches of earlier requests; a prompt that begins like one of "
        "them, with the same API key, starts from there; 0: none are kept",
    )


class ServeLimits(BaseModel):
    """What one client may ask of the server, and all of them together."""

    model_config = STRICT
    panels: ClassVar = Panels("Limits for clients")

    max_waiting: int = Field(
        default=256, ge=1, description="most requests that wait; further ones get status 429"
    )
    max_connections: int = Field(
        default=512,
        ge=1,
        description="most open connections; a further one replaces the one that has been sending "
        "its request for the longest time, or gets status 503",
    )
    max_body_bytes: int = Field(
        default=2**18, ge=1, description="most bytes of a request; a larger one gets status 413"
    )
    max_prompt_characters: int = Field(
        default=100_000, ge=1, description="most characters of a prompt, or of all messages"
    )
    max_messages: int = Field(default=256, ge=1, description="most messages of a chat")
    max_stops: int = Field(default=16, ge=1, description="most stop texts of a request")
    max_stop_characters: int = Field(
        default=256, ge=1, description="most characters of a stop text"
    )
    max_new_tokens: int = Field(
        default=4096, ge=1, description="largest max_tokens that a request may ask for"
    )
    max_choices: int = Field(
        default=8, ge=1, description="most answers of one request: prompts times n"
    )
    max_tools: int = Field(default=64, ge=1, description="most tools of a request")
    max_schema_bytes: int = Field(
        default=2**14, ge=1, description="most bytes of a JSON schema that an answer follows"
    )
    request_seconds: float = Field(
        default=30, gt=0, description="most seconds that a client may take to send a request"
    )
    stall_seconds: float = Field(
        default=30,
        gt=0,
        description="a connection is closed when its client has been behind in reading the answer "
        "for this many seconds",
    )
    keep_alive_seconds: int = Field(
        default=5, ge=1, description="seconds that an idle connection stays open"
    )
    grace_seconds: int = Field(
        default=30,
        ge=1,
        description="after SIGTERM or Ctrl-C, answers that are running get this many seconds",
    )
