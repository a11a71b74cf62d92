"""The text models of the suite: tiny, random, seeded, each made by transformers' or sentence-transformers' own classes.

A case names what is special about it; `build(folder)` writes it as its library saves it. Weights are spread widely, so
that a wrong token, prompt or class moves an answer far more than rounding does.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conformance.texts import save_tokenizer

LIMIT = 40  # tokens that the tokenizers keep; several of the suite's texts are longer
EMBEDDING, CLASSIFICATION = "text-embedding", "text-classification"
# How the names of cases begin whose model is another one, not the same with other texts or files.
_GRAPHS = (
    "mean",
    "last token",
    "three classes",
    "pooling",
    "dense",
    "layer norm",
    "one class",
    "prompt left out",
    "trunc",
)

_SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_BERT = {**_SHAPE, "max_position_embeddings": 64}
_ROBERTA = {**_SHAPE, "max_position_embeddings": LIMIT + 2, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "pad_token_id": 0}
_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "pad_token_id": 0, "eos_token_id": 1}
_LLAMA = {**_BERT, "num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
_BART = {
    **{"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
    **{"encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 64, "pad_token_id": 1},
    **{"bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": 2},
}
_PIECES = {"name": "BertTokenizer"}
_BYTES = {"name": "RobertaTokenizer"}
_FAST = {"name": "PreTrainedTokenizerFast", "kind": "bpe"}
_T5_TOKENS = {"name": "T5Tokenizer", "specials": ("<pad>", "</s>", "<unk>")}


@dataclass(frozen=True)
class Architecture:
    """How to make one: transformers' names of its classes and its tokenizer."""

    name: str
    shape: dict[str, Any]
    tokens: dict[str, Any]

    def made(self, folder: Path, head: str = "Model", tokens: dict[str, Any] | None = None, **options: Any) -> Path:
        """Save model and tokenizer into `folder`."""
        import torch
        import transformers

        size = save_tokenizer(folder, **{"model_max_length": LIMIT, **self.tokens, **(tokens or {})})
        config = getattr(transformers, f"{self.name}Config")(vocab_size=size, **{**self.shape, **options})
        torch.manual_seed(size)
        model = getattr(transformers, f"{self.name}{head}")(config).eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.2)
        model.save_pretrained(folder)
        return folder


ARCHITECTURES = {
    made.name: made
    for made in (
        Architecture("Bert", _BERT, _PIECES),
        Architecture("Roberta", _ROBERTA, _BYTES),
        Architecture("XLMRoberta", _ROBERTA, {"name": "XLMRobertaTokenizer"}),
        Architecture("Camembert", _ROBERTA, {"name": "CamembertTokenizer"}),
        Architecture(
            "MPNet", _ROBERTA, {"name": "MPNetTokenizer", "specials": ("<s>", "<pad>", "</s>", "[UNK]", "<mask>")}
        ),
        Architecture(
            "DistilBert",
            {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 64},
            _PIECES,
        ),
        Architecture(
            "Albert",
            {**_BERT, "embedding_size": 16},
            {"name": "AlbertTokenizer", "specials": ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")},
        ),
        Architecture("Electra", {**_BERT, "embedding_size": 16}, _PIECES),
        Architecture("Ernie", _BERT, _PIECES),
        Architecture(
            "DebertaV2",
            {**_BERT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False},
            {"name": "DebertaV2Tokenizer", "specials": ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")},
        ),
        Architecture(
            "ModernBert",
            {**_BERT, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3},
            {"name": "PreTrainedTokenizerFast", "kind": "wordpiece"},
        ),
        Architecture("NomicBert", {**_BERT, "pad_token_id": 0}, _PIECES),
        Architecture("Longformer", {**_ROBERTA, "attention_window": 8}, _BYTES),
        Architecture("T5", {**_T5, "decoder_start_token_id": 0}, _T5_TOKENS),
        Architecture("MT5", {**_T5, "decoder_start_token_id": 0}, _T5_TOKENS),
        Architecture("Bart", _BART, _BYTES),
        Architecture(
            "GPT2", _GPT2, {"name": "GPT2Tokenizer", "specials": ("<|endoftext|>",), "pad_token": "<|endoftext|>"}
        ),
        Architecture("OPT", {**_BERT, "ffn_dim": 64, "word_embed_proj_dim": 32, "pad_token_id": 1}, _FAST),
        Architecture("Llama", _LLAMA, _FAST),
        Architecture("Qwen3", {**_LLAMA, "head_dim": 8}, {**_FAST, "padding_side": "left"}),
        Architecture("Gemma", {**_LLAMA, "head_dim": 8}, _FAST),
    )
}
DECODERS = ("GPT2", "OPT", "Llama", "Qwen3", "Gemma")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model and job: what is special, how it is built, and what the job says.

    Attributes:
        settings: of the job's `model`.
        other_limit: what the library is told to keep of a text, where it would fail by itself.
        no_tokens: rows of the suite's texts that have no token, which no model can answer.
    """

    name: str
    architecture: str
    family: str
    build: Callable[[Path], object]
    settings: dict[str, Any] = field(default_factory=dict)
    other_limit: int | None = None
    no_tokens: int = 0

    @property
    def changes_graph(self) -> bool:
        """Whether what is special about it changes what the model computes, and not only what it is given."""
        return self.name.startswith(_GRAPHS)


def sentence(architecture: str, *modules: Any, tokens: Any = None, **settings: Any) -> Callable[[Path], object]:
    """Return what builds a folder as sentence-transformers saves it: transformer, then `modules`."""

    def build(folder: Path) -> None:
        import torch
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Transformer

        plain = ARCHITECTURES[architecture].made(folder / "plain", tokens=tokens)
        torch.manual_seed(1)
        model = SentenceTransformer(modules=[Transformer(str(plain)), *(make() for make in modules)], **settings)
        for parameter in (p for module in list(model)[1:] for p in module.parameters() if p.ndim > 1):
            torch.nn.init.normal_(parameter, std=0.2)
        model.save(str(folder), create_model_card=False)
        shutil.rmtree(folder / "plain")

    return build


def layer(name: str, **settings: Any) -> Callable[[], Any]:
    """Return what makes one of sentence-transformers' layers; torch's activations are given by name."""

    def make() -> Any:
        import torch
        from sentence_transformers.sentence_transformer import modules

        given = {**settings}
        if "activation" in given:
            given["activation_function"] = getattr(torch.nn, given.pop("activation"))()
        return getattr(modules, name)(**given)

    return make


def pooling(mode: Any, **settings: Any) -> Callable[[], Any]:
    return layer("Pooling", embedding_dimension=32, pooling_mode=mode, **settings)
