"""What jobs say of models of texts, of classifiers, and of code of their own: the parts that families share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from optinfer.families import FamilySettings

PositiveInt = Annotated[int, Field(ge=1)]


class TextSettings(FamilySettings):
    max_length: PositiveInt | None = Field(None, description="tokens kept of each text; default: what the model says")
    prompt: str | None = Field(None, description="put before each text; default: what the model's own files say")
    prompt_name: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="the one of the model's own prompts that is put before each text"
    )

    @model_validator(mode="after")
    def _one_prompt(self) -> TextSettings:
        if self.prompt is not None and self.prompt_name is not None:
            raise ValueError("prompt and prompt_name are both set; keep one")
        return self


class ClassSettings(FamilySettings):
    top_k: PositiveInt | None = Field(None, description="classes returned for each row, best first; default: 1")


class CodeSettings(FamilySettings):
    class_path: str | None = Field(
        None, alias="class", pattern=r"^[\w.]+:\w+$", description="the job's own class, as module:Class"
    )
    arguments: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the class")
