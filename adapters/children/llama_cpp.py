"""`python -m adapters.children.llama_cpp`: a GGUF file served by llama-cpp-python."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module

from adapters.children import chat, vectors
from adapters.children.serving import Model, arguments, main
from adapters.children.turns import ModelThread


def load(command_line: Sequence[str]) -> tuple[Model, int]:
    """The model that the command line names, and the port to serve it on."""
    parser = arguments("Serves a GGUF file through llama-cpp-python.")
    parser.add_argument("--gpu-layers", type=int, default=-1, help="on the GPU; -1: all")
    asked = parser.parse_args(command_line)
    # Without it a crash starts a debugger, which may hang for good.
    os.environ["GGML_NO_BACKTRACE"] = "1"
    if not os.path.isfile(asked.model):
        raise ValueError(f"there is no file {asked.model!r}")
    # The library takes a third of a second, and must see the environment set here.
    try:
        engines = import_module("adapters.children.llama_engine")
    except ModuleNotFoundError as error:
        raise ImportError(f"{error.name} is missing: pip install 'tollway[llama]'") from None
    thread = ModelThread()
    settings = {
        "context": asked.context,
        "threads": asked.threads,
        "gpu_layers": asked.gpu_layers,
    }
    if asked.embeddings:
        encoder = engines.LlamaVectors(asked.model, thread, **settings)
        endpoints = {"/v1/embeddings": vectors.endpoint(encoder, thread)}
        about = {"dimensions": encoder.dimensions, "context": encoder.context}
    else:
        engine = engines.LlamaEngine(asked.model, thread, **settings)
        endpoints = {"/v1/chat/completions": chat.endpoint(engine, thread)}
        about = {"context": engine.context}
    kinds = {"chat": not asked.embeddings, "embeddings": asked.embeddings}
    return Model(name=asked.name, endpoints=endpoints, about={**about, **kinds}), asked.port


if __name__ == "__main__":
    main(load)
