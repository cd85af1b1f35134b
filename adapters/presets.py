"""What is known of each provider that speaks OpenAI's dialect: one table, with its sources.

What no source says is passed on: the provider names it if it does not take it. Where a source is
an SDK, it is the request types that the provider generates from its own specification.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Literal

from adapters.base import Endpoint, Prefill
from adapters.wire.fitting import OPTIONAL, Rules

MaxTokensField = Literal["max_tokens", "max_completion_tokens"]

PATHS: Mapping[Endpoint, str] = {
    "chat": "/chat/completions",
    "responses": "/responses",
    "completions": "/completions",
    "embeddings": "/embeddings",
    "rerank": "/rerank",
    "moderations": "/moderations",
    "images": "/images/generations",
    "transcriptions": "/audio/transcriptions",
    "speech": "/audio/speech",
}
# Of servers of which nothing is known: most have no `responses`, and a chat says as much.
_USUAL: Mapping[Endpoint, str] = {e: path for e, path in PATHS.items() if e != "responses"}


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One provider, or one kind of server.

    `base_url` is None where only the operator knows it; `prices` names its price list where that is
    not told by its address. `max_tokens_field` caps the output;
    `stream_usage` is False where `stream_options` is refused (and usage comes unasked).
    `answers` tells how thoughts come: as `reasoning_content` or not at all, as `reasoning`, or as
    parts of the content. `meterable`: it stops a stream that is closed, and bills no more of it.
    `prefill`: how it is asked to go on with an answer, None where that is not documented.
    """

    base_url: str | None = None
    prices: str | None = None
    paths: Mapping[Endpoint, str] = field(default_factory=lambda: _USUAL)
    models_path: str = "/models"
    max_tokens_field: MaxTokensField = "max_tokens"
    stream_usage: bool = True
    rules: Mapping[Endpoint, Rules] = field(default_factory=dict)
    answers: Literal["plain", "reasoning", "parts"] = "plain"
    meterable: bool = False
    prefill: Prefill | None = None

    @property
    def speaks(self) -> Set[Endpoint]:
        """The endpoints whose calls it takes."""
        return self.paths.keys()


def _only(*endpoints: Endpoint) -> Mapping[Endpoint, str]:
    return {endpoint: PATHS[endpoint] for endpoint in endpoints}


def _names(names: str) -> frozenset[str]:
    return frozenset(names.split())


# What OpenAI's own messages may hold; a later model names the rest as an unknown parameter
# ("Unknown parameter: 'messages[0].content[0].cache_control'."), gpt-4o still ignores some of it.
_OPENAI_TAKES = _names("annotations audio function_call name refusal")
# The fields of open-weight samplers, refused by OpenAI as unknown.
_SAMPLERS = _names("min_p repetition_penalty top_a top_k typical_p")
# Models that reason refuse `max_tokens`, and all take the newer name ("Create chat completion").
_OPENAI = Rules(
    refuses=_SAMPLERS,
    # "Unrecognized request argument" of models that do not reason; clients such as Claude Code tell
    # an effort with every request.
    spares={"reasoning_effort": re.compile(r"^(ft:)?(gpt-3\.5|gpt-4|chatgpt-4)")},
    renames={"max_tokens": "max_completion_tokens"},
    takes=_OPENAI_TAKES,
)
_OLDER_NAME = {"max_completion_tokens": "max_tokens"}

PLAIN = Preset()
"""A server of which nothing is known: everything is passed on."""

