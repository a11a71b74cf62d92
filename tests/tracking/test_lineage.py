"""The names that tables have in lineage; the events themselves are in tests/commands/test_lineage.py."""

from __future__ import annotations

import pytest

from optinfer.tracking.lineage import named, wanted


@pytest.mark.parametrize(
    ("url", "namespace", "name"),
    [
        ("/data/table.parquet", "file", "/data/table.parquet"),
        ("/data/out/", "file", "/data/out"),
        ("file:///data/out", "file", "/data/out"),
        ("s3://bucket/a/b.parquet", "s3://bucket", "a/b.parquet"),
        ("s3a://bucket/a/b/", "s3://bucket", "a/b"),
        ("gcs://bucket/a", "gs://bucket", "a"),
        ("hdfs://node:8020/a/b", "hdfs://node:8020", "/a/b"),
        ("abfss://box@account.dfs.core.windows.net/a", "abfss://box@account.dfs.core.windows.net", "/a"),
        ("https://me:pw@host/a", "https://host", "/a"),
    ],
)
def test_tables_are_named_as_the_specification_says(url: str, namespace: str, name: str) -> None:
    assert named(url) == (namespace, name)


def test_names_are_those_of_the_packages_own_rules() -> None:
    rules = pytest.importorskip("openlineage.client.naming.dataset", reason="openlineage-python is not installed")
    for url, rule in (
        ("/data/out", rules.LocalFileSystem("/data/out")),
        ("s3://bucket/a/b", rules.S3("bucket", "a/b")),
        ("gs://bucket/a", rules.GCS("bucket", "a")),
        ("hdfs://node:8020/a", rules.HDFS("node", "8020", "/a")),
        ("abfss://box@account.dfs.core.windows.net/a", rules.ABFSS("box", "account", "/a")),
    ):
        assert named(url) == (rule.get_namespace(), rule.get_name())


@pytest.mark.parametrize(
    ("environ", "sent"),
    [({}, False), ({"OPENLINEAGE_URL": "http://x"}, True), ({"OPENLINEAGE_URL": "http://x", "OPENLINEAGE_DISABLED": "true"}, False)],
)  # fmt: skip
def test_events_are_sent_where_an_endpoint_is_named(environ: dict[str, str], sent: bool) -> None:
    assert wanted(environ) is sent
