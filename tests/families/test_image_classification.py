"""Photos to classes, end to end: EfficientNet-lite0 as an ONNX file, and transformers folders."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import optinfer
from optinfer.errors import ConfigError, SourceError
from optinfer.families import FAMILIES
from optinfer.families._pixels import Preparation, preparation_of
from optinfer.families._processors import KNOWN
from optinfer.inference.replica import Replica, ReplicaSettings
from tests.conformance.images import ARCHITECTURES
from tests.conformance.images import images as varied
from tests.conftest import MakeJob, WriteTable, located, read_rows
from tests.data import flaky_store
from tests.data.flaky_store import FlakyStore
from tests.families.conftest import EFFICIENTNET_PREPROCESSOR, quarantined

FAMILY = "image-classification"

# What the photographers meant, and the package's authors' network sees.
EXPECTED = {"flower": "daisy", "china": "palace", "coffee": "espresso", "camera": "tripod", "rocket": "missile"}
CATS = ("tiger cat", "tabby, tabby cat", "Egyptian cat")


@pytest.fixture
def images(tmp_path: Path, write_table: WriteTable, encoded: dict[str, bytes]) -> Path:
    """Write the photos and their crops, a text among them that is no image, and a null."""
    rows = [*encoded.items()]
    rows[20:20] = [("a text", b"Dear all, please find attached"), ("nothing", None)]
    return write_table(
        tmp_path / "images.parquet",
        columns={"id": [name for name, _ in rows], "content": pa.array([image for _, image in rows], pa.binary())},
    )


@pytest.fixture
def image_job(make_job: MakeJob, efficientnet: Path) -> Any:
    """Return a function from source, sink and changes to a job for EfficientNet-lite0."""

    def make(source: Path, sink: Path, **changes: Any) -> Any:
        settings: dict[str, Any] = {
            "model": {"path": str(efficientnet), "family": "image-classification"},
            "variant": "onnx-fp32",
            "gate": {"min": 0.99, "sample_rows": 32},
            "source__columns": {"image": "content"},
            "sink__error_threshold": 2,
        }
        return make_job(source, sink, **{**settings, **changes})

    return make


def by_name(sink: Path) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in read_rows(sink)}


def see_what_is_there(rows: dict[str, dict[str, Any]]) -> None:
    assert {name: rows[name]["label"] for name in EXPECTED} == EXPECTED
    assert rows["chelsea"]["label"] in CATS


@pytest.mark.usefixtures("in_this_process")
class TestEfficientNet:
    def test_photos_are_what_they_show_and_what_is_no_image_is_quarantined(
        self, image_job: Any, images: Path, sink: Path
    ) -> None:
        record = optinfer.run(image_job(images, sink))
        rows = by_name(sink)
        see_what_is_there(rows)
        assert (record.rows_in, record.rows_out, record.rows_quarantined) == (47, 45, 2)
        assert quarantined(sink) == {
            "a text": "image cannot be decoded: it is no image that Pillow knows, or it is empty",
            "nothing": "image is null",
        }
        assert all(0 < row["score"] <= 1 for row in rows.values())

    # Convolutions of this net do not take int8 well: what each variant keeps here, with a margin for other CPUs.
    @pytest.mark.parametrize(
        ("variant", "gate", "precision"),
        [
            ("onnx-int8-dynamic", {"min": 0.8}, "int8"),
            ("openvino-fp32", {"min": 0.99}, "fp32"),
            ("openvino-int8-weights", {"min": 0.7}, "int8"),
        ],
    )
    def test_a_variant_that_keeps_its_gate_sees_the_same(
        self, image_job: Any, images: Path, sink: Path, variant: str, gate: dict[str, Any], precision: str
    ) -> None:
        record = optinfer.run(image_job(images, sink, variant=variant, gate={**gate, "sample_rows": 32}))
        assert record.gate.passed
        assert precision in record.certificate.executed["precisions"]
        labels = {name: row["label"] for name, row in by_name(sink).items()}
        assert sum(labels[name] == label for name, label in EXPECTED.items()) >= 4

    def test_int8_that_sees_other_things_scores_nothing(self, image_job: Any, images: Path, sink: Path) -> None:
        with pytest.raises(optinfer.errors.GateError, match=r"onnx-int8-qdq: top1_agreement 0\.\d+ .*below gate\.min"):
            optinfer.run(image_job(images, sink, variant="onnx-int8-qdq"))
        assert not list(sink.glob("*.parquet"))

    def test_top_k_gives_the_best_classes_first(
        self, image_job: Any, write_table: WriteTable, photos: dict[str, Path], tmp_path: Path, sink: Path
    ) -> None:
        columns = {"id": [*photos], "content": [file.read_bytes() for file in photos.values()]}
        source = write_table(tmp_path / "photos.parquet", columns=columns)
        optinfer.run(image_job(source, sink, model__top_k=5))
        rows = by_name(sink)
        assert {name: rows[name]["labels"][0] for name in EXPECTED} == EXPECTED
        assert set(CATS) <= set(rows["chelsea"]["labels"])
        for row in rows.values():
            assert len(row["labels"]) == 5
            assert row["scores"] == sorted(row["scores"], reverse=True)

    def test_a_label_column_is_the_truth_of_the_gate(
        self, image_job: Any, write_table: WriteTable, encoded: dict[str, bytes], tmp_path: Path, sink: Path
    ) -> None:
        chosen = {name: image for name, image in encoded.items() if name.split(" ")[0] in EXPECTED}
        table = {"id": [*chosen], "content": [*chosen.values()], "is": [EXPECTED[n.split(" ")[0]] for n in chosen]}
        source = write_table(tmp_path / "labelled.parquet", columns=table)
        gate = {"label": "is", "max_drop": 0.2, "sample_rows": 16}
        fidelity = optinfer.run(image_job(source, sink, variant="onnx-int8-dynamic", gate=gate)).certificate.fidelity
        assert fidelity.metric == "accuracy"
        assert fidelity.baseline >= 0.8

    def test_bytes_paths_and_structs_of_both_give_the_same(self, efficientnet: Path, photos: dict[str, Path]) -> None:
        model, files = located(efficientnet, "image-classification"), [*photos.values()]
        structs = [
            {"bytes": file.read_bytes(), "path": None} if i % 2 else {"bytes": None, "path": f"file://{file}"}
            for i, file in enumerate(files)
        ]
        replica = Replica(
            ReplicaSettings(
                family="image-classification", model=model, backend="onnxruntime", artifact=model, threads=2
            )
        )
        found = []
        for column in ([file.read_bytes() for file in files], [str(file) for file in files], structs):
            found.append(replica.score(pa.table({"image": column})).added)
        assert found[0].num_rows == len(files)
        assert found[0] == found[1] == found[2]

    def test_a_file_that_is_gone_is_quarantined_by_name(
        self, image_job: Any, write_table: WriteTable, photos: dict[str, Path], tmp_path: Path, sink: Path
    ) -> None:
        paths = [str(tmp_path / "gone.png"), *map(str, photos.values())]
        source = write_table(tmp_path / "paths.parquet", columns={"id": ["gone", *photos], "content": paths})
        optinfer.run(image_job(source, sink))
        see_what_is_there(by_name(sink))
        assert quarantined(sink).keys() == {"gone"}
        assert "gone.png" in quarantined(sink)["gone"]

    def test_a_column_of_numbers_is_refused(
        self, image_job: Any, write_table: WriteTable, tmp_path: Path, sink: Path
    ) -> None:
        source = write_table(tmp_path / "numbers.parquet", columns={"id": ["a"], "content": [1]})
        with pytest.raises(ConfigError, match="'content' holds int64, image needs encoded bytes, paths"):
            optinfer.run(image_job(source, sink))


@pytest.mark.usefixtures("shared_ray")
def test_a_job_on_ray(image_job: Any, images: Path, sink: Path) -> None:
    record = optinfer.run(image_job(images, sink))
    see_what_is_there(by_name(sink))
    assert (record.rows_out, record.rows_quarantined) == (45, 2)


class TestDescription:
    """What lies beside the model must say what pixels it takes, and nothing that is not done."""

    @pytest.fixture
    def folder(self, efficientnet: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(efficientnet, tmp_path / "model"))

    def load(self, folder: Path, **settings: Any) -> Any:
        return FAMILIES.get("image-classification").load(located(folder, "image-classification"), settings)

    @pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
    def test_both_files_are_needed(self, folder: Path, name: str) -> None:
        (folder / name).unlink()
        with pytest.raises(ConfigError, match="put both beside the model"):
            self.load(folder)

    def test_the_files_may_lie_above_an_onnx_folder(self, folder: Path) -> None:
        (folder / "onnx").mkdir()
        (folder / "model.onnx").rename(folder / "onnx" / "model.onnx")
        assert self.load(folder).inputs == ("photo",)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"do_flip_channel_order": True}, "sets 'do_flip_channel_order' to true, which optinfer does not apply"),
            ({"size_divisor": 32}, "sets 'size_divisor' to 32, which optinfer does not apply"),
            ({"sharpen": 0.5}, r"sets 'sharpen' to 0\.5, which optinfer does not apply"),
            ({"image_processor_type": "LevitImageProcessor", "sharpen": 0.5}, r"sets 'sharpen' to 0\.5"),
            ({"image_processor_type": "ViTImageProcessor", "crop_pct": 0.9}, r"sets 'crop_pct' to 0\.9"),
            ({"image_processor_type": "SegformerImageProcessor"}, "sets 'do_center_crop' to true"),
            (
                {"image_processor_type": "NobodysImageProcessor"},
                "names an image processor that transformers cannot load",
            ),
            ({"data_format": "channels_last"}, "optinfer can do 'channels_first' only"),
            ({"image_mean": [0.5]}, r"has image_mean: \[0\.5\]; an RGB image needs one number, or three"),
            ({"resample": 9}, "has resample: 9; known are Pillow's"),
            ({"size": [1, 2, 3]}, r"has a size of \[1, 2, 3\]"),
            ({"image_mean": None}, "does not give image_mean"),
            ({"do_center_crop": False}, "gives no fixed size"),
            ({"size": 256}, "which is no clear one; write {shortest_edge: 256}"),
            ({"size": {"longest_edge": 256}}, "known: height and width, or shortest_edge"),
            (
                {"crop_size": 192},
                r"takes images of \(3, 224, 224\), its preprocessor_config.json makes \(3, 192, 192\)",
            ),
        ],
    )
    def test_pixels_that_would_not_be_the_models_are_refused(
        self, folder: Path, change: dict[str, Any], message: str
    ) -> None:
        (folder / "preprocessor_config.json").write_text(json.dumps({**EFFICIENTNET_PREPROCESSOR, **change}))
        with pytest.raises(ConfigError, match=message):
            self.load(folder)

    def test_classes_that_are_not_the_models_are_refused(self, folder: Path) -> None:
        (folder / "config.json").write_text(json.dumps({"id2label": {"0": "cat", "1": "dog"}}))
        with pytest.raises(ConfigError, match="gives 1000 numbers for the 2 named classes"):
            self.load(folder)

    def test_a_model_that_ends_in_softmax_gives_its_own_scores(self, folder: Path) -> None:
        import onnx

        logits = self.load(folder)
        model = onnx.load(folder / "model.onnx")
        model.graph.node.append(onnx.helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1))
        model.graph.output[0].name = "probabilities"
        onnx.save(model, folder / "model.onnx")
        softmax = self.load(folder)
        given = np.array([[2.0, *[0.0] * 999]])
        shares = np.exp(given) / np.exp(given).sum()
        assert softmax.postprocess({"probabilities": shares}) == logits.postprocess({"logits": given})

    def test_a_fixed_batch_is_refused(self, folder: Path) -> None:
        import onnx

        model = onnx.load(folder / "model.onnx")
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 8
        onnx.save(model, folder / "model.onnx")
        with pytest.raises(ConfigError, match="takes exactly 8 rows a call; export it with a dynamic batch"):
            self.load(folder)


class TestPixels:
    """The same numbers as transformers' own processors."""

    @pytest.mark.parametrize(
        ("processor", "settings"),
        [
            ("ViTImageProcessorPil", {"size": {"height": 96, "width": 128}, "do_convert_rgb": True}),
            ("ConvNextImageProcessorPil", {"size": {"shortest_edge": 224}, "do_convert_rgb": True}),
            ("ConvNextImageProcessorPil", {"size": {"shortest_edge": 384}, "do_convert_rgb": True}),
            ("CLIPImageProcessorPil", {"size": {"shortest_edge": 64}, "crop_size": {"height": 96, "width": 60}}),
            ("EfficientNetImageProcessorPil", {"rescale_offset": True, "do_convert_rgb": True}),
            ("EfficientNetImageProcessorPil", {"do_normalize": False}),
            ("EfficientNetImageProcessorPil", {"rescale_offset": True, "do_rescale": False}),
            ("SegformerImageProcessorPil", {"size": 40}),
            ("DeiTImageProcessorPil", {"size": 50, "crop_size": 61}),
            ("CLIPImageProcessorPil", {"size": 50, "crop_size": 41, "image_mean": 0.5, "image_std": 0.25}),
            (
                "BitImageProcessorPil",
                {k: v for k, v in EFFICIENTNET_PREPROCESSOR.items() if k != "do_convert_rgb"},
            ),
        ],
    )
    def test_pixels_are_those_of_transformers(
        self, tmp_path: Path, photos: dict[str, Path], processor: str, settings: dict[str, Any]
    ) -> None:
        import transformers
        from PIL import Image

        theirs = getattr(transformers, processor)(**settings)
        theirs.save_pretrained(tmp_path)
        ours = preparation_of(tmp_path, "")
        assert isinstance(ours, Preparation), "what most processors do needs no library"
        for name in ("china", "coffee", "grace_hopper"):
            expected = theirs(Image.open(photos[name]).convert("RGB"), return_tensors="np")["pixel_values"][0]
            made = ours.normalize(ours.prepare(photos[name])).transpose(2, 0, 1)
            np.testing.assert_allclose(made, expected, atol=1e-5)

    @pytest.mark.parametrize("name", KNOWN)
    def test_what_a_short_file_leaves_out_is_the_librarys_own(self, tmp_path: Path, name: str) -> None:
        """As files were written years ago: bare numbers for sizes, nothing that the class has by default."""
        import transformers
        from PIL import Image

        said = {"image_processor_type": f"{name}ImageProcessor", "size": 40, "crop_size": 36}
        if "do_center_crop" in KNOWN[name].ignores or not KNOWN[name].defaults.get("do_center_crop"):
            del said["crop_size"]
        if name == "Siglip":
            said["size"] = {"height": 40, "width": 40}  # a bare number would be the shorter side, without a crop
        described = {**said, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(described))
        theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
        ours = preparation_of(tmp_path, "")
        assert isinstance(ours, Preparation)
        for what, data in varied()[::5]:
            with Image.open(io.BytesIO(data)) as image:
                expected = theirs(transformers.image_utils.load_image(image), return_tensors="np")["pixel_values"][0]
            made = ours.normalize(ours.prepare(io.BytesIO(data)), channels_first=True)
            np.testing.assert_allclose(made, expected, atol=1e-5, err_msg=what)

    def test_values_are_the_same_in_either_order_of_axes(self) -> None:
        ours = Preparation(
            size=(2, 3), resize=None, resample=0, scale=1 / 255, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)
        )
        pixels = np.arange(2 * 2 * 3 * 3, dtype=np.uint8).reshape(2, 2, 3, 3)
        first, last = ours.normalize(pixels, channels_first=True), ours.normalize(pixels)
        assert first.flags.c_contiguous
        assert np.array_equal(first, last.transpose(0, 3, 1, 2))

    @pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
    def test_every_mode_of_pixels_becomes_rgb(self, photos: dict[str, Path], tmp_path: Path, mode: str) -> None:
        from PIL import Image

        ours = Preparation(size=(64, 96), resize=(64, 96), resample=2, scale=1.0, mean=(0.0,) * 3, std=(1.0,) * 3)
        Image.open(photos["china"]).convert(mode).save(tmp_path / "photo.tiff")
        expected = Image.open(tmp_path / "photo.tiff").convert("RGB").resize((96, 64), Image.Resampling.BILINEAR)
        assert np.array_equal(ours.prepare(tmp_path / "photo.tiff"), np.asarray(expected))

    def test_a_photo_taken_on_its_side_is_turned_upright(self, photos: dict[str, Path]) -> None:
        from PIL import Image

        ours = Preparation(size=(64, 96), resize=(64, 96), resample=2, scale=1.0, mean=(0.0,) * 3, std=(1.0,) * 3)
        photo = Image.open(photos["china"])
        exif = photo.getexif()
        exif[0x0112] = 6  # Orientation: turn right by 90 degrees to see it upright
        photo.transpose(Image.Transpose.ROTATE_90).save(file := io.BytesIO(), "PNG", exif=exif)
        assert np.array_equal(ours.prepare(file), ours.prepare(photos["china"]))


