"""What jobs say of models of texts, of classifiers, and of code of their own: the parts that families share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, model_validator

from optinfer.families import FamilySettings

PositiveInt = Annotated[int, Field(ge=1)]


class TextSettings(FamilySettings):
    max_length: PositiveInt | None = Field(
        None,
        description="tokens kept of each text",
    )
    prompt: str | None = Field(
        None,
        description='put before each text, `""` for none',
    )
    prompt_name: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="one of the model's own prompts, by its name, put before each text",
    )

    @model_validator(mode="after")
    def _one_prompt(self) -> TextSettings:
        if self.prompt is not None and self.prompt_name is not None:
            raise ValueError("prompt and prompt_name are both set; keep one")
        return self


class ClassSettings(FamilySettings):
    top_k: PositiveInt | None = Field(
        None,
        description="classes for each row, best first, as lists; without it one class, as a plain value",
    )


class LabelSettings(ClassSettings):
    younger = frozenset({"threshold"})

    threshold: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None,
        description="of a multi-label model: all labels that score above it, best first, as lists, which may be empty",
    )

    @model_validator(mode="after")
    def _one_choice(self) -> LabelSettings:
        if self.threshold is not None and self.top_k is not None:
            raise ValueError("threshold and top_k are both set; keep one")
        return self


class CodeSettings(FamilySettings):
    class_path: str | None = Field(
        None,
        alias="class",
        pattern=r"^[\w.]+:\w+$",
        description="`module:Class` of the job's own code",
    )
    arguments: Mapping[str, object] = Field(
        default_factory=dict,
        description="keyword arguments of that class",
    )

    @property
    def own_code(self) -> str | None:
        return self.class_path
