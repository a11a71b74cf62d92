"""What a model file may do when it is opened: nothing. Files that can run code are refused before a library sees them.

Pickles run code by design. An ONNX file may name any file of the machine as its weights. A torch.export archive is JSON
and raw weights, but its reader unpickles, evaluates and imports what the archive asks it to, loads libraries out of it,
and writes names from it into Python source (torch 2.13: export/pt2_archive/_package.py, export/_unlift.py,
_export/serde/serialize.py). So nothing in an archive passes but what torch.export.save writes for plain tensors.
"""

from __future__ import annotations

import io
import json
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from optinfer.errors import ConfigError

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")

_ALLOW = "convert it to safetensors, .onnx or .pt2, or set model.allow_pickle: true if you trust where it comes from"

# What torch.export.save and torch.save put into a zip. Compiled libraries and pickled objects are not among it.
_PT2_MEMBERS = re.compile(
    r"[^/]+/(archive_format|archive_version|byteorder|\.data/\w+|extra/.*|models/model\.json|data/sample_inputs/model\.pt"
    r"|data/(weights|constants)/(model\.pt|model_(weights|constants)_config\.json|(weight|tensor)_\d+))",
    re.ASCII,
)
_SAVED_MEMBERS = re.compile(r"[^/]+/(data\.pkl|byteorder|version|\.\w+(/\w+)?|data/\d+)", re.ASCII)
_PLAIN_TENSORS = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)"
    r"|torch\._tensor _rebuild_from_type_v2|torch Tensor|torch \w+Storage|torch\.storage UntypedStorage"
)
_OTHER_OBJECTS = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"}

# What a description may say, by key; what is not listed is a name. Nothing evaluates a node's metadata or a string.
_ANY_TEXT = ("metadata", "as_string", "as_strings")
_SIGNATURES = ("in_spec", "out_spec")
_NAME = re.compile(r"-?\w*", re.ASCII)
_DOTTED = re.compile(r"[\w.+-]*", re.ASCII)
_OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims|quantized_decomposed)\."
    r"(?!from_file|save|load)(__i?(and|or|xor|lshift|rshift)__|[a-zA-Z]\w*|_[a-zA-Z]\w*)\.[a-zA-Z]\w*"
    r"|torch\.ops\.higher_order\.(cond|while_loop|map_impl|scan|associative_scan|wrap_with_(autocast|set_grad_enabled))"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pos|pow|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)"
    r"|math\.[a-z]\w*|torch\._?sym_\w+",
    re.ASCII,
)
_TEXTS = {
    "target": _OPERATOR,
    "as_operator": _OPERATOR,
    **dict.fromkeys(("parameter_name", "buffer_name", "tensor_constant_name", "fqn", "torch_version"), _DOTTED),
}
# Sizes and guards are evaluated as Python: only arithmetic on named sizes gets that far.
_SIZE_TEXT = re.compile(r"[\w\s'\[\]().,+*/%<>=!-]*", re.ASCII)
_SIZE_WORDS = re.compile(
    r"Symbol|Integer|Float|Rational|Add|Mul|Pow|Abs|Max|Min|And|Or|Not|Equality|Unequality|(Strict)?(Less|Greater)Than"
    r"|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|ModularIndexing|PowByNatural|IntTrueDiv|FloatTrueDiv|ToFloat|Where"
    r"|(Ceil|Floor|Trunc|Round)ToInt|TruncToFloat|Identity|positive|integer|nonnegative|precision|True|False"
    r"|[suzf]+\d+|L|size|stride|storage_offset|and|or|not|math|floor|ceil|trunc|sqrt|inf"
)
_INPUT = re.compile(r"L(\['\w+'\]|\[\d+\])+", re.ASCII)


def refuse_pickle(path: Path) -> None:
    """Refuse a file that is a pickle by its name or its content; torch.save's is one in a zip.

    Raises:
        ConfigError: it is one; says what to do.
    """
    if path.suffix.lower() in PICKLES or _holds_a_pickle(path):
        raise ConfigError(f"{path} is a pickle, which can run any code when it is opened; {_ALLOW}")


def _holds_a_pickle(path: Path) -> bool:
    with open(path, "rb") as file:
        head = file.read(2)
    if len(head) == 2 and head[0] == 0x80 and 2 <= head[1] <= 5:
        return True
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.lower().endswith("/data.pkl") for name in archive.namelist())


def check_safetensors(path: Path) -> None:
    """Refuse a file that only has the name of one: a JSON header after its length is what makes it one.

    Raises:
        ConfigError: it has no such header.
    """
    refuse_pickle(path)
    with open(path, "rb") as file:
        length, first = int.from_bytes(file.read(8), "little"), file.read(1)
    if first != b"{" or length > path.stat().st_size:
        raise ConfigError(f"{path} is not a safetensors file; write it with safetensors.torch.save_file")


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
            raise ConfigError(
                f"{path} takes weights from {location!r}, which is not there; copy it beside the model, or give the "
                "folder that holds both"
            )
    return [path.parent / location for location in locations]


