"""`python -m adapters.children.mlx`: a model's directory served by mlx-lm."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from adapters.children import chat, vectors
from adapters.children.serving import Model, arguments, main
from adapters.children.turns import ModelThread

_NO_LIBRARY = "mlx-lm or llguidance is missing: pip install 'tollway[mlx]'"


def load(command_line: Sequence[str]) -> tuple[Model, int]:
    """The model that the command line names, and the port to serve it on."""
    parser = arguments("Serves a model of Apple's MLX through mlx-lm.")
    parser.add_argument("--kept-prompts-mb", type=int, help="for what was read, to go on from it")
    asked = parser.parse_args(command_line)
    _set_environment(asked.threads)
    thread = ModelThread()
    model = thread.call(lambda: (_vectors if asked.embeddings else _chat)(asked, thread))
    return model, asked.port


def _set_environment(threads: int | None) -> None:
    """The libraries read it when they are imported, which takes them seconds."""
    # Whatever a model's files say, nothing is looked up, and nothing fetched.
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", MLXLM_USE_MODELSCOPE="False")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    if sys.platform == "linux":
        # A compiler would be run, for many seconds, before the first token.
        os.environ["MLX_DISABLE_COMPILE"] = "1"
        os.environ["OPENBLAS_NUM_THREADS"] = str(threads or 1)


def _chat(asked: Namespace, thread: ModelThread) -> Model:
    kept_bytes = None if asked.kept_prompts_mb is None else asked.kept_prompts_mb << 20
    try:
        engines = import_module("adapters.children.mlx_engine")
    except ModuleNotFoundError:
        raise ImportError(_NO_LIBRARY) from None
    engine = engines.MlxEngine(
        Path(asked.model), thread, context=asked.context, kept_bytes=kept_bytes
    )
    return Model(
        name=asked.name,
        endpoints={"/v1/chat/completions": chat.endpoint(engine, thread)},
        about={"context": engine.context, "chat": True, "embeddings": False},
        memory=engine.memory,
    )


def _vectors(asked: Namespace, thread: ModelThread) -> Model:
    try:
        encoders = import_module("adapters.children.mlx_vectors")
    except ModuleNotFoundError:
        raise ImportError(_NO_LIBRARY) from None
    encoder = encoders.MlxVectors(Path(asked.model), thread, context=asked.context)
    about = {"dimensions": encoder.dimensions, "context": encoder.context}
    return Model(
        name=asked.name,
        endpoints={"/v1/embeddings": vectors.endpoint(encoder, thread)},
        about={**about, "chat": False, "embeddings": True},
        memory=encoder.memory,
    )


if __name__ == "__main__":
    main(load)
