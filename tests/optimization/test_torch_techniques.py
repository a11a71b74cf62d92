"""What torch techniques do to a module, on tiny models with random weights."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from optinfer.errors import ConfigError
from optinfer.models.artifact import Artifact
from optinfer.optimization.techniques import prune_structured, prune_unstructured, sparsity_2_4, torchao_int8

ARTIFACT = Artifact(path="/nowhere", format="torch", precision="fp32", key="model")
HEADS, HEAD_SIZE, NEURONS = 4, 8, 64


class FirstOutput(nn.Module):
    """What families make of a transformer: a module from inputs to one tensor."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, *given: torch.Tensor) -> torch.Tensor:
        return self.encoder(*given).last_hidden_state


@dataclass
class Context:
    """The part of a BuildContext that techniques use."""

    loaded: nn.Module
    rows: list[dict[str, np.ndarray[Any, Any]]]

    @property
    def family(self) -> Any:
        return SimpleNamespace(inputs=tuple(self.rows[0]) if self.rows else ("input_ids",))

    def module(self, source: Artifact) -> nn.Module:
        return deepcopy(self.loaded)

    def calibration_batches(self, rows: int) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
        yield from self.rows[:rows]

    def answer(self, module: nn.Module) -> torch.Tensor:
        with torch.inference_mode():
            return torch.cat([module(*map(torch.from_numpy, row.values())).flatten() for row in self.rows])


def bert() -> nn.Module:
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": HEADS, "intermediate_size": NEURONS}
    return BertModel(BertConfig(vocab_size=50, max_position_embeddings=16, initializer_range=0.5, **sizes))


def roberta() -> nn.Module:
    from transformers import RobertaConfig, RobertaModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": HEADS, "intermediate_size": NEURONS}
    return RobertaModel(RobertaConfig(vocab_size=50, max_position_embeddings=16, initializer_range=0.5, **sizes))


def distilbert() -> nn.Module:
    from transformers import DistilBertConfig, DistilBertModel

    sizes = {"dim": 32, "n_layers": 2, "n_heads": HEADS, "hidden_dim": NEURONS}
    return DistilBertModel(DistilBertConfig(vocab_size=50, max_position_embeddings=16, initializer_range=0.5, **sizes))


def vit() -> nn.Module:
    from transformers import ViTConfig, ViTModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": HEADS, "intermediate_size": NEURONS}
    return ViTModel(ViTConfig(image_size=8, patch_size=4, initializer_range=0.5, **sizes))


def clip() -> nn.Module:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": HEADS, "intermediate_size": NEURONS}
    return CLIPVisionModel(CLIPVisionConfig(image_size=8, patch_size=4, **sizes))


def mpnet() -> nn.Module:
    from transformers import MPNetConfig, MPNetModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": HEADS, "intermediate_size": NEURONS}
    return MPNetModel(MPNetConfig(vocab_size=50, max_position_embeddings=16, initializer_range=0.5, **sizes))


OUTPUT_LAYERS = {
    bert: ("attention.output.dense", "output.dense"),
    roberta: ("attention.output.dense", "output.dense"),
    distilbert: ("attention.out_lin", "ffn.lin2"),
    vit: ("attention.o_proj", "mlp.fc2"),
    clip: ("self_attn.out_proj", "mlp.fc2"),
}


def context_of(make: Any) -> Context:
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    if make in (vit, clip):
        rows = [{"pixel_values": random.standard_normal((1, 3, 8, 8), dtype=np.float32)} for _ in range(4)]
    else:
        rows = [
            {"input_ids": random.integers(2, 50, (1, n)), "attention_mask": np.ones((1, n), dtype=np.int64)}
            for n in (5, 9, 3, 7)
        ]
    return Context(FirstOutput(make()).eval(), rows)


def prune(context: Context, out: Path, module: nn.Module | None = None, **options: Any) -> nn.Module:
    out.mkdir(exist_ok=True)
    start = Context(module or context.loaded, context.rows)
    change = prune_structured.run(ARTIFACT, start, out, {**prune_structured.technique.defaults, **options})  # type: ignore[arg-type]
    assert (change.format, change.precision) == ("torch", "fp32")
    assert change.convert is not None
    return prune_structured.convert(deepcopy(start.loaded), {**change.convert, "folder": str(out)}, "cpu")


