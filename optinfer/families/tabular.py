"""Rows of a table to answers: models of scikit-learn, XGBoost and LightGBM, and any that MLflow opens as a function.

Roles are the model's features by name, and a source column of the same name needs no mapping. A model that does not
name them has the role `features`: as many columns as it takes, side by side, or a list column. What is missing (null,
NaN) goes to the library as missing. The baseline is the library itself; as ONNX the same model is held against it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from optinfer.errors import ConfigError
from optinfer.families import Arrays, Columns, Family, FamilyKind, Features, Reference
from optinfer.families import _table_models as models
from optinfer.families._job_settings import ClassSettings
from optinfer.families._numbers import is_number, is_text, numbers_a_row
from optinfer.models import tables
from optinfer.models.artifact import Artifact

# Of a signature's words for types, those that a column can hold.
_ARROW = {
    "double": pa.float64(),
    "float": pa.float32(),
    "long": pa.int64(),
    "integer": pa.int32(),
    "boolean": pa.bool_(),
    "string": pa.string(),
    "float64": pa.float64(),
    "float32": pa.float32(),
    "int64": pa.int64(),
    "int32": pa.int32(),
    "bool": pa.bool_(),
    "object": pa.string(),
    "str": pa.string(),
}
_DTYPES = {"float": "float32", "float32": "float32", "long": "int64", "int64": "int64", "integer": "int32",
           "int32": "int32", "boolean": "bool", "bool": "bool"}  # fmt: skip
_TEXTS = ("string", "object", "str")


class Settings(ClassSettings):
    """What a job may say of a table's model."""

    probabilities: bool = Field(
        False,
        description="also the column `probabilities`: of all classes, in the model's own order",
    )
    trusted_types: tuple[str, ...] = Field(
        (),
        description="types that a `.skops` file may hold beside those skops trusts: `[sklearn.tree._tree.Tree]`",
    )
    any_versions: bool = Field(
        False,
        description="open the model also where it was logged with other versions than those that are installed",
    )


def make(model: Artifact, settings: Settings) -> Family:
    return Tabular(model, settings)


@dataclass(kw_only=True)
class ColumnFeatures(Features):
    """One array of (rows, width) for each input."""

    columns: Arrays

    def collate(self, rows: np.ndarray[Any, Any], pad_to: int = 0) -> Arrays:
        return {name: values[rows] for name, values in self.columns.items()}


