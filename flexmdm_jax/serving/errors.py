"""What a client is told when it does not get what it asked for."""

from collections.abc import Mapping
from typing import Any

# A message may quote what a client sent, which may be as long as a body.
_LONGEST = 500


class ApiError(Exception):
    """An answer other than 200.

    Attributes:
      status: Of HTTP.
      message: What is wrong, and what to do.
      kind: OpenAI's word for the kind of error.
      param: The field that it is about, or None.
      code: OpenAI's word for this very error, or None.
      headers: Of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.kind = status, message, kind
        self.param, self.code, self.headers = param, code, dict(headers or {})

    def json(self) -> dict[str, Any]:
        """Returns the body of the answer, in OpenAI's form."""
        message = self.message
        if len(message) > _LONGEST:
            message = f"{message[: _LONGEST - 3]}..."
        values = {"message": message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": values}


def failed() -> ApiError:
    """Returns the error of a server that is at fault itself."""
    message = "something went wrong in the server; its log says why"
    return ApiError(500, message, kind="server_error")


def unavailable(message: str, seconds: int) -> ApiError:
    """Returns the error of a server that cannot take requests now, but maybe in some seconds."""
    headers = {"Retry-After": str(seconds)}
    return ApiError(503, message, kind="server_error", code="unavailable", headers=headers)