def without(module: nn.Module, kept: dict[str, list[list[int]]], ends: tuple[str, str]) -> nn.Module:
    """Silence, in the full-sized module, the heads and neurons that pruning took out."""
    masked = deepcopy(module)
    attention_end, _ = ends
    for kind, width in (("heads", HEAD_SIZE), ("neurons", 1)):
        attention = [m for n, m in masked.named_modules() if n.endswith(attention_end)]
        every = [m for n, m in masked.named_modules() if n.endswith(ends) and m not in attention]
        for linear, groups in zip(attention if kind == "heads" else every, kept[kind], strict=True):
            stays = np.zeros(linear.in_features // width, dtype=bool)
            stays[groups] = True
            linear.weight.data *= torch.from_numpy(np.repeat(stays, width))
    return masked


@pytest.mark.parametrize("make", OUTPUT_LAYERS)
def test_a_pruned_model_answers_like_the_full_one_with_the_same_parts_silenced(make: Any, tmp_path: Path) -> None:
    import json

    context = context_of(make)
    pruned = prune(context, tmp_path, heads=0.5, neurons=0.25)
    layers = json.loads((tmp_path / "kept.json").read_text())
    kept = {kind: list(found.values()) for kind, found in layers.items()}
    assert [len(k) for k in kept["heads"]] == [2, 2]
    assert [len(k) for k in kept["neurons"]] == [48, 48]
    masked = without(context.loaded, kept, OUTPUT_LAYERS[make])
    torch.testing.assert_close(context.answer(pruned), context.answer(masked), atol=1e-5, rtol=1e-5)
    assert (context.answer(pruned) - context.answer(context.loaded)).abs().max() > 1e-3


@pytest.mark.parametrize("make", OUTPUT_LAYERS)
def test_pruning_makes_matrices_smaller(make: Any, tmp_path: Path) -> None:
    context = context_of(make)
    pruned = prune(context, tmp_path, heads=0.5, neurons=0.25)
    ends = OUTPUT_LAYERS[make]
    sizes = {m.in_features for n, m in pruned.named_modules() if n.endswith(ends)}
    assert sizes == {HEADS * HEAD_SIZE // 2, NEURONS * 3 // 4}
    assert not any(isinstance(p, nn.Parameter) and p.is_meta for p in pruned.parameters())


def test_the_least_important_neurons_leave_first(tmp_path: Path) -> None:
    context = context_of(bert)
    dense = context.loaded.get_submodule("encoder.encoder.layer.0.output.dense")
    dense.weight.data[:, :16] *= 1e-6
    pruned = prune(context, tmp_path, heads=0, neurons=0.25)
    torch.testing.assert_close(
        pruned.get_submodule("encoder.encoder.layer.0.output.dense").weight.data, dense.weight.data[:, 16:]
    )


def test_one_head_and_some_neurons_always_stay(tmp_path: Path) -> None:
    context = context_of(bert)
    pruned = prune(context, tmp_path, heads=0.99, neurons=0.99)
    assert pruned.get_submodule("encoder.encoder.layer.0.attention.self.query").out_features == HEAD_SIZE
    assert pruned.get_submodule("encoder.encoder.layer.0.intermediate.dense").out_features == 8


def test_pruning_composes_with_itself_and_with_what_comes_after(tmp_path: Path) -> None:
    context = context_of(bert)
    once = prune(context, tmp_path / "1", heads=0.5, neurons=0)
    twice = prune(context, tmp_path / "2", module=once, heads=0.5, neurons=0.5)
    layer = twice.get_submodule("encoder.encoder.layer.1")
    assert (layer.attention.self.query.out_features, layer.intermediate.dense.out_features) == (HEAD_SIZE, NEURONS // 2)
    assert layer.attention.self.num_attention_heads == 1
    assert context.answer(deepcopy(twice).to(torch.bfloat16)).isfinite().all()
    quantized = torchao_int8.convert(twice, {"mode": "weights"}, "cpu")
    assert context.answer(quantized).isfinite().all()


def test_pruning_refuses_a_model_whose_layers_it_does_not_know(tmp_path: Path) -> None:
    unknown = Context(nn.Sequential(nn.Linear(4, 4)), [{"input_ids": np.ones((1, 4), dtype=np.float32)}])
    with pytest.raises(
        ConfigError, match=r"finds no heads it knows in Sequential; known layouts: BERT.*DistilBERT.*ViT"
    ):
        prune(unknown, tmp_path)


def test_pruning_says_which_part_of_a_model_it_does_know(tmp_path: Path) -> None:
    context = context_of(mpnet)
    with pytest.raises(ConfigError, match="its neurons can be pruned: set heads: 0"):
        prune(context, tmp_path)
    assert context.answer(prune(context, tmp_path, heads=0)).isfinite().all()


def test_pruning_refuses_a_model_that_no_longer_runs(tmp_path: Path) -> None:
    class CountsHeads(FirstOutput):
        def forward(self, *given: torch.Tensor) -> torch.Tensor:
            query = self.encoder.encoder.layer[0].attention.self.query(super().forward(*given))
            return query + torch.ones(32)

    context = context_of(bert)
    context.loaded = CountsHeads(context.loaded.encoder).eval()
    with pytest.raises(ConfigError, match="does not run with fewer heads"):
        prune(context, tmp_path, heads=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 1.0}, "from 0 to below 1"),
        ({"heads": 0, "neurons": 0}, "nothing would be pruned"),
    ],
)
def test_pruning_refuses_fractions_that_make_no_sense(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        prune(context_of(bert), tmp_path, **options)


def test_pruning_needs_rows(tmp_path: Path) -> None:
    context = context_of(bert)
    context.rows = []
    with pytest.raises(ConfigError, match="the sample has none"):
        prune(context, tmp_path)


def test_a_pruned_model_exports(tmp_path: Path) -> None:
    context = context_of(bert)
    pruned = prune(context, tmp_path, heads=0.5, neurons=0.25)
    given = tuple(torch.from_numpy(np.repeat(a, 2, axis=0)) for a in context.rows[0].values())
    dims = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=16)}
    program = torch.export.export(pruned, given, dynamic_shapes=((dims, dims),))
    torch.testing.assert_close(program.module()(*given), pruned(*given))


