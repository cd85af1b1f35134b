"""What a model's file or folder says of it, read without loading it.

Whatever is wrong with one is a `ValueError`, in one line.

Source: ggml, docs/gguf.md; the `config.json` of Hugging Face's transformers, and of mlx-lm.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from adapters.children import gguf
from policies.base import Capability
from proxy.inventory import FoundModel

# What llama.cpp does with any model that chats.
_CHAT: frozenset[Capability] = frozenset({"chat", "json_schema", "logprobs", "n"})
_VECTORS: frozenset[Capability] = frozenset({"embeddings"})
_THINKING = "thinking"
# What only the templates of models mention that think.
_THOUGHTS = re.compile(r"<think>|enable_thinking|reasoning_content|<\|channel\|>")
_TOOLS = re.compile(r"\btools\b")
# By `general.file_type` (llama.cpp's `llama_ftype`).
_FILE_TYPES = {
    **{0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K"},
    **{11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S"},
    **{17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS"},
    **{23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S"},
    **{29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0"},
    38: "MXFP4",
}
# One of several files that make up a model, as llama.cpp's `gguf-split` names them.
_SPLIT = re.compile(r"(.*)-([0-9]{5})-of-([0-9]{5})\.gguf")
# Encoders that say nothing of how they pool still are encoders.
_ENCODER = re.compile(r"bert|^t5encoder$")
_LARGEST_JSON = 16 << 20
_LONGEST_CONTEXT = 1 << 31
_LARGEST_NUMBER = 1 << 53

Kind = Literal["gguf", "bert", "mlx"]
"""What a model needs that runs it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Runtimes:
    """What is installed here that runs models."""

    llama_server: bool
    llama_cpp: bool
    mlx: bool
    minilm: bool

    def of(self, kind: Kind) -> tuple[str, str]:
        """The backend of a kind of model, and what the problem is where there is none."""
        match kind:
            case "gguf" if self.llama_server:
                return "llama_server", ""
            case "gguf" if self.llama_cpp:
                return "llama_cpp", ""
            case "gguf":
                return "", "nothing here runs GGUF files; install llama.cpp, or tollway[llama]"
            case "bert" if self.minilm:
                return "minilm", ""
            case "bert":
                return "", "nothing here runs it; install tollway[embeddings]"
            case "mlx" if self.mlx:
                return "mlx", ""
            case "mlx":
                return "", "nothing here runs it; install tollway[mlx]"


def llama_server(named: str | None, environ: Mapping[str, str]) -> str:
    """The name or path of llama.cpp's program: the provider's own word, else the variable's."""
    return named or environ.get("LLAMA_SERVER") or "llama-server"


def installed(llama_server: str) -> Runtimes:
    """What runs models here, with llama.cpp's program by that name or path."""
    return Runtimes(
        llama_server=shutil.which(Path(llama_server).expanduser()) is not None,
        llama_cpp=find_spec("llama_cpp") is not None,
        mlx=all(find_spec(name) for name in ("mlx_lm", "llguidance")),
        minilm=all(find_spec(name) for name in ("numpy", "safetensors", "tokenizers")),
    )


def split_of(name: str) -> tuple[str, int, int] | None:
    """Of a file that is one of several: the name of all, its number, and how many there are."""
    found = _SPLIT.fullmatch(name)
    return (found[1], int(found[2]), int(found[3])) if found else None


def parts_of(path: Path) -> list[Path]:
    """All files of a model that is in one or several, by their names: they need not be there."""
    split = split_of(path.name)
    if split is None:
        return [path]
    stem, _, count = split
    return [path.with_name(f"{stem}-{n:05}-of-{count:05}.gguf") for n in range(1, count + 1)]


def is_model_folder(names: Sequence[str]) -> bool:
    """Whether a folder with these files is a model, and not one that has models in it."""
    return "config.json" in names and any(name.endswith(".safetensors") for name in names)


# --- GGUF -----------------------------------------------------------------------------------------


def describe_gguf(path: Path, name: str, runtimes: Runtimes) -> FoundModel:
    """A GGUF file, or the first of several; raises `ValueError` and `OSError`."""
    parts = parts_of(path)
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise ValueError(f"{missing[0]} is missing")
    header = gguf.header(path)
    if path.stat().st_size < header.least_bytes:
        raise ValueError("is not whole (yet)")
    values = header.values
    if values.get("general.type", "model") != "model":
        raise ValueError(f"is no model but of the type {values['general.type']!r}")
    architecture = _text(values.get("general.architecture"))
    if not architecture:
        raise ValueError("does not name its architecture")
    if architecture == "clip":
        raise ValueError("is the projector of a model that sees")
    template = _text(values.get("tokenizer.chat_template"))
    backend, problem = runtimes.of("gguf")
    is_encoder = f"{architecture}.pooling_type" in values or bool(_ENCODER.search(architecture))
    return FoundModel(
        name=name,
        capabilities=_VECTORS if is_encoder else _chat_capabilities(template),
        tags=_tags(template),
        context_length=_count(values.get(f"{architecture}.context_length"), _LONGEST_CONTEXT),
        architecture=architecture,
        parameters=_count(values.get("general.parameter_count"))
        or (_count(header.parameters) if len(parts) == 1 else None),
        quantisation=_FILE_TYPES.get(_number(values.get("general.file_type")), ""),
        size_bytes=sum(part.stat().st_size for part in parts),
        changed_at=int(max(part.stat().st_mtime for part in parts)),
        path=str(path),
        backend=backend,
        problem=problem,
    )


