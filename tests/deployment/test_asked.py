"""What a command line says of a submission."""

from __future__ import annotations

from pathlib import Path

import pytest

from optinfer.deployment import asked
from optinfer.errors import ConfigError


def test_a_variable_is_given_or_taken_from_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_HERE", "b=c")
    said: list[str] = []
    assert asked.variables(["GIVEN=a=1", "FROM_HERE", "EMPTY="], said.append) == (
        ("GIVEN", "a=1"), ("FROM_HERE", "b=c"), ("EMPTY", ""),
    )  # fmt: skip
    assert said == []


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "DB_PASSWORD", "API_KEY"])
def test_a_secret_passes_with_a_warning_that_does_not_quote_it(name: str) -> None:
    said: list[str] = []
    asked.variables([f"{name}=hunter2"], said.append)
    assert "whoever may see the cluster's jobs can read it" in said[0]
    assert "hunter2" not in said[0]


@pytest.mark.parametrize("text", ["NOT_SET_ANYWHERE", "1A=b", "=b", "A B=c"])
def test_a_variable_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--env"):
        asked.variables([text], lambda _: None)


def test_headers_have_a_name() -> None:
    assert asked.headers(["A=b=c", "X-Y="]) == {"A": "b=c", "X-Y": ""}
    with pytest.raises(ConfigError, match="NAME=VALUE"):
        asked.headers(["secret-without-name"])


def test_certificates_are_looked_at_or_not_or_are_a_file(tmp_path: Path) -> None:
    assert (asked.verify("true"), asked.verify("False"), asked.verify(str(tmp_path))) == (True, False, str(tmp_path))
    with pytest.raises(ConfigError, match="does not exist"):
        asked.verify("/nowhere.pem")


def test_the_same_again_can_be_typed_and_holds_no_password() -> None:
    line = asked.same_again("my job.yaml", ["a.b=c d"], ["/mnt"], "https://me:secret@host/x?token=1")
    assert line == "optinfer submit 'my job.yaml' --set 'a.b=c d' --shared /mnt --address https://host/x"


@pytest.mark.parametrize(
    ("texts", "names"),
    [
        (["source: {path: s3://AKIAIOSFODNN7EXAMPL9:abc/def@bucket/x}"], []),
        (["sink.path=simplecache::s3://user:hunter2@bucket/x"], []),
        (["name: a", "https://me:secret@ray:8265"], []),
        (["name: a"], ["DATA_FOLDER", "AWS_SECRET_ACCESS_KEY"]),
    ],
)
def test_no_file_is_written_with_a_secret_in_it(texts: list[str], names: list[str]) -> None:
    with pytest.raises(ConfigError, match="a manifest would hold a secret") as refused:
        asked.require_no_secret("a manifest", texts, names)
    assert not [word for word in ("AKIA", "abc/def", "hunter2", "me:secret") if word in str(refused.value)]


def test_a_job_without_one_may_be_written() -> None:
    asked.require_no_secret("a manifest", ["source: {path: s3://bucket/x}", "max_batch_tokens: 4096"], ["AWS_REGION"])
