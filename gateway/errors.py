"""Every error that Altgate tells a client, and the one place where they become bytes.

    GatewayError                      status  code
    ├── MalformedRequest                 400  malformed_request
    ├── InvalidRequest                   400  whatever the fault's kind is called
    │   ├── UnsupportedParameter         400  unsupported_parameter
    │   └── PictureError                 400  one of OpenAI's image codes
    ├── InvalidKey                       401  invalid_api_key
    ├── ForeignOrigin                    403  origin_not_allowed
    ├── AdminOnly                        403  admin_key_required
    ├── ModelNotFound                    404  model_not_found
    ├── PathNotFound                     404  unknown_url
    ├── MethodNotAllowed                 405  method_not_supported
    ├── RequestTimeout                   408  request_timeout
    ├── BodyTooLarge                     413  request_too_large
    ├── UrlTooLong                       414  url_too_long
    ├── UnsupportedMediaType             415  unsupported_media_type
    ├── Overloaded                       429  rate_limit_exceeded
    ├── LimitReached                     429  rate_limit_exceeded
    ├── HeadersTooLarge                  431  headers_too_large
    ├── InternalError                    500  internal_error
    ├── EngineFault                      502  engine_error
    ├── EngineUnavailable                503  engine_unavailable
    ├── UsageUnavailable                 503  usage_unavailable
    ├── EngineTimeout                    504  engine_timeout
    └── NotCached                        504  not_cached

A message names the field, the cause and the remedy. It never holds a library's text, a path of this machine, a
network address or a byte of a picture.
"""

import random
from http import HTTPStatus
from math import ceil

from gateway import wire

LONGEST_RETRY = 60.0  # seconds; OpenAI's clients do not come back at all when told to wait for longer than two minutes


class GatewayError(Exception):
    """An error with its public sentence.

    `retry_after` is in seconds, at most `LONGEST_RETRY`, None where trying again will not help. `heals` is False where
    only people can help, so that a client should not try again by itself.
    """

    status = 500
    type = "server_error"
    code: str | None = None
    retry_after: float | None = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.code
        self.retry_after = min(LONGEST_RETRY, retry_after) if retry_after is not None else self.retry_after
        self.heals = self.retry_after is not None


class MalformedRequest(GatewayError):
    """What arrived is no HTTP, or could be read in two ways."""

    status = 400
    type = "invalid_request_error"
    code = "malformed_request"


class InvalidRequest(GatewayError):
    """The client can mend it: a field is missing, of the wrong type or out of bounds."""

    status = 400
    type = "invalid_request_error"

    @classmethod
    def from_fault(cls, fault: wire.Fault) -> "InvalidRequest":
        """The request could not be read."""
        return cls(fault.message, param=fault.param, code=fault.code)


class UnsupportedParameter(InvalidRequest):
    """The field is legal, but the model asked for cannot honour it."""

    code = "unsupported_parameter"


class PictureError(InvalidRequest):
    """A picture could not be had or used; `code` is one of OpenAI's image codes."""


class InvalidKey(GatewayError):
    """There is no key, or none that is known; the message repeats nothing of what was sent."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class ForeignOrigin(GatewayError):
    """A web page from elsewhere made a browser ask."""

    status = 403
    type = "invalid_request_error"
    code = "origin_not_allowed"


class AdminOnly(GatewayError):
    """The key is no administrator's."""

    status = 403
    type = "invalid_request_error"
    code = "admin_key_required"


class ModelNotFound(GatewayError):
    """No model of that name is configured, or the key may not use it."""

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"


class PathNotFound(GatewayError):
    """Nothing is served at that path."""

    status = 404
    type = "invalid_request_error"
    code = "unknown_url"


class MethodNotAllowed(GatewayError):
    """The path is served, but not for that method."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_supported"


class RequestTimeout(GatewayError):
    """The request's headers or its body did not arrive in time."""

    status = 408
    type = "invalid_request_error"
    code = "request_timeout"
    retry_after = 1.0


class BodyTooLarge(GatewayError):
    """The body is over the limit; the message names the limit."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class UrlTooLong(GatewayError):
    """The request's target is over the limit."""

    status = 414
    type = "invalid_request_error"
    code = "url_too_long"


class UnsupportedMediaType(GatewayError):
    """The body is compressed, or no JSON by its label."""

    status = 415
    type = "invalid_request_error"
    code = "unsupported_media_type"


class Overloaded(GatewayError):
    """A bound is reached; nothing was started for this request."""

    status = 429
    type = "requests"
    code = "rate_limit_exceeded"
    retry_after = 1.0


class LimitReached(GatewayError):
    """A limit of the key is reached; nothing was started for this request."""

    status = 429
    type = "requests"
    code = "rate_limit_exceeded"


class HeadersTooLarge(GatewayError):
    """The headers are over the limit, by number or by size."""

    status = 431
    type = "invalid_request_error"
    code = "headers_too_large"


class InternalError(GatewayError):
    """Our fault. The log has the rest, under the request's id."""

    code = "internal_error"


class EngineFault(GatewayError):
    """The engine answered with something that is no answer."""

    status = 502
    code = "engine_error"


class EngineUnavailable(GatewayError):
    """The engine is not there: it loads, could not load, or went away in the middle."""

    status = 503
    code = "engine_unavailable"
    retry_after = 1.0


class UsageUnavailable(GatewayError):
    """The counts of usage cannot be read now. Counting goes on."""

    status = 503
    code = "usage_unavailable"
    retry_after = 1.0


class EngineTimeout(GatewayError):
    """The engine did not finish within the limit."""

    status = 504
    code = "engine_timeout"


class NotCached(GatewayError):
    """The client wanted a kept answer or none (RFC 9111, 5.2.1.7), and there is none."""

    status = 504
    type = "invalid_request_error"
    code = "not_cached"


def envelope(error: GatewayError) -> wire.ErrorEnvelope:
    """The error in OpenAI's shape."""
    return wire.ErrorEnvelope(
        wire.ErrorBody(message=error.message, type=error.type, param=error.param, code=error.code)
    )


def render(error: GatewayError) -> tuple[int, dict[str, str], bytes]:
    """The error as status, headers and body.

    OpenAI's SDKs obey the headers: `retry-after` where waiting helps, `x-should-retry: false` where it cannot.
    """
    headers = {"content-type": "application/json"}
    if not error.heals:
        headers["x-should-retry"] = "false"
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, ceil(error.retry_after)))
        headers["retry-after-ms"] = str(max(1, ceil(_spread(error.retry_after) * 1000)))
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    return error.status, headers, wire.encode(envelope(error))


def _spread(seconds: float) -> float:
    """Up to half as much again: those who were refused together are not to come back together."""
    return min(LONGEST_RETRY, seconds * (1 + random.random() / 2))  # noqa: S311 - nobody gains by guessing it
