"""Converts the lines of a batch's results to rows of the store."""

from collections.abc import Iterator, Mapping
from typing import Any

from mmkp_jax.errors import InputError
from mmkp_jax.runtime.limits import ANSWER
from mmkp_jax.teacher.answers import answer_row, lost_row, message_of
from mmkp_jax.teacher.bodies import NotJson, read_body
from mmkp_jax.teacher.client import Client
from mmkp_jax.teacher.cost import Prices, Usage
from mmkp_jax.teacher.faults import Refused, Retryable
from mmkp_jax.teacher.questions import Request
from mmkp_jax.teacher.store import Store


class Results:
    """Rows of the store from the results of one batch.

    Args:
        requests: `id`, `asked` and `most` tokens of each request, by key.

    Attributes:
        unread: lines that cannot be read; the endpoint may have charged for them.
        reasons: why a request has no answer, by key.
    """

    def __init__(self, requests: Mapping[str, Any], store: Store, client: Client, prices: Prices):
        self._requests, self._store, self._client, self._prices = requests, store, client, prices
        self.unread, self.reasons = 0, dict[str, str]()

    def row(self, line: bytes) -> dict[str, Any] | None:
        """The store's row of one line; None where the store has it already, or the line gives no row."""
        if not line.strip():
            return None
        try:
            result = read_body(line) if len(line) <= ANSWER.bytes() else {}
        except NotJson:
            result = {}
        key = result.get("custom_id")
        if not isinstance(key, str):
            self.unread += 1
            return None
        if key not in self._requests or key in self._store:
            return None
        asked, most = self._asked(key)
        try:
            return answer_row(asked, self._body(result), most, self._prices)
        except Refused as error:
            return answer_row(asked, None, most, self._prices, reason=str(error), charged=error.body)
        except Retryable as error:
            if error.final:
                return answer_row(asked, error.body, most, self._prices)
            self.reasons[key] = str(error)
            return lost_row(asked, error.body, most, self._prices, str(error)) if error.charged else None
        except InputError as error:
            self.reasons[key] = error.what
        return None

    def lost(self, store: Store) -> Iterator[dict[str, Any]]:
        """Yields a row for each unread line, charged to the most expensive requests that have no result."""
        open_ = [key for key in self._requests if key not in store and key not in self.reasons]
        open_.sort(key=lambda key: sum(self._asked(key)[1]), reverse=True)
        for key in open_[: self.unread]:
            asked, most = self._asked(key)
            yield lost_row(asked, None, most, self._prices, "its line of results cannot be read")

    def _asked(self, key: str) -> tuple[Request, Usage]:
        request = self._requests[key]
        return Request(request["id"], request["asked"]), Usage(**request["most"])

    def _body(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the body of an answer that holds a message; raises as the client does."""
        response = result.get("response")
        if not isinstance(response, dict):
            raise Retryable(message_of(result.get("error")) or "no answer")
        body, status = response.get("body"), response.get("status_code")
        if status == 200 and isinstance(body, dict):
            return self._client.require_message(body)
        known = isinstance(status, int) and 400 <= status < 600
        error = body.get("error") if isinstance(body, dict) else ""
        raise self._client.status_error(status if known else 502, error, {})
