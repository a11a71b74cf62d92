"""Sixty-four texts as tables hold them, and tokenizers of every kind trained on them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

_PLAIN = [
    "the quick brown fox jumps over the lazy dog",
    "A library for reading and writing Parquet files",
    "Interactive debugger for programs written in C, C++ and Rust",
    "great movie!!! 10/10, would watch again :-)",
    "I want my money back. The parcel never arrived.",
    "Order #4711-A was shipped on 2026-11-25 at 09:30",
    "naïve café façade, jalapeño and crème brûlée",
    "Straße, Größe, Übung: ÄÖÜ äöü ß",
    "Привет, как дела?",
    "今日は天気がいいですね",
    "안녕하세요 세계",
    "مرحبا بالعالم",
    "שלום עולם",
    "नमस्ते दुनिया",
    "emoji 😀🚀👩‍👩‍👧‍👦 in the middle",
    "UPPER CASE AND lower case And Title Case",
    "tabs\tand\nline\r\nbreaks   and   many   spaces",
    "  spaces before and after  ",
    "https://example.com/a/b?c=d&e=f#g",
    "x = {'a': [1, 2, 3], \"b\": None}  # a comment",
    "İstanbul'da ıspanak",
    "ﬁne ligatures and ｆｕｌｌ ｗｉｄｔｈ",
    "zero\u200bwidth and soft\u00adhyphen",
    "e\u0301 composed é",
    "[CLS] special [SEP] tokens </s> <pad> [MASK] in a text",
    "<s>not a token</s>",
    "?",
    "a",
    "7",
    "...",
    "\u00a0",
    "",
    "   ",
    "\n",
]
_WORDS = [
    "the",
    "a",
    "good",
    "bad",
    "great",
    "movie",
    "package",
    "file",
    "order",
    "parcel",
    "library",
    "program",
    "reads",
    "writes",
    "debugger",
    "river",
    "bank",
]


def texts() -> list[str]:
    """Return 64 of them: short, odd, empty, and longer than any of the models here takes."""
    rows = list(_PLAIN)
    for i in range(64 - len(rows)):
        length = (i * 7) % 29 + 1 if i < 24 else 40 * (i - 22)
        rows.append(" ".join(_WORDS[(i * 3 + j * (i + 1)) % len(_WORDS)] for j in range(length)))
    return rows


def _corpus() -> list[str]:
    return [*texts(), "query: passage: represent this text for retrieval: Instruct:", *_WORDS]


@cache
def _trained(kind: str, specials: tuple[str, ...]) -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    if kind == "wordpiece":
        raw = Tokenizer(models.WordPiece(unk_token="[UNK]" if "[UNK]" in specials else "<unk>"))
        raw.normalizer = normalizers.BertNormalizer(lowercase=True)
        raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        raw.train_from_iterator(_corpus(), trainers.WordPieceTrainer(vocab_size=400, special_tokens=list(specials)))
    elif kind == "bpe":
        raw = Tokenizer(models.BPE())
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=list(specials), initial_alphabet=alphabet)
        raw.train_from_iterator(_corpus(), trainer)
    else:
        raw = Tokenizer(models.Unigram())
        raw.pre_tokenizer = pre_tokenizers.Metaspace()
        unknown = next(s for s in specials if "unk" in s.lower())
        trainer = trainers.UnigramTrainer(vocab_size=400, special_tokens=list(specials), unk_token=unknown)
        raw.train_from_iterator(_corpus(), trainer)
    return raw


_SPECIALS = {
    "wordpiece": ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    "bpe": ("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
    "unigram": ("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
}


def tokenizer(name: str, specials: tuple[str, ...] = (), kind: str = "", **settings: Any) -> Any:
    """Return a tokenizer of transformers' class `name`, with a vocabulary of its kind; `kind` where the class has none."""
    import transformers

    made = getattr(transformers, name)
    kind = kind or (made.model.__name__.lower() if made.model else "unigram")
    specials = specials or _SPECIALS[kind]
    if name == "PreTrainedTokenizerFast":
        return made(
            tokenizer_object=_framed(kind, specials), pad_token=specials[0 if "wordpiece" in kind else 1], **settings
        )
    described = json.loads(_trained(kind, specials).to_str())["model"]
    vocabulary = described["vocab"]
    if kind == "bpe":
        return made(vocab=vocabulary, merges=[tuple(pair) for pair in described["merges"]], **settings)
    return made(vocab=[tuple(pair) for pair in vocabulary] if kind == "unigram" else vocabulary, **settings)


def _framed(kind: str, specials: tuple[str, ...]) -> Any:
    """Return a tokenizer that puts its special tokens around a text, or ends it with one as language models do."""
    from tokenizers import Tokenizer, processors

    raw = Tokenizer.from_str(_trained(kind, specials).to_str())
    first, last = ("[CLS]", "[SEP]") if kind == "wordpiece" else ("<s>", "</s>")
    raw.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", special_tokens=[(word, raw.token_to_id(word)) for word in (first, last)]
    )
    return raw


def save_tokenizer(folder: Path, name: str, **settings: Any) -> int:
    """Save a tokenizer as its class does and return how many words it knows."""
    made = tokenizer(name, **settings)
    made.save_pretrained(folder)
    return len(made)
