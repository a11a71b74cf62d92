"""A run's record on its way to a real endpoint on loopback."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading

import pytest

from optinfer.errors import ConfigError
from optinfer.records.news import Ended
from optinfer.tracking.courier import Courier, Refused, origin
from optinfer.tracking.webhook import Webhook
from tests.tracking.endpoint import DRIPPING, NEVER, endpoint

ENDED = Ended(kind="done", time=1.0, record={"status": "done", "rows_out": 40, "job": "nächtlich"})
SECRET = "s3cret"


def deliver(url: str, secret: str = "") -> None:
    Webhook(url, secret, clock=lambda: 1234.5).letter("run-1", ENDED).deliver(threading.Event())


@pytest.mark.parametrize(
    ("secret", "key"),
    [(SECRET, SECRET.encode()), (f"whsec_{base64.b64encode(b'k' * 32).decode()}", b"k" * 32)],
    ids=["text", "whsec"],
)
def test_the_body_is_the_record_and_a_receiver_can_verify_it(secret: str, key: bytes) -> None:
    with endpoint() as receiver:
        deliver(receiver.url, secret)
    ((headers, body),) = receiver.arrived
    assert json.loads(body) == ENDED.record
    assert (headers["webhook-id"], headers["webhook-timestamp"]) == ("run-1-done", "1234")
    signed = hmac.new(key, b"run-1-done.1234." + body, hashlib.sha256).digest()
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(signed).decode()}"
    assert secret not in str(headers)


def test_without_a_secret_nothing_is_signed() -> None:
    with endpoint() as receiver:
        deliver(receiver.url)
    assert "webhook-signature" not in receiver.arrived[0][0]


@pytest.mark.parametrize("busy", [500, 503, 429])
def test_an_endpoint_that_is_busy_is_asked_again_under_the_same_id(busy: int) -> None:
    with endpoint(busy, busy, 200) as receiver:
        deliver(receiver.url, SECRET)
    assert [headers["webhook-id"] for headers, _ in receiver.arrived] == ["run-1-done"] * 3


@pytest.mark.parametrize("refusal", [400, 401, 404, 307])
def test_a_refusal_is_final_and_a_redirect_is_one(refusal: int) -> None:
    with endpoint(refusal) as receiver:
        with pytest.raises(Refused, match=f"it answers {refusal}"):
            deliver(receiver.url, SECRET)
    assert len(receiver.arrived) == 1


def test_a_secret_that_is_cut_short_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="what follows is not base64"):
        Webhook("https://example.org", "whsec_abc")


class TestCourier:
    """Nobody waits here for longer than they say: each endpoint lets go only after `close` has returned."""

    @pytest.mark.parametrize("answer", [NEVER, DRIPPING])
    def test_what_is_not_answered_is_given_back(self, answer: str) -> None:
        with endpoint(answer) as receiver:
            courier = Courier("test")
            letter = Webhook(receiver.url, SECRET).letter("run-1", ENDED)
            courier.send(letter)
            (late,) = courier.close(0.3)
            assert not receiver.released.is_set()
        assert late.letter is letter
        assert late.reason == "it has not confirmed in the time there was"

    def test_what_nobody_takes_is_given_back(self, free_port: int) -> None:
        courier = Courier("test")
        courier.send(Webhook(f"http://127.0.0.1:{free_port}", SECRET).letter("run-1", ENDED))
        assert len(courier.close(0.3)) == 1

    def test_a_refusal_is_given_back_with_what_was_answered(self) -> None:
        with endpoint(401) as receiver:
            courier = Courier("test")
            courier.send(Webhook(receiver.url, SECRET).letter("run-1", ENDED))
            (refused,) = courier.close(30)
        assert refused.reason == "it answers 401"

    def test_what_arrives_is_not_given_back_and_comes_in_order(self) -> None:
        with endpoint() as receiver:
            courier = Courier("test")
            for run in ("run-1", "run-2"):
                courier.send(Webhook(receiver.url, SECRET).letter(run, ENDED))
            assert courier.close(30) == []
        assert [headers["webhook-id"] for headers, _ in receiver.arrived] == ["run-1-done", "run-2-done"]

    def test_one_without_letters_ends_at_once(self) -> None:
        assert Courier("test").close(30) == []


def test_an_address_is_shown_without_what_may_guard_it() -> None:
    assert origin("https://me:pw@hooks.example.org:8443/services/T0/s3cret?token=x") == "https://hooks.example.org:8443"