class Tabular(Family):
    """Columns gained: `label` and `score` (with `top_k` `labels` and `scores`), or `prediction`; or a signature's."""

    max_batch_size = 4096
    takes_nulls = True

    def __init__(self, model: Artifact, settings: Settings) -> None:
        self._described, self._settings = tables.read(model.file), settings
        if not settings.any_versions:
            self._described.require_environment()
        self.libraries = self.opened_by = (tables.LIBRARIES[self._described.library],)
        opened = self.load_module()  # not kept: what executes an artifact may have no use for it
        self._features, self._columns, self._classes = opened.features, opened.outputs, opened.classes
        self.roles = self.inputs = self._features.inputs
        self.outputs = tuple(column.name for column in self._columns)
        self.dynamic_axes = {name: {0: "rows"} for name in self.inputs}
        self.schema = self._schema()
        classes = self._classes is not None
        self.metrics = ("agreement", "top1_agreement", "cosine") if classes else ("agreement", "r2")

    def check(self, schema: pa.Schema, columns: Columns) -> None:
        features = self._features
        if not features.names:
            return self._check_unnamed(schema, columns[models.FEATURES])
        for role in self.roles:
            given = columns[role]
            if not isinstance(given, str):
                raise ConfigError(f"source.columns.{role} takes one column, not several")
            if given not in schema.names:
                raise ConfigError(
                    f"the model takes {role!r}, and the table has no column {given!r}; map it: "
                    f"source.columns: {{{role!r}: <a source column>}}"
                )
            _require_kind(role, given, schema.field(given).type, features)
        return None

    def preprocess(self, table: pa.Table) -> Features:
        features = self._features
        rejected: dict[int, str] = {}
        columns: Arrays = {}
        for name in self.inputs:
            column = table.column(name).combine_chunks()
            if not features.names:
                columns[name], refused = _matrix(column, features.width, _DTYPES.get(features.kinds.get(name, "")))
            else:
                columns[name], refused = _values(column, features.kinds.get(name, ""))
            rejected = {row: f"{name}: {why}" for row, why in refused.items()} | rejected
        return ColumnFeatures(rows=table.num_rows, rejected=rejected, columns=columns)

    def postprocess(self, outputs: Arrays) -> pa.Table:
        if self._classes is None or models.PROBABILITIES not in self.outputs:
            found = [_arrow(outputs[name], self.schema.field(name).type) for name in self.outputs]
            return pa.Table.from_arrays(found, schema=self.schema)
        labels, shares = outputs[models.LABEL], np.asarray(outputs[models.PROBABILITIES], dtype=np.float64)
        found = self._best(labels, shares)
        if self._settings.probabilities:
            found.append(_arrow(shares, self.schema.field(models.PROBABILITIES).type))
        return pa.Table.from_arrays(found, schema=self.schema)

    def answers(self, outputs: Arrays) -> np.ndarray[Any, Any]:
        return outputs[self.outputs[0]].reshape(len(outputs[self.outputs[0]]), -1)[:, 0]

    def load_module(self) -> models.TableModel:
        return models.load(self._described, self._settings.trusted_types)

    def reference(self, rows: pa.Table, finished: pa.Table) -> Reference:
        from optinfer.families import _alone

        anew = self.load_module()
        library = {"pyfunc": "mlflow"}.get(self._described.library, self._described.library)
        return _alone.held(library, lambda row: self._answer_alone(anew, row), rows, finished)

    def _answer_alone(self, model: models.TableModel, row: pa.Table) -> dict[str, Any]:
        """Return what a model that was opened anew says of one row, given as pandas makes a frame of it."""
        frame = row.to_pandas()
        if not model.features.names:
            values = frame[models.FEATURES][0]
            frame = np.array([list(values.values()) if isinstance(values, dict) else values], dtype=np.float64)
        answers = model.predict(model.as_categories(frame) if model.features.names else frame)
        return {
            **self.postprocess(answers).to_pylist()[0],
            **{n: v[0].tolist() for n, v in answers.items() if v.ndim > 1},
        }

    def _schema(self) -> pa.Schema:
        top_k, classes = self._settings.top_k, self._classes
        columns = {column.name: _column_type(column) for column in self._columns}
        if classes is None or models.PROBABILITIES not in columns:
            if top_k or self._settings.probabilities:
                raise ConfigError("model.top_k and model.probabilities are for classes with probabilities; remove them")
            return pa.schema(list(columns.items()))
        if top_k and top_k > len(classes):
            raise ConfigError(f"model.top_k {top_k} is more than the model's {len(classes)} classes; lower it")
        label = columns[models.LABEL]
        gained = [("label", label), ("score", pa.float32())]
        if top_k:
            gained = [("labels", pa.list_(label, top_k)), ("scores", pa.list_(pa.float32(), top_k))]
        if self._settings.probabilities:
            gained.append((models.PROBABILITIES, pa.list_(pa.float32(), len(classes))))
        return pa.schema(gained)

    def _best(self, labels: np.ndarray[Any, Any], shares: np.ndarray[Any, Any]) -> list[pa.Array]:
        """Return each row's label with its probability, or with `top_k` the classes of the largest ones."""
        classes, top_k = self._classes, self._settings.top_k
        assert classes is not None
        if not top_k:
            own = (labels.astype(str)[:, None] == classes.astype(str)[None, :]).argmax(axis=1)
            return [
                _arrow(labels, self.schema.field("label").type),
                pa.array(shares[np.arange(len(own)), own], pa.float32()),
            ]
        best = np.argsort(-shares, axis=1, kind="stable")[:, :top_k]
        scores = np.take_along_axis(shares, best, axis=1)
        return [
            _arrow(values, self.schema.field(n).type) for n, values in (("labels", classes[best]), ("scores", scores))
        ]

    def _check_unnamed(self, schema: pa.Schema, given: str | tuple[str, ...]) -> None:
        names, width = (given,) if isinstance(given, str) else given, self._features.width
        for name in names:
            if name not in schema.names:
                raise ConfigError(
                    f"the model takes {width} numbers that have no names; say which columns they are, in its order: "
                    "source.columns: {features: [...]}, or a list column"
                )
            kind = schema.field(name).type
            one = is_number(kind) if len(names) > 1 else numbers_a_row(kind) in (width, None)
            if not one:
                raise ConfigError(
                    f"column {name!r} holds {kind}, the model takes {width} numbers; choose other columns"
                )
        if len(names) > 1 and len(names) != width:
            raise ConfigError(f"source.columns.features names {len(names)} columns, the model takes {width}")