@pytest.mark.parametrize("sparsity", [0.25, 0.5])
def test_unstructured_pruning_zeroes_the_smallest_weights(sparsity: float, tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    before = deepcopy(module)
    change = prune_unstructured.run(ARTIFACT, None, tmp_path, {"sparsity": sparsity})  # type: ignore[arg-type]
    prune_unstructured.convert(module, change.convert or {}, "cpu")
    for new, old in ((module[0], before[0]), (module[2], before[2])):
        left = new.weight != 0
        assert left.float().mean() == 1 - sparsity
        assert old.weight[left].abs().min() >= old.weight[~left].abs().max()
        torch.testing.assert_close(new.weight[left], old.weight[left])
    assert "gain nothing in speed" in change.notes[0]


@pytest.mark.parametrize("sparsity", [0, 1, -0.5])
def test_unstructured_pruning_refuses_what_is_no_fraction(sparsity: float, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        prune_unstructured.run(ARTIFACT, None, tmp_path, {"sparsity": sparsity})  # type: ignore[arg-type]


def test_two_of_four_neighbouring_weights_stay_and_they_are_the_largest() -> None:
    module = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 3), nn.Linear(3, 5))
    before = deepcopy(module)
    sparsity_2_4.convert(module, {}, "cpu")
    for new, old in zip(module[:2], before[:2], strict=True):
        fours, were = new.weight.reshape(-1, 4), old.weight.reshape(-1, 4)
        assert ((fours != 0).sum(dim=1) == 2).all()
        torch.testing.assert_close(fours.abs().sort(dim=1).values[:, 2:], were.abs().sort(dim=1).values[:, 2:])
    assert (module[2].weight != 0).all(), "rows of three weights have no fours"


@pytest.mark.parametrize("mode", ["dynamic", "weights"])
def test_torchao_stores_int8_and_answers_alike(mode: str, tmp_path: Path) -> None:
    change = torchao_int8.run(ARTIFACT, None, tmp_path, {"mode": mode})  # type: ignore[arg-type]
    module = nn.Sequential(nn.Linear(64, 32)).eval()
    rows = torch.randn(4, 64)
    rows[1] *= 100
    expected = module(rows)
    quantized = torchao_int8.convert(module, change.convert or {}, "cpu")
    assert quantized[0].weight.qdata.dtype == torch.int8
    cosine = torch.nn.functional.cosine_similarity(quantized(rows), expected)
    assert cosine.min() > 0.999, "a large row takes no precision from its neighbours"
    torch.testing.assert_close(quantized(rows[:1]), quantized(rows)[:1])


def test_torchao_names_its_modes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'dynamic'"):
        torchao_int8.run(ARTIFACT, None, tmp_path, {"mode": "dynamo"})  # type: ignore[arg-type]