def is_projector(path: Path) -> bool:
    """Whether a file turns images into what a model beside it reads."""
    try:
        return gguf.metadata(path).get("general.architecture") == "clip"
    except (OSError, ValueError):
        return False


def _chat_capabilities(template: str) -> frozenset[Capability]:
    # Without a template llama.cpp has its own, and tools are anybody's guess.
    return _CHAT | {"tools"} if not template or _TOOLS.search(template) else _CHAT


def _tags(template: str) -> frozenset[str]:
    return frozenset({_THINKING} if _THOUGHTS.search(template) else ())


# --- folders of Hugging Face's shape --------------------------------------------------------------


def describe_folder(path: Path, name: str, runtimes: Runtimes) -> FoundModel:
    """A folder with `config.json` and weights; raises `ValueError` and `OSError`."""
    config = _json(path / "config.json")
    if not (path / "tokenizer.json").is_file() and not (path / "tokenizer.model").is_file():
        raise ValueError("has no tokenizer")
    weights = sorted(path.glob("*.safetensors"))
    _check_whole(path, weights)
    kind = _text(config.get("model_type"))
    inner = config.get("text_config")
    text: Mapping[str, Any] = inner if isinstance(inner, dict) else config
    template = "" if kind == "bert" else _template(path)
    backend, problem = runtimes.of("bert" if kind == "bert" else "mlx")
    if kind != "bert" and not _is_causal(config):
        raise ValueError(f"is of a kind that nothing here runs: {kind[:60]!r}")
    return FoundModel(
        name=name,
        capabilities=_VECTORS if kind == "bert" else _chat_capabilities(template),
        tags=_tags(template),
        context_length=_count(text.get("max_position_embeddings"), _LONGEST_CONTEXT),
        architecture=kind,
        parameters=_parameters(path),
        quantisation=_quantisation(config),
        size_bytes=sum(file.stat().st_size for file in weights),
        changed_at=int(max(file.stat().st_mtime for file in weights)),
        path=str(path),
        backend=backend,
        problem=problem,
    )


def _is_causal(config: Mapping[str, Any]) -> bool:
    """Whether it is a language model, as mlx-lm runs them."""
    classes = config.get("architectures")
    listed = classes if isinstance(classes, list) else []
    return any(isinstance(each, str) and each.endswith("ForCausalLM") for each in listed)


def _check_whole(path: Path, weights: Sequence[Path]) -> None:
    index = path / "model.safetensors.index.json"
    if index.is_file():
        places = _json(index).get("weight_map")
        needed = set(places.values()) if isinstance(places, dict) else set()
        missing = needed - {file.name for file in weights}
        if missing:
            raise ValueError(f"{min(map(str, missing))[:80]} is missing")
    for file in weights:
        if file.stat().st_size != _safetensors_bytes(file):
            raise ValueError(f"{file.name} is not whole (yet)")


def _safetensors_bytes(file: Path) -> int:
    """How long such a file must be. Source: safetensors, "Format"."""
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8).ljust(8, b"\0"))
        if not 2 <= length <= _LARGEST_JSON:
            raise ValueError(f"{file.name} is damaged")
        entries = _decoded(opened.read(length), file)
    try:
        ends = [entry["data_offsets"][1] for key, entry in entries.items() if key != "__metadata__"]
        return 8 + int(length) + max(ends, default=0)
    except (KeyError, IndexError, TypeError):
        raise ValueError(f"{file.name} is damaged") from None


def _template(path: Path) -> str:
    file = path / "chat_template.jinja"
    if file.is_file():
        with file.open("rb") as opened:
            return opened.read(_LARGEST_JSON).decode("utf-8", "replace")
    if not (path / "tokenizer_config.json").is_file():
        return ""
    said = _json(path / "tokenizer_config.json").get("chat_template")
    if isinstance(said, list):  # several, each with a name
        return "".join(_text(each.get("template")) for each in said if isinstance(each, dict))
    return _text(said)


def _parameters(path: Path) -> int | None:
    index = path / "model.safetensors.index.json"
    if not index.is_file():
        return None
    said = _json(index).get("metadata")
    return _count(said.get("total_parameters")) if isinstance(said, dict) else None


def _quantisation(config: Mapping[str, Any]) -> str:
    said = config.get("quantization")
    if isinstance(said, dict) and (bits := _count(said.get("bits"), 64)):
        return f"{bits}-bit"
    return _text(config.get("dtype") or config.get("torch_dtype"))[:20]


def _json(file: Path) -> Mapping[str, Any]:
    with file.open("rb") as opened:
        return _decoded(opened.read(_LARGEST_JSON + 1), file)


def _decoded(text: bytes, file: Path) -> Mapping[str, Any]:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise ValueError(f"{file.name} is not the JSON it should be")
    return said


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: object) -> int:
    return value if type(value) is int else -1


def _count(value: object, largest: int = _LARGEST_NUMBER) -> int | None:
    return value if type(value) is int and 0 < value <= largest else None
