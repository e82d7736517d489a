import inspect
import logging

import pytest

from corten import errors
from corten.api.errors import STATUS, error_response, message_of, status_of
from corten.api.http.body import BodyTooLarge
from corten.api.http.messages import HttpError

KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.CortenError) and kind is not errors.CortenError
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_status(kind):
    assert any(base in STATUS for base in kind.__mro__)
    assert status_of(kind("x")) in {304, 400, 401, 403, 404, 409, 500, 501, 503}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.NotFound("x"), 404),
        (errors.CommandNotFound("x"), 400),
        (errors.CommandNotExecutable("x"), 400),
        (errors.SystemFailure("x", step="mount", errno=1), 500),
        (BodyTooLarge("x"), 413),
        (HttpError(431, "x"), 431),
        (errors.CortenError("x"), 500),
        (ValueError("x"), 500),
    ],
)
def test_statuses(error, status):
    response = error_response(error, "GET /x")
    assert response.status == status
    assert response.content_type == "application/json"
    assert response.body.endswith(b"\n")


def test_not_modified_has_no_body():
    assert error_response(errors.NotModified("x"), "").body == b""


def test_messages_tell_what_was_said_on_purpose():
    assert message_of(errors.Conflict("in use")) == "in use"
    assert message_of(OSError(28, "No space left on device", "/secret/path")) == "no space left on device"
    assert message_of(OSError(20, "Not a directory", "/secret/path")) == "internal error: Not a directory"
    assert message_of(KeyError("secret")) == "internal error: KeyError"


def test_only_the_unexpected_is_logged_as_an_error(caplog):
    with caplog.at_level(logging.INFO):
        error_response(errors.NotFound("x"), "GET /a")
        error_response(errors.Unavailable("x"), "GET /a")
        assert not caplog.records
        error_response(errors.SystemFailure("disk"), "GET /b")
        error_response(KeyError("k"), "GET /c")
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]
    assert caplog.records[1].exc_info is not None