@pytest.mark.usefixtures("in_this_process")
class TestTransformers:
    """A folder as save_pretrained writes it."""

    @pytest.fixture(scope="class", params=["ViT", "ResNet"])
    def folder(self, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Write a tiny network with random weights and three classes."""
        import torch
        import transformers

        torch.manual_seed(0)
        classes: dict[str, Any] = {"id2label": {0: "a", 1: "b", 2: "c"}}
        if request.param == "ViT":
            sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
            config = transformers.ViTConfig(image_size=32, patch_size=8, **sizes, **classes)
            model = transformers.ViTForImageClassification(config)
        else:
            config = transformers.ResNetConfig(
                embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **classes
            )
            model = transformers.ResNetForImageClassification(config)
            model.classifier[1].weight.data.mul_(20)  # random features are much alike: spread the classes
        folder = tmp_path_factory.mktemp(request.param)
        model.save_pretrained(folder)
        processor = transformers.ViTImageProcessorPil(size={"height": 32, "width": 32})
        processor.save_pretrained(folder)
        return folder

    @pytest.mark.parametrize("variant", ["torch-fp32", "onnx-fp32", "torchao-int8-weights"])
    def test_variants_agree_with_transformers(
        self, image_job: Any, images: Path, folder: Path, encoded: dict[str, bytes], sink: Path, variant: str
    ) -> None:
        import torch
        import transformers
        from PIL import Image

        model = {"path": str(folder), "family": "image-classification"}
        gate = {"metric": "cosine", "min": 0.99, "sample_rows": 16}
        optinfer.run(image_job(images, sink, model=model, variant=variant, gate=gate))
        rows = by_name(sink)
        assert len(rows) == len(encoded)
        theirs = transformers.ViTImageProcessorPil.from_pretrained(folder)
        photos = [Image.open(io.BytesIO(image)).convert("RGB") for image in encoded.values()]
        network = transformers.AutoModelForImageClassification.from_pretrained(folder)
        with torch.inference_mode():
            expected = network(**theirs(photos, return_tensors="pt")).logits.softmax(-1).max(-1)
        within = 1e-4 if variant.endswith("fp32") else 2e-2
        scores = [rows[name]["score"] for name in encoded]
        np.testing.assert_allclose(scores, expected.values, atol=within)
        agree = [
            rows[n]["label"] == network.config.id2label[int(i)] for n, i in zip(encoded, expected.indices, strict=True)
        ]
        assert all(agree) or variant == "torchao-int8-weights"

    def test_a_backbone_without_a_head_is_refused(self, folder: Path, tmp_path: Path) -> None:
        copy = shutil.copytree(folder, tmp_path / "model")
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps({**config, "architectures": ["ViTModel"]}))
        with pytest.raises(ConfigError, match="is ViTModel, not an image classifier"):
            FAMILIES.get("image-classification").load(located(copy, "image-classification"), {})


class TestReference:
    """Finished rows are held against transformers; nothing that this code decides is trusted there."""

    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return ARCHITECTURES["MobileNetV1"].write(tmp_path_factory.mktemp("mobilenet"))

    @pytest.fixture(scope="class")
    def exported(self, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Return the same model as an ONNX file beside its own descriptions."""
        import torch

        out = tmp_path_factory.mktemp("exported")
        for name in ("config.json", "preprocessor_config.json"):
            shutil.copy2(folder / name, out)
        module = FAMILIES.get(FAMILY).load(located(folder, FAMILY), {}).load_module()
        rows = {"pixel_values": {0: torch.export.Dim("rows")}}
        program = torch.onnx.export(
            module, (torch.zeros(2, 3, 32, 32),), dynamo=True, dynamic_shapes=rows, output_names=["logits"]
        )
        program.save(str(out / "model.onnx"))
        return out

    def scored(self, folder: Path, **settings: Any) -> tuple[Any, pa.Table, pa.Table]:
        """Return (family, some of the suite's images, finished rows)."""
        model = located(folder, FAMILY)
        backend = "onnxruntime" if model.format == "onnx" else "torch"
        replica = Replica(
            ReplicaSettings(
                family=FAMILY, family_settings=settings, model=model, backend=backend, artifact=model, threads=1
            )
        )
        rows = pa.table({"image": [data for _, data in varied()[::8]]})
        return replica.family, rows, replica.score(rows).added

    @pytest.mark.parametrize("settings", [{}, {"top_k": 3}])
    def test_a_folder_answers_like_the_pipeline(self, folder: Path, settings: dict[str, Any]) -> None:
        import transformers

        family, rows, finished = self.scored(folder, **settings)
        reference = family.reference(rows, finished)
        assert reference.agrees, reference.note
        assert reference.largest_difference is not None
        assert reference.largest_difference < 1e-5
        assert (reference.library, reference.version) == ("transformers", transformers.__version__)

    def test_an_onnx_file_answers_like_processor_and_runtime(self, exported: Path) -> None:
        reference = (answer := self.scored(exported))[0].reference(*answer[1:])
        assert (reference.library, reference.rows) == ("transformers", 8)
        assert reference.agrees, reference.note

    @pytest.mark.parametrize("top_k", [None, 3])
    def test_a_class_by_a_wrong_name_is_seen(self, folder: Path, top_k: int | None) -> None:
        family, rows, finished = self.scored(folder, **({"top_k": top_k} if top_k else {}))
        column = "labels" if top_k else "label"
        shifted = {f"LABEL_{i}": f"LABEL_{(i + 1) % 5}" for i in range(5)}
        renamed = [[shifted[n] for n in row] if top_k else shifted[row] for row in finished[column].to_pylist()]
        at = finished.schema.get_field_index(column)
        wrong = finished.set_column(at, finished.schema.field(at), pa.array(renamed, finished.schema.field(at).type))
        reference = family.reference(rows, wrong)
        assert not reference.agrees
        assert "most in row" in reference.note

    @pytest.mark.parametrize(
        ("key", "value"),
        [("resample", 3), ("image_mean", [0.48, 0.5, 0.5]), ("size", {"shortest_edge": 37}), ("do_center_crop", False)],
    )
    def test_a_setting_that_is_not_applied_is_seen(
        self, folder: Path, exported: Path, tmp_path: Path, key: str, value: Any
    ) -> None:
        """What the reader would do if it took another value than the file gives."""
        for model in (folder, exported):
            misread = Path(shutil.copytree(model, tmp_path / model.name, dirs_exist_ok=True))
            config = json.loads((misread / "preprocessor_config.json").read_text())
            size = {"size": config["crop_size"]} if key == "do_center_crop" else {}
            (misread / "preprocessor_config.json").write_text(json.dumps({**config, key: value, **size}))
            _, rows, finished = self.scored(misread)
            reference = self.scored(model)[0].reference(rows, finished)
            assert not reference.agrees, reference.largest_difference

    def test_alpha_and_orientation_are_seen(self, folder: Path) -> None:
        """Composed on white, as the processors do by themselves, is not what the pipeline does; nor is lying on its side."""
        from PIL import Image
        from transformers.image_transforms import convert_to_rgb

        chosen = [data for what, data in varied() if "A in PNG" in what or "orientation 6" in what]

        def careless(data: bytes) -> bytes:
            convert_to_rgb(Image.open(io.BytesIO(data))).save(out := io.BytesIO(), "PNG", exif=b"")
            return out.getvalue()

        model = located(folder, FAMILY)
        replica = Replica(ReplicaSettings(family=FAMILY, model=model, backend="torch", artifact=model, threads=1))
        finished = replica.score(pa.table({"image": [careless(data) for data in chosen]})).added
        for row, data in enumerate(chosen):
            reference = replica.family.reference(pa.table({"image": [data]}), finished.slice(row, 1))
            assert not reference.agrees

    def test_without_a_processors_name_nobody_compared(self, exported: Path, tmp_path: Path) -> None:
        folder = Path(shutil.copytree(exported, tmp_path / "nameless"))
        (folder / "config.json").write_text(json.dumps({"id2label": {i: str(i) for i in range(5)}}))
        described = json.loads((folder / "preprocessor_config.json").read_text())
        del described["image_processor_type"]
        (folder / "preprocessor_config.json").write_text(json.dumps(described))
        reference = (answer := self.scored(folder))[0].reference(*answer[1:])
        assert reference.largest_difference is None
        assert "nobody compared" in reference.note


class TestOfTransformers:
    """What the library's files say, in the forms they have had."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return ARCHITECTURES["ViT"].write(tmp_path / "model")

    def load(self, folder: Path) -> Any:
        return FAMILIES.get(FAMILY).load(located(folder, FAMILY), {})

    def test_of_two_files_the_one_that_the_library_reads_counts(self, folder: Path) -> None:
        own = json.loads((folder / "preprocessor_config.json").read_text())
        (folder / "processor_config.json").write_text(json.dumps({"image_processor": {**own, "resample": 0}}))
        assert self.load(folder)._preparation.resample == 0
        (folder / "preprocessor_config.json").unlink()
        assert self.load(folder)._preparation.resample == 0

    def test_a_file_of_old_is_read_with_the_librarys_defaults(self, folder: Path) -> None:
        old = {
            "feature_extractor_type": "ViTFeatureExtractor",
            "size": 32,
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
        }
        (folder / "preprocessor_config.json").write_text(json.dumps(old))
        preparation = self.load(folder)._preparation
        assert (preparation.size, preparation.resample, preparation.scale) == ((32, 32), 2, 1 / 255)

    def test_a_file_without_a_name_means_the_models_own_processor(self, folder: Path) -> None:
        own = json.loads((folder / "preprocessor_config.json").read_text())
        (folder / "preprocessor_config.json").write_text(json.dumps({k: v for k, v in own.items() if "type" not in k}))
        assert type(self.load(folder)._preparation._processor).__name__ == "ViTImageProcessorPil"

    def test_classes_without_names_have_the_librarys(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        assert "id2label" in config
        assert self.load(folder)._classes.names.tolist() == [f"LABEL_{i}" for i in range(5)]

    def test_a_strip_that_would_fill_the_memory_is_rejected(self) -> None:
        from PIL import Image

        ours = Preparation(size=(224, 224), resize=224, resample=2, scale=1.0, mean=(0.0,) * 3, std=(1.0,) * 3)
        Image.new("RGB", (1, 20000)).save(file := io.BytesIO(), "PNG")
        with pytest.raises(ValueError, match="resized to 224 x 4480000 it would be larger than any image"):
            ours.prepare(file)


class TestOutage:
    """What a store says of a file is not what a decoder says of its bytes: rows of an outage stay rows."""

    @pytest.fixture
    def replica(self, tmp_path: Path) -> Replica:
        model = located(ARCHITECTURES["ViT"].write(tmp_path / "model"), FAMILY)
        return Replica(ReplicaSettings(family=FAMILY, model=model, backend="torch", artifact=model, threads=1))

    @pytest.mark.parametrize(
        ("url", "error"),
        [
            ("s3://photos/1.png", "PermissionError"),
            ("s3://user:word@photos/1.png?key=secret", "ParamValidationError"),
        ],
    )
    def test_a_store_that_refuses_ends_the_call_and_rejects_no_row(
        self, replica: Replica, tmp_path: Path, flaky: FlakyStore, url: str, error: str
    ) -> None:
        (tmp_path / "photo.png").write_bytes(varied()[0][1])
        flaky.meets = lambda method, path, headers: True
        flaky.forever = flaky_store.refusal(403, "AccessDenied")
        paths = [str(tmp_path / "photo.png"), url]
        with pytest.raises(SourceError, match=rf"image s3://photos/1\.png cannot be read: {error}") as refused:
            replica.score(pa.table({"image": paths}))
        assert "word" not in str(refused.value)
        assert "key=secret" not in str(refused.value)

    def test_a_file_that_is_not_there_and_a_host_that_is_gone_reject_their_rows(
        self, replica: Replica, tmp_path: Path, free_port: int
    ) -> None:
        (tmp_path / "photo.png").write_bytes(varied()[0][1])
        paths = [str(tmp_path / "photo.png"), str(tmp_path / "gone.png"), f"http://127.0.0.1:{free_port}/1.png"]
        paths += ["x" * 5000, "nosuch://store/1.png", str(tmp_path), str(tmp_path / "photo.png" / "inside"), "a\0b"]
        scored = replica.score(pa.table({"image": paths}))
        assert scored.kept.tolist() == [0]
        assert sorted(scored.rejected) == [*range(1, 8)]