def _require_kind(role: str, column: str, kind: pa.DataType, features: models.Features) -> None:
    """Refuse a column whose values the model's library would not take as they are meant."""
    wanted = features.kinds.get(role, "")
    if wanted and wanted not in _ARROW:
        raise ConfigError(
            f"the model takes {role!r} as {wanted}, which optinfer does not feed; log it with numbers or texts"
        )
    texts = wanted in _TEXTS if wanted else is_text(kind) and (not features.numeric or role in features.categorical)
    if is_text(kind) if texts else is_number(kind):
        if _DTYPES.get(wanted, "float64")[0] in "ib" and pa.types.is_floating(kind):
            raise ConfigError(f"column {column!r} holds {kind}, the model takes {role!r} as {wanted}; cast it")
        return
    takes = "texts" if texts else "numbers" if features.numeric or wanted else "numbers and texts"
    raise ConfigError(
        f"column {column!r} holds {kind}, the model takes {takes} as {role!r}; choose another column, or make numbers "
        "of it when writing the table, as was done for training"
    )


def _values(column: Any, kind: str) -> tuple[np.ndarray[Any, Any], dict[int, str]]:
    """Return (rows, 1) values of a column, what is missing as NaN, and the rows that the model cannot be given."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    null = np.asarray(column.is_null())
    if is_text(column.type):
        texts = np.array(column.to_pylist(), dtype=object)
        texts[null] = np.nan
        return texts[:, None], {}
    dtype = _DTYPES.get(kind, "float64")
    if dtype[0] in "ib":
        filled = np.asarray(pc.fill_null(column, False if pa.types.is_boolean(column.type) else 0))
        lost = filled.astype(dtype) != filled
        refused = {int(i): f"is missing, and the model takes {kind}" for i in np.flatnonzero(null)}
        return filled.astype(dtype)[:, None], {int(i): f"does not fit {dtype}" for i in np.flatnonzero(lost)} | refused
    return _floats(column).astype(dtype)[:, None], {}


def _floats(column: Any) -> np.ndarray[Any, Any]:
    """Return numbers as doubles, which is what these libraries make of them; what is missing is NaN."""
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    return np.array(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), dtype=np.float64)


def _matrix(column: Any, width: int, dtype: str | None) -> tuple[np.ndarray[Any, Any], dict[int, str]]:
    """Return (rows, width) numbers of several columns or of a list column, and the rows with another number of them."""
    if pa.types.is_struct(column.type):
        values = np.stack([_floats(field) for field in column.flatten()], axis=1)
        return values.astype(dtype or "float64"), {}
    lengths = np.asarray(pc.fill_null(pc.list_value_length(column), -1))
    wrong = {int(i): f"has {max(lengths[i], 0)} numbers, not {width}" for i in np.flatnonzero(lengths != width)}
    values = np.zeros((len(column), width))
    values[lengths == width] = _floats(column.filter(pa.array(lengths == width)).flatten()).reshape(-1, width)
    return values.astype(dtype or "float64"), wrong


def _column_type(column: tables.Column) -> pa.DataType:
    if column.kind not in _ARROW:
        raise ConfigError(f"the model gives {column.name!r} as {column.kind}, of which no column can be made")
    kind = _ARROW[column.kind]
    return pa.list_(kind, column.size) if column.size else kind


def _arrow(values: np.ndarray[Any, Any], kind: pa.DataType) -> pa.Array:
    if not pa.types.is_fixed_size_list(kind):
        if values.ndim > 1 and values.shape[1:] != (1,):
            raise ConfigError(f"the model gives {values.shape[1]} numbers a row, announced was one; log its signature")
        return pa.array(values.reshape(len(values)), kind)
    flat = pa.array(np.ascontiguousarray(values).ravel(), kind.value_type)
    return pa.FixedSizeListArray.from_arrays(flat, kind.list_size)


family = FamilyKind(
    settings=Settings,
    fragment_rows=65536,
    make=make,
    format="pyfunc",
    roles_are_columns=True,
)