PRESETS: Mapping[str, Preset] = {
    "openai": Preset(
        # OpenAI's API reference.
        base_url="https://api.openai.com/v1",
        paths={e: path for e, path in PATHS.items() if e != "rerank"},
        max_tokens_field="max_completion_tokens",
        rules={"chat": _OPENAI},
    ),
    "azure": Preset(
        # Microsoft Learn, "Azure OpenAI in Microsoft Foundry Models REST API reference" and
        # "API version lifecycle": the same requests, at the operator's own resource.
        prices="azure",
        paths={e: path for e, path in PATHS.items() if e not in ("rerank", "moderations")},
        max_tokens_field="max_completion_tokens",
        rules={"chat": _OPENAI},
    ),
    "mistral": Preset(
        # mistralai 3.7 (ChatCompletionRequest, AssistantMessage, EmbeddingRequest). Anything else
        # is answered with 422 `extra_forbidden`; usage comes in the last chunk unasked.
        base_url="https://api.mistral.ai/v1",
        paths=_only("chat", "embeddings", "moderations", "transcriptions"),
        stream_usage=False,
        answers="parts",
        prefill="prefix",
        rules={
            "chat": Rules(
                knows=_names(
                    "model messages temperature top_p max_tokens stream stop random_seed metadata"
                    " response_format tools tool_choice presence_penalty frequency_penalty"
                    " min_tokens repetition_penalty top_k logprobs top_logprobs prompt_logprobs"
                    " top_prompt_logprobs n prediction parallel_tool_calls reasoning_effort"
                    " prompt_mode guardrails prompt_cache_key service_tier safe_prompt"
                ),
                renames={"seed": "random_seed", **_OLDER_NAME},
                takes=frozenset(),
                takes_developers=False,
            ),
            "embeddings": Rules(
                knows=_names("model input metadata output_dimension output_dtype encoding_format"),
                renames={"dimensions": "output_dimension"},
            ),
        },
    ),
    "deepseek": Preset(
        # DeepSeek API docs, "Create Chat Completion", "Thinking Mode", "JSON Output": a thought
        # must come back in the history; what it does not know it ignores.
        base_url="https://api.deepseek.com",
        paths=_only("chat"),
        rules={
            "chat": Rules(
                refuses=_names("logit_bias n seed"),
                renames=_OLDER_NAME,
                takes=OPTIONAL - {"reasoning"},
                takes_schemas=False,
                takes_developers=False,
            )
        },
    ),
    "xai": Preset(
        # xAI docs, "Chat Completions". Reasoning models refuse `presence_penalty`,
        # `frequency_penalty` and `stop`, others take them: passed on, and named in its refusal.
        base_url="https://api.x.ai/v1",
        paths=_only("chat", "images"),
        max_tokens_field="max_completion_tokens",
        rules={"chat": Rules(takes=OPTIONAL - {"reasoning"})},
    ),
    "groq": Preset(
        # "OpenAI Compatibility" (console.groq.com/docs/openai) and groq 1.7. It refuses unknown
        # members of messages by name ("property 'reasoning_content' is unsupported").
        base_url="https://api.groq.com/openai/v1",
        paths=_only("chat", "transcriptions", "speech"),
        max_tokens_field="max_completion_tokens",
        answers="reasoning",
        prefill="plain",  # "Assistant Message Prefilling" (console.groq.com/docs/prefilling)
        rules={
            "chat": Rules(
                refuses=_names(
                    "logit_bias logprobs metadata n prompt_cache_key prompt_cache_retention"
                    " safety_identifier store top_logprobs verbosity"
                ),
                takes=_names("function_call reasoning"),
            )
        },
    ),
    "together": Preset(
        # together 3.1 (CompletionCreateParams): thoughts under both names.
        base_url="https://api.together.xyz/v1",
        answers="reasoning",
        rules={"chat": Rules(renames=_OLDER_NAME, takes_developers=False)},
    ),
    "fireworks": Preset(
        # "OpenAI compatibility" (docs.fireworks.ai) and fireworks-ai 1.2 (ChatMessage).
        base_url="https://api.fireworks.ai/inference/v1",
        paths=_only("chat", "completions", "embeddings", "rerank"),
        rules={"chat": Rules(takes=OPTIONAL - {"reasoning"})},
    ),
    "openrouter": Preset(
        # openrouter 1.3 (ChatRequest, ChatAssistantMessage) and "Reasoning Tokens": it passes on
        # `cache_control` and `reasoning_details`, and calls a thought `reasoning`.
        base_url="https://openrouter.ai/api/v1",
        paths=_only("chat", "completions", "embeddings"),
        answers="reasoning",
        rules={"chat": Rules(takes=OPTIONAL - {"reasoning_content"})},
    ),
    "cerebras": Preset(
        # "OpenAI Compatibility" (inference-docs.cerebras.ai) and cerebras-cloud-sdk 1.91. It
        # refuses unknown members of messages ("property ... is unsupported").
        base_url="https://api.cerebras.ai/v1",
        paths=_only("chat", "completions"),
        max_tokens_field="max_completion_tokens",
        answers="reasoning",
        rules={
            "chat": Rules(
                refuses=_names("metadata safety_identifier store verbosity"),
                takes=_names("name reasoning"),
            )
        },
    ),
    "perplexity": Preset(
        # perplexityai 0.46 (CompletionCreateParams). Usage comes in every chunk, unasked.
        prices="perplexity",
        base_url="https://api.perplexity.ai",
        paths=_only("chat"),
        stream_usage=False,
        rules={
            "chat": Rules(
                refuses=_names("logit_bias seed"),
                renames=_OLDER_NAME,
                takes=_OPENAI_TAKES,
                takes_developers=False,
            )
        },
    ),
    "cohere": Preset(
        # "Using Cohere models via the OpenAI SDK" and "Rerank API (v2)": three dialects, one host.
        prices="cohere",
        base_url="https://api.cohere.ai",
        paths={
            "chat": "/compatibility/v1/chat/completions",
            "embeddings": "/compatibility/v1/embeddings",
            "rerank": "/v2/rerank",
        },
        models_path="/v1/models",
        rules={
            "chat": Rules(
                refuses=_names(
                    "store metadata logit_bias top_logprobs n modalities prediction audio"
                    " service_tier parallel_tool_calls"
                ),
                renames=_OLDER_NAME,
                takes=_OPENAI_TAKES,
            ),
            "embeddings": Rules(refuses=_names("dimensions user")),
        },
    ),
    "voyage": Preset(
        # voyageai 0.5 and "Text embeddings", "Rerankers" (docs.voyageai.com).
        prices="voyageai",
        base_url="https://api.voyageai.com/v1",
        paths=_only("embeddings", "rerank"),
        rules={
            "embeddings": Rules(
                knows=_names("model input input_type truncation output_dimension output_dtype"),
                renames={"dimensions": "output_dimension"},
            ),
            "rerank": Rules(
                knows=_names("model query documents top_k return_documents truncation"),
                renames={"top_n": "top_k"},
            ),
        },
    ),
    "jina": Preset(
        # jina.ai/embeddings and jina.ai/reranker, API reference. It calls the format of vectors
        # `embedding_type`, and sends floats without one.
        base_url="https://api.jina.ai/v1",
        paths=_only("embeddings", "rerank"),
        rules={
            "embeddings": Rules(refuses=_names("encoding_format user")),
            "rerank": Rules(refuses=_names("max_tokens_per_doc priority")),
        },
    ),
    "vllm": Preset(
        # vLLM docs, "OpenAI-Compatible Server" and "Reasoning Outputs": it ignores what it does not
        # know, and calls a thought `reasoning` since 0.12 (`reasoning_content` before).
        answers="reasoning",
        meterable=True,
        prefill="continue",
    ),
    "lm_studio": Preset(
        # LM Studio docs, "OpenAI Compatibility Endpoints": of the maxima only `max_tokens`.
        paths=_only("chat", "completions", "embeddings"),
        rules={"chat": Rules(renames=_OLDER_NAME)},
        answers="reasoning",
        meterable=True,
    ),
    "llama_server": Preset(
        # llama.cpp, tools/server/README.md.
        paths=_only("chat", "completions", "embeddings", "rerank"),
        meterable=True,
        prefill="plain",  # unless it was started with `--no-prefill-assistant`
    ),
    "mlx_server": Preset(
        # mlx-lm, mlx_lm/SERVER.md and server.py: what it does not know it ignores.
        paths=_only("chat", "completions"),
        rules={"chat": Rules(refuses=_names("n response_format"))},
        answers="reasoning",
        meterable=True,
    ),
}
