"""A text encoder to CTranslate2: weights quantized in seconds, activations token by token when it runs; no calibration.

CTranslate2 has its own loader for each architecture, and takes the names of weights for granted: an architecture whose
loader was not held against its library here is refused by its name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optinfer.backends.ctranslate2 import encoder_in
from optinfer.errors import ConfigError, suggest
from optinfer.models.artifact import Artifact
from optinfer.optimization.techniques import BuildContext, Change, Technique

# What the runtime computes in, and what we call that.
_PRECISIONS = {"int8": "int8", "float32": "fp32"}


def run(source: Artifact, context: BuildContext, out: Path, options: dict[str, Any]) -> Change:
    quantization = options["quantization"]
    if quantization not in _PRECISIONS:
        raise ConfigError(f"ctranslate2_convert: no quantization {quantization!r}" + suggest(quantization, _PRECISIONS))
    if source.conversions:
        named = ", ".join(str(conversion["technique"]) for conversion in source.conversions)
        raise ConfigError(f"ctranslate2_convert reads the model's own files, which {named} left as they were; drop it")
    encoder_in(context.module(source))  # refuses what is no encoder, or one of another architecture
    _converter(source.path).convert(str(out / "encoder"), quantization=quantization)
    return Change(
        format="ctranslate2", precision=_PRECISIONS[quantization], load_options={"compute_type": quantization}
    )


def _converter(folder: str) -> Any:
    """Return CTranslate2's converter of a folder of transformers, as both packages are now."""
    from ctranslate2.converters import TransformersConverter

    class Converter(TransformersConverter):  # type: ignore[misc]
        def load_model(self, model_class: Any, model_name_or_path: str, **options: Any) -> Any:
            model = super().load_model(model_class, model_name_or_path, **options)
            # transformers 5 has no other positions left in these, and no longer says so; CTranslate2 asks.
            if not hasattr(model.config, "position_embedding_type"):
                model.config.position_embedding_type = "absolute"
            return model

    return Converter(folder)


technique = Technique(
    inputs=("torch",),
    output="ctranslate2",
    requires=("ctranslate2", "torch", "transformers"),
    extra="ctranslate2",
    defaults={"quantization": "int8"},
    run=run,
)
