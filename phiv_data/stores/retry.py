"""Try again what a store may answer the next time; say in one line what it will not.

    data = retried(address, "cannot be read", lambda: ask_the_store())

Throttling (503 SlowDown, 429), cut answers, time-outs and servers that are away for a moment are tried again after 0.2,
0.6, 1.8 and 5.4 seconds, each up to half longer or shorter so that many workers do not come back at once.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from phiv_data.stores.address import Address
from phiv_schemas.errors import EnvironmentProblem

T = TypeVar("T")

WAITS_S = (0.2, 0.6, 1.8, 5.4)

_TRANSIENT = re.compile(
    r"NETWORK_CONNECTION|SLOW_DOWN|SlowDown|THROTTL|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|REQUEST_TIME|RequestTimeout"
    r"|HTTP status (5\d\d|429)|\b(429|500|502|503|504)\b.*(error|status|unavailable|too many)|curlCode"
    r"|time[d]?[ -]?out|connection (reset|refused|aborted|broken|closed)|incomplete|cut short|temporar"
    r"|kUnavailable|UNAVAILABLE|kDeadlineExceeded",
    re.IGNORECASE,
)
_HINTS = (
    (
        r"ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE|CREDENTIAL|FORBIDDEN|EXPIRED|PERMISSION|UNAUTH|\b40[13]\b",
        "Check the credentials (S3: AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY) and what they allow",
    ),
    (r"NO_SUCH_BUCKET|NoSuchBucket|bucket does not exist|Repository Not Found", "Check the address"),
    (r"SLOW_DOWN|SlowDown|THROTTL|429", "The store asks for fewer requests: run the same command again later"),
    (_TRANSIENT.pattern, "Check the network and the store (S3: AWS_ENDPOINT_URL_S3), then run the same command again"),
)


class CutAnswer(OSError):
    """A store sent fewer bytes than it had announced."""


def retried(address: Address, failure: str, operation: Callable[[], T]) -> T:
    """What `operation` gives, tried again while that may help. FileNotFoundError passes: it is an answer.

    EnvironmentProblem, `address: failure (why). What to do.`, for what stays wrong.
    """
    for wait_s in (*WAITS_S, None):
        try:
            return operation()
        except FileNotFoundError:
            raise
        except OSError as error:
            may_pass = isinstance(error, CutAnswer) or _TRANSIENT.search(str(error))
            if wait_s is None or not may_pass or not threading.main_thread().is_alive():  # the process ends
                raise explain(address, failure, error) from error
        time.sleep(wait_s * random.uniform(0.5, 1.5))
    raise AssertionError("the last try returns or raises")


def explain(address: Address, failure: str, error: Exception) -> EnvironmentProblem:
    """The line for an error of a store."""
    text = str(error)
    hint = next((hint for pattern, hint in _HINTS if re.search(pattern, text, re.IGNORECASE)), "")
    return EnvironmentProblem(str(address), f"{failure} ({_shorten(text)})", hint or "Run the same command again")


def _shorten(text: str) -> str:
    """The reason within a message of the AWS SDK: `SLOW_DOWN during PutObject: Please reduce your request rate`."""
    text = " ".join(text.split())
    if match := re.search(r"AWS Error (.+?) during (\w+) operation: (.*)", text):
        code, operation, reason = match.groups()
        reason = re.sub(r" ?\(Request ID: .*?\)|; Details: .*|Unable to parse ExceptionName: ", "", reason).strip()
        text = f"{code} during {operation}: {reason}"
    return text if len(text) <= 200 else f"{text[:197]}..."
