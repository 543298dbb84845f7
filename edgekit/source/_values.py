"""Checks of a loaded model: values that are not finite, and token ids beyond their tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekit.spec.errors import ModelError

_SHOWN = 5
_TABLES = {
    "input_ids": ("word_embeddings", "tok_embeddings", "embed_tokens"),
    "token_type_ids": ("token_type_embeddings",),
}


def check_finite(model_id: str, module: Any, tokenizer: Any) -> None:
    """Check that all parameters and buffers are finite.

    Raises:
        ModelError: If one is not. The message has the tensor, the number of values and, for an embedding, the tokens.
    """
    import torch

    for name, tensor in module.state_dict().items():
        if not (torch.is_tensor(tensor) and tensor.is_floating_point()) or bool(torch.isfinite(tensor).all()):
            continue
        bad = ~torch.isfinite(tensor)
        place = ""
        if tensor.ndim == 2 and "embeddings" in name and tensor.shape[0] > 1:
            rows = bad.any(dim=1).nonzero()[:, 0].tolist()
            is_token_table = any(part in name for part in _TABLES["input_ids"])
            shown_rows = _describe_tokens(tokenizer, rows[:_SHOWN]) if is_token_table else map(str, rows[:_SHOWN])
            more = " ..." if len(rows) > _SHOWN else ""
            place = f", in {len(rows)} of {tensor.shape[0]} rows ({', '.join(shown_rows)}{more})"
        kind = "NaN" if bool(tensor.isnan().any()) else "infinity"
        raise ModelError(
            f"{model_id}: {int(bad.sum())} of {tensor.numel()} values of the weight {name} are not finite "
            f"({kind}){place}. Training may have diverged, or a conversion to float16 met values beyond 65504. "
            "Use an earlier checkpoint, or convert the model again.",
            code="weights-not-finite",
        )


def tables(module: Any) -> dict[str, int]:
    """Return the number of rows of the embedding table behind token ids and token types, where it can be determined."""
    import torch

    if hasattr(module, "embedding_rows"):  # A graph that states them.
        return dict(module.embedding_rows)
    rows: dict[str, int] = {}
    embedding = _input_embedding(module)
    if embedding is not None:
        rows["input_ids"] = int(embedding.weight.shape[0])
    for path, part in module.named_modules():
        if isinstance(part, torch.nn.Embedding):
            for name, ends in _TABLES.items():
                if name not in rows and path.rpartition(".")[2] in ends:
                    rows[name] = int(part.num_embeddings)
    return rows


def _input_embedding(module: Any) -> Any:
    import torch

    try:
        embedding = module.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    return embedding if isinstance(embedding, torch.nn.Embedding) else None


def check_tables(
    model_id: str, tokenizer: Any, rows: dict[str, int], pads: dict[str, int], inputs: Sequence[str]
) -> None:
    """Check that the tokenizer's ids are inside the model's tables.

    Args:
        model_id: Name of the model, for messages.
        tokenizer: Tokenizer of the model.
        rows: Number of rows of each table, from :func:`tables`.
        pads: Padding value of each input.
        inputs: Names of the model's inputs.

    Raises:
        ModelError: If an id is outside; the message has the tokens.
    """
    limit = rows.get("input_ids")
    if limit is not None:
        beyond = sorted((i, token) for token, i in tokenizer.get_vocab().items() if i >= limit)
        if beyond:
            names = ", ".join(f"{token!r} ({i})" for i, token in beyond[:_SHOWN])
            more = " ..." if len(beyond) > _SHOWN else ""
            raise ModelError(
                f"The tokenizer of {model_id} has {len(beyond)} tokens beyond the {limit} rows of the model's "
                f"embeddings: {names}{more}. If tokens were added, call "
                "model.resize_token_embeddings(len(tokenizer)), train and save both; "
                "otherwise save the tokenizer that the model was trained with.",
                code="tokenizer-beyond-embeddings",
            )
    for name in inputs:
        if name in rows and not 0 <= pads[name] < rows[name]:
            raise ModelError(
                f"The tokenizer of {model_id} pads {name} with {pads[name]}, but the model's table has {rows[name]} "
                "rows. Set the pad token that the model was trained with, and save the tokenizer again.",
                code="tokenizer-padding",
            )
    if "token_type_ids" in inputs and "token_type_ids" in rows:
        largest = max(tokenizer(["a"], truncation=True)["token_type_ids"][0])
        if largest >= rows["token_type_ids"]:
            raise ModelError(
                f"The tokenizer of {model_id} uses the token type {largest}, but the model has only "
                f"{rows['token_type_ids']} token types (type_vocab_size). "
                "Save the tokenizer that the model was trained with.",
                code="tokenizer-token-types",
            )


def _describe_tokens(tokenizer: Any, rows: Sequence[int]) -> list[str]:
    descriptions = []
    for row in rows:
        token = tokenizer.convert_ids_to_tokens(row)
        descriptions.append(str(row) if token is None else f"{row} {token!r}")
    return descriptions
