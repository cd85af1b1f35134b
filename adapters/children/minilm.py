"""`python -m adapters.children.minilm`: a directory with a MiniLM or another BERT, for vectors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from adapters.children import vectors
from adapters.children.serving import Model, arguments, main
from adapters.children.turns import ModelThread


def load(command_line: Sequence[str]) -> tuple[Model, int]:
    """The model that the command line names, and the port to serve it on."""
    asked = arguments("Serves a BERT encoder with numpy.").parse_args(command_line)
    # Two threads of OpenBLAS on a busy machine take ten times as long as one. It reads this once,
    # when numpy is imported.
    os.environ["OPENBLAS_NUM_THREADS"] = str(asked.threads or 1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    thread = ModelThread()
    try:
        bert = import_module("adapters.children.bert")
    except ModuleNotFoundError as error:
        raise ImportError(f"{error.name} is missing: pip install 'tollway[embeddings]'") from None
    encoder = bert.Bert(Path(asked.model), thread, context=asked.context)
    about = {"dimensions": encoder.dimensions, "context": encoder.context}
    return (
        Model(
            name=asked.name,
            endpoints={"/v1/embeddings": vectors.endpoint(encoder, thread)},
            about={**about, "chat": False, "embeddings": True},
        ),
        asked.port,
    )


if __name__ == "__main__":
    main(load)
