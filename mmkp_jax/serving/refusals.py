"""What a request is refused with: a status and an error in OpenAI's form."""

from typing import Any


class Refusal(Exception):
    """A request that is not answered.

    Args:
        status: the HTTP status.
        message: what is wrong, in one line.
        param: the field of the request that is wrong; empty if none is.
    """

    def __init__(self, status: int, message: str, param: str = ""):
        super().__init__(message)
        self.status, self.message, self.param = status, " ".join(message.split()), param

    def body(self) -> dict[str, Any]:
        """The error as JSON."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        code = {401: "invalid_api_key", 404: "not_found"}.get(self.status)
        return {"error": {"message": self.message, "type": kind, "param": self.param or None, "code": code}}