def _external(message: Any) -> Iterator[str]:
    """Yield the location of every tensor kept outside, wherever it hides (subgraphs, functions); refuse engines."""
    import onnx

    if isinstance(message, onnx.TensorProto):
        if message.data_location == onnx.TensorProto.EXTERNAL:
            yield from (entry.value for entry in message.external_data if entry.key == "location")
        return
    if isinstance(message, onnx.NodeProto) and message.op_type == "EPContext":
        raise ConfigError("the ONNX model holds a compiled engine (EPContext), which may run any code; export it again")
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in [value] if hasattr(value, "ListFields") else value:
                yield from _external(inner)


def check_pt2(path: Path) -> None:
    """Refuse a torch.export archive whose reader would do more than read tensors and a graph of operators.

    Raises:
        ConfigError: it would, or the file is no archive.
    """
    try:
        with open(path, "rb") as file, _opened(path, file, _PT2_MEMBERS) as archive:
            for name in archive.namelist():
                if "/extra/" in name:
                    continue
                if name.endswith(".json"):
                    _check_text(path, "", json.loads(archive.read(name)))
                elif name.endswith(".pt"):
                    _check_tensors(path, name, archive.read(name))
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise ConfigError(f"{path} is not a torch.export archive: {error}; write it with torch.export.save") from error


def _opened(path: Path, file: IO[bytes], members: re.Pattern[str]) -> zipfile.ZipFile:
    """Open a zip in which torch finds what Python's reader finds.

    torch takes names in any case, and both readers must take the same directory for the archive's own.
    """
    archive = zipfile.ZipFile(file)
    infos = archive.infolist()
    for info in infos:
        if not members.fullmatch(info.filename):
            raise ConfigError(f"{path} holds {info.filename}, which is neither a graph nor plain tensors; {_ALLOW}")
    once = len({info.filename.lower() for info in infos}) == len(infos)
    one_root = len({info.filename.partition("/")[0] for info in infos}) == 1
    if not (once and one_root and not archive.comment and infos[0].header_offset == 0 and _ends_once(file)):
        raise ConfigError(f"{path} can be read in two ways; write it anew with torch.export.save, or {_ALLOW}")
    return archive


def _ends_once(file: IO[bytes]) -> bool:
    """Say whether a large zip's locator points where Python's reader looks without asking it."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - 42))
    locator = file.read(20)
    return locator[:4] != b"PK\6\7" or int.from_bytes(locator[8:16], "little") == size - 98


def _check_text(path: Path, key: str, value: Any) -> None:
    """Check every text of a description; one in a list has the list's key."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if not (_DOTTED.fullmatch(name) or _is_size(name)):
                raise ConfigError(f"{path} has a key that is no name: {name[:80]!r}; {_ALLOW}")
            if name == "use_pickle" and inner:
                raise ConfigError(f"{path} holds pickled weights or objects, which can run any code; {_ALLOW}")
            # A weight may be called metadata, too: then what it holds is no text.
            _check_text(path, key if key == "metadata" and isinstance(inner, str) else name, inner)
    elif isinstance(value, list):
        for inner in value:
            _check_text(path, key, inner)
    elif isinstance(value, str) and key not in _ANY_TEXT and not _is_plain(key, value):
        raise ConfigError(f"{path} has a {key} that could run code: {value[:80]!r}; {_ALLOW}")


def _is_plain(key: str, text: str) -> bool:
    if key in ("expr_str", "guards_code"):
        return _is_size(text)
    if key in _SIGNATURES:
        return _is_signature(json.loads(text))
    return bool(_TEXTS.get(key, _NAME).fullmatch(text))


def _is_size(text: str) -> bool:
    words = re.findall(r"[A-Za-z_]\w*", _INPUT.sub("L", text))
    return bool(_SIZE_TEXT.fullmatch(text)) and all(_SIZE_WORDS.fullmatch(word) for word in words)


def _is_signature(value: Any) -> bool:
    """Tell a tree of tuples, lists and dicts from one whose reader imports what it names: a defaultdict, an enum."""
    if isinstance(value, dict):
        return all(map(_is_signature, [*value, *value.values()]))
    if isinstance(value, list):
        return all(map(_is_signature, value))
    if isinstance(value, str) and value[:1] in ("[", "{"):
        return _is_signature(json.loads(value))
    if not isinstance(value, str):
        return True
    return bool(_DOTTED.fullmatch(value.strip('"'))) and "default" not in value and "__enum__" not in value


def _check_tensors(path: Path, name: str, content: bytes) -> None:
    """Refuse a torch.save file inside the archive that holds more than plain tensors."""
    if not content:
        return
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise ConfigError(f"{path} holds {name}, a bare pickle; {_ALLOW}")
    with _opened(path, io.BytesIO(content), _SAVED_MEMBERS) as inner:
        pickled = inner.read(next(n for n in inner.namelist() if n.endswith("/data.pkl")))
    for operation, argument, _ in pickletools.genops(pickled):
        named = operation.name == "GLOBAL" and not _PLAIN_TENSORS.fullmatch(str(argument))
        if named or operation.name in _OTHER_OBJECTS:
            raise ConfigError(
                f"{path} holds {name}, a pickle of more than tensors ({argument or operation.name}); {_ALLOW}"
            )
