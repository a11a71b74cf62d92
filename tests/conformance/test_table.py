"""docs/models.md lists the models of the suite, no more and no fewer."""

from __future__ import annotations

from collections import Counter

from tests.conformance.table import as_markdown, listed, rows


def test_the_table_in_the_docs_lists_exactly_the_suites_models() -> None:
    suite = [(row["family"], row["name"]) for row in rows()]
    assert not [name for name, count in Counter(suite).items() if count > 1], "two models of one name"
    assert sorted(listed()) == sorted(suite), "run `make conformance`"


def test_at_least_twelve_architectures_of_each_text_family() -> None:
    for family in ("text-embedding", "text-classification"):
        assert len({row["name"].partition(",")[0] for row in rows() if row["family"] == family}) >= 12


def test_a_line_says_what_was_measured() -> None:
    made = as_markdown(
        [
            {
                "family": "text-embedding",
                "name": "Bert, mean",
                "library": "sentence-transformers 6.2.0",
                "difference": 7.2e-7,
                "variants": {
                    "onnx-fp32": "",
                    "torch-pruned": "cosine 0.5",
                    "x-cuda": "not available: no NVIDIA GPU here",
                },
            }
        ]
    )
    assert made.splitlines()[2] == ("| Bert, mean | sentence-transformers 6.2.0 | 7e-07 | 1 of 2; not torch-pruned |")
