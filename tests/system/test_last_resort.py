"""What a person reads of errors that nobody foresaw, and how errors travel."""

from __future__ import annotations

from botocore.exceptions import EndpointConnectionError

from optinfer.errors import CorruptFileError, OptinferError
from optinfer.inference.preparing import described
from optinfer.system import last_resort


def test_a_store_that_is_gone_is_said_as_that_and_not_as_a_bug() -> None:
    said = last_resort.said(EndpointConnectionError(endpoint_url="http://store:9000"))
    assert said.startswith("a store did not do what it was asked (EndpointConnectionError")
    assert "please report" not in said


def test_an_error_travels_as_what_it_is_with_its_traceback_in_a_note() -> None:
    try:
        raise CorruptFileError("page 3 is corrupt")
    except CorruptFileError as error:
        there = last_resort.again(last_resort.told(error))
    assert type(there) is CorruptFileError
    assert str(there) == "page 3 is corrupt"
    assert "in test_an_error_travels" in there.__notes__[0]
    unforeseen = last_resort.again(last_resort.told(KeyError("x"), "a replica on here failed: "))
    assert type(unforeseen) is OptinferError
    assert str(unforeseen).startswith("a replica on here failed: something failed that optinfer did not foresee")


def test_a_row_s_reason_holds_no_password_and_no_signature() -> None:
    reason = described(OSError("403, url='https://me:secret@host/a.jpg?X-Amz-Signature=abc'"))
    assert "secret" not in reason
    assert "abc" not in reason
