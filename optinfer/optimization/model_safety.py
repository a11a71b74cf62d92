"""What a model file may do when it is opened: nothing. Files that can run code are refused before a library sees them.

Pickles run code by design. An ONNX file may name any file of the machine as its weights. A torch.export archive is JSON
and raw weights, but its reader also unpickles and evaluates what the archive asks it to (torch 2.13:
export/pt2_archive/_package.py, _export/serde/serialize.py), so each such place is looked at first.
"""

from __future__ import annotations

import io
import json
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optinfer.errors import ConfigError

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")

_ALLOW = "convert it to safetensors, .onnx or .pt2, or set model.allow_pickle: true if you trust where it comes from"
# What torch.save needs for plain tensors, and nothing else.
_PLAIN_TENSORS = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)"
    r"|torch \w+Storage|torch\.storage UntypedStorage"
)
_OTHER_OBJECTS = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"}
# A size's expression is handed to a symbolic evaluator: only sums and products of named sizes are let through.
_SIZE_WORDS = re.compile(
    r"Symbol|Integer|Add|Mul|Pow|Mod|Max|Min|FloorDiv|CleanDiv|CeilDiv|PythonMod"
    r"|positive|integer|nonnegative|True|False|[su]\d+"
)

_SIZE_TEXT = re.compile(r"[\w\s'(),=+*/-]*")


def refuse_pickle(path: Path) -> None:
    """Refuse a file that is a pickle by its name or its first bytes.

    Raises:
        ConfigError: it is one; says what to do.
    """
    if path.suffix in PICKLES or _begins_like_a_pickle(path):
        raise ConfigError(f"{path} is a pickle, which can run any code when it is opened; {_ALLOW}")


def _begins_like_a_pickle(path: Path) -> bool:
    with open(path, "rb") as file:
        head = file.read(2)
    return len(head) == 2 and head[0] == 0x80 and 2 <= head[1] <= 5


def check_onnx(path: Path) -> list[Path]:
    """Return the files that hold an ONNX model's weights; refuse those outside its folder: absolute, `..`, or a link.

    Raises:
        ConfigError: it names such a file, or one that does not exist.
    """
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:
        raise ConfigError(f"{path} is not an ONNX model: {error}") from error
    locations = sorted(set(_external(model)))
    for location in locations:
        file = path.parent / location
        outside = Path(location).is_absolute() or ".." in Path(location).parts
        linked = any(p.is_symlink() for p in (file, *file.parents) if path.parent in p.parents)
        if outside or linked:
            raise ConfigError(
                f"{path} takes weights from {location!r}, {'a link' if linked else 'outside its folder'}: refused, it "
                "could read any file; save the model again with its weights beside it"
            )
        if not file.is_file():
            raise ConfigError(f"{path} takes weights from {location!r}, which is not there; copy it beside the model")
    return [path.parent / location for location in locations]


def _external(message: Any) -> Iterator[str]:
    """Yield the location of every tensor kept outside, wherever in the model it hides (subgraphs, functions)."""
    import onnx

    if isinstance(message, onnx.TensorProto):
        if message.data_location == onnx.TensorProto.EXTERNAL:
            yield from (entry.value for entry in message.external_data if entry.key == "location")
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in [value] if hasattr(value, "ListFields") else value:
                yield from _external(inner)


def check_pt2(path: Path) -> None:
    """Refuse a torch.export archive that asks its reader to unpickle objects or to evaluate anything but sizes.

    Raises:
        ConfigError: it does, or it is no archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".json"):
                    _check_description(path, json.loads(archive.read(name)))
                elif name.endswith((".pt", ".pkl")) or "opaque_obj" in name or "custom_obj" in name:
                    _check_tensors(path, name, archive.read(name))
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise ConfigError(f"{path} is not a torch.export archive: {error}; write it with torch.export.save") from error


def _check_description(path: Path, value: Any) -> None:
    if isinstance(value, dict):
        if value.get("use_pickle"):
            raise ConfigError(f"{path} holds pickled weights or objects, which can run any code; {_ALLOW}")
        for key, inner in value.items():
            if key in ("expr_str", "guard_expr") and isinstance(inner, str) and not _is_size(inner):
                raise ConfigError(f"{path} has an expression that is no size: {inner[:80]!r}; {_ALLOW}")
            _check_description(path, inner)
    elif isinstance(value, list):
        for inner in value:
            _check_description(path, inner)


def _is_size(text: str) -> bool:
    words = re.findall(r"[A-Za-z_]\w*", text)
    return bool(_SIZE_TEXT.fullmatch(text)) and all(_SIZE_WORDS.fullmatch(word) for word in words)


def _check_tensors(path: Path, name: str, content: bytes) -> None:
    """Refuse a torch.save file inside the archive that holds more than plain tensors."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as inner:
            pickles = [inner.read(n) for n in inner.namelist() if n.endswith(".pkl")]
    except zipfile.BadZipFile:
        pickles = [content]
    for pickled in pickles:
        try:
            operations = [(op.name, argument) for op, argument, _ in pickletools.genops(pickled)]
        except Exception as error:
            raise ConfigError(f"{path} holds {name}, which cannot be read: {error}; {_ALLOW}") from error
        for operation, argument in operations:
            named = operation == "GLOBAL" and not _PLAIN_TENSORS.fullmatch(str(argument))
            if named or operation in _OTHER_OBJECTS:
                raise ConfigError(
                    f"{path} holds {name}, a pickle of more than tensors ({argument or operation}); {_ALLOW}"
                )
