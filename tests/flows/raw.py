"""HTTP as it is on the wire, for what a client library would hide."""

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tests.services import Server


@dataclass(frozen=True)
class Answer:
    """A response, read to its end; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error in OpenAI's envelope; all four keys are there."""
        error: dict[str, Any] = self.json()["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert self.headers["content-type"] == "application/json"
        return error


def send(
    server: Server,
    method: str,
    path: str,
    body: bytes | str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection(urlsplit(server.root).netloc, timeout=120)
    try:
        connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, names, response.read())
    finally:
        connection.close()


def chat(server: Server, headers: Mapping[str, str] | None = None, **fields: Any) -> Answer:
    """A chat completion with those fields over the plainest one."""
    plain = {"model": "demo", "messages": [{"role": "user", "content": "hello"}]}
    return send(server, "POST", "/v1/chat/completions", json.dumps(plain | fields), headers)
