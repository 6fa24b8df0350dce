"""The tools that the server itself may run for a model, and how far one agent may go."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from gateway.settings.section import Section, SettingsError

_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_SERVER_NAME: Final = re.compile(r"[a-zA-Z0-9-]{1,24}")
PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")


class HttpToolSettings(Section):
    """A tool that is one HTTP request. Its name is what the model calls it by."""

    description: str = Field(min_length=1, description="Tells the model what it does and when to call it.")
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = Field("POST", description="The request's method.")
    url: str = Field(
        description="http(s) address; `{name}` in its path or query is replaced by that argument, percent-encoded. "
        "Other arguments go into the query (GET, DELETE) or into a JSON body."
    )
    parameters: dict[str, Any] = Field(
        {"type": "object", "properties": {}, "additionalProperties": False},
        description="JSON Schema of the arguments; calls that are not valid against it are not made.",
    )
    headers: dict[str, str] = Field({}, description="Headers that are no secrets.")
    headers_env: dict[str, str] = Field({}, description="Secret headers: the environment variable that holds each.")
    headers_file: dict[str, Path] = Field({}, description="Secret headers: the file that holds each.")
    timeout: float = Field(15.0, gt=0, description="Seconds that one call may take.")
    max_response_bytes: int = Field(32 * 1024, ge=1, description="Longer answers are cut.")
    tenants: list[str] | None = Field(None, description="Tenants that may use it; default: all.")

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment:
            raise ValueError("expected an http(s) address")
        if PLACEHOLDER.search(parts.netloc) or parts.username or parts.password:
            raise ValueError("host and port are fixed, and credentials go into headers_env or headers_file")
        return value

    @model_validator(mode="after")
    def _check_placeholders(self) -> HttpToolSettings:
        properties = self.parameters.get("properties", {})
        required = self.parameters.get("required", [])
        for name in PLACEHOLDER.findall(self.url):
            if name not in properties or name not in required:
                raise ValueError(f"url: '{name}' is not a required property of parameters")
        return self


class McpServerSettings(Section):
    """An MCP server whose tools are offered as `NAME__TOOL`: `url` (streamable HTTP) or `command` (stdio)."""

    url: str | None = Field(None, description="Address of a streamable HTTP endpoint.")
    headers: dict[str, str] = Field({}, description="Headers that are no secrets (with `url`).")
    headers_env: dict[str, str] = Field({}, description="Secret headers: the environment variable that holds each.")
    headers_file: dict[str, Path] = Field({}, description="Secret headers: the file that holds each.")
    command: list[str] | None = Field(None, min_length=1, description="Program and arguments of a stdio server.")
    env: dict[str, str] = Field({}, description="Environment of the program, no secrets.")
    env_from: list[str] = Field([], description="Variables of our own environment that the program is given too.")
    tools: list[str] | None = Field(None, description="Its tools that are offered; default: all.")
    timeout: float = Field(30.0, gt=0, description="Seconds that connecting, or one call, may take.")
    max_result_bytes: int = Field(32 * 1024, ge=1, description="Longer results are cut.")
    refresh: float = Field(60.0, gt=0, description="Seconds between looks at its tools; also how often it is retried.")
    tenants: list[str] | None = Field(None, description="Tenants that may use it; default: all.")

    @model_validator(mode="after")
    def _check_transport(self) -> McpServerSettings:
        if (self.url is None) is (self.command is None):
            raise ValueError("expected either url or command")
        if self.url is not None and urlsplit(self.url).scheme not in ("http", "https"):
            raise ValueError("url: expected an http(s) address")
        return self


class AgentSettings(Section):
    """Tools that `/v1/agent` runs on the server, and the bounds on one request to it."""

    http: dict[str, HttpToolSettings] = Field({}, description="HTTP tools by name.")
    mcp: dict[str, McpServerSettings] = Field({}, description="MCP servers by name.")
    max_steps: int = Field(16, ge=1, le=1000, description="Most model turns of one request.")
    max_total_tokens: int = Field(131_072, ge=1, description="Most tokens, prompts included, over all turns.")
    step_timeout: float = Field(120.0, gt=0, description="Most seconds of one step: a model turn and its tools.")
    max_calls: int = Field(16, ge=1, le=128, description="Most calls that one step runs.")

    @field_validator("http")
    @classmethod
    def _check_tool_names(cls, value: dict[str, HttpToolSettings]) -> dict[str, HttpToolSettings]:
        for name in value:
            if not _NAME.fullmatch(name):
                raise ValueError(f"'{name}' is no name of a tool: 1 to 64 letters, digits, '_' and '-'")
        return value

    @field_validator("mcp")
    @classmethod
    def _check_server_names(cls, value: dict[str, McpServerSettings]) -> dict[str, McpServerSettings]:
        for name in value:
            if not _SERVER_NAME.fullmatch(name):
                raise ValueError(f"'{name}' is no name of a server: 1 to 24 letters, digits and '-'")
        return value


def secret_headers(settings: HttpToolSettings | McpServerSettings, where: str) -> dict[str, str]:
    """All headers of ``settings``, secrets read. Raises :class:`SettingsError` for one that is not there."""
    found = dict(settings.headers)
    for header, variable in settings.headers_env.items():
        found[header] = _from_environment(variable, f"{where}.headers_env.{header}", os.environ)
    for header, path in settings.headers_file.items():
        try:
            found[header] = path.read_text("utf-8").strip()
        except OSError as error:
            raise SettingsError(f"{where}.headers_file.{header}: {error.strerror}: {path}") from error
    return found


def program_environment(settings: McpServerSettings, where: str) -> dict[str, str]:
    """What a stdio server is given. Raises :class:`SettingsError` for a variable that is not set."""
    passed = {name: _from_environment(name, f"{where}.env_from", os.environ) for name in settings.env_from}
    return {**settings.env, **passed}


def _from_environment(variable: str, where: str, environ: Mapping[str, str]) -> str:
    value = environ.get(variable)
    if value is None:
        raise SettingsError(f"{where}: {variable} is not set")
    return value
