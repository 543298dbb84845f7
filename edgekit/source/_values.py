"""What a loaded model is checked for at once: values that are not finite, and indices beyond their tables."""

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
    """Refuses parameters and buffers that hold NaN or infinity.

    Raises:
        ModelError: naming the tensor, how many of its values it is, and of an embedding the tokens.
    """
    import torch

    for name, tensor in module.state_dict().items():
        if not (torch.is_tensor(tensor) and tensor.is_floating_point()) or bool(torch.isfinite(tensor).all()):
            continue
        bad = ~torch.isfinite(tensor)
        where = ""
        if tensor is not None and tensor.ndim == 2 and "embeddings" in name and tensor.shape[0] > 1:
            rows = bad.any(dim=1).nonzero()[:, 0].tolist()
            words = (
                _words(tokenizer, rows[:_SHOWN])
                if any(part in name for part in _TABLES["input_ids"])
                else [str(r) for r in rows[:_SHOWN]]
            )
            more = " ..." if len(rows) > _SHOWN else ""
            where = f", in {len(rows)} of {tensor.shape[0]} rows ({', '.join(words)}{more})"
        what = "NaN" if bool(tensor.isnan().any()) else "infinity"
        raise ModelError(
            f"{model_id}: {int(bad.sum())} of {tensor.numel()} values of the weight {name} are not finite "
            f"({what}){where}. A training that diverged leaves such, "
            "and a conversion to float16 of values beyond 65504. Take an earlier checkpoint, or convert the model "
            "again.",
            code="weights-not-finite",
        )


def tables(module: Any) -> dict[str, int]:
    """Rows of the tables that token ids and token types are looked up in, by input name, where they can be told."""
    import torch

    if hasattr(module, "embedding_rows"):  # a graph that states them
        return dict(module.embedding_rows)
    found: dict[str, int] = {}
    embedding = _input_embedding(module)
    if embedding is not None:
        found["input_ids"] = int(embedding.weight.shape[0])
    for path, part in module.named_modules():
        if isinstance(part, torch.nn.Embedding):
            for name, ends in _TABLES.items():
                if name not in found and path.rpartition(".")[2] in ends:
                    found[name] = int(part.num_embeddings)
    return found


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
    """Refuses a tokenizer that gives ids beyond the model's tables.

    Args:
        model_id: for messages.
        tokenizer: of the model.
        rows: as :func:`tables` gives them.
        pads: value that fills short rows, for each input.
        inputs: what the model is fed.

    Raises:
        ModelError: with the names of the tokens.
    """
    limit = rows.get("input_ids")
    if limit is not None:
        beyond = sorted((i, token) for token, i in tokenizer.get_vocab().items() if i >= limit)
        if beyond:
            names = ", ".join(f"{token!r} ({i})" for i, token in beyond[:_SHOWN])
            raise ModelError(
                f"The tokenizer of {model_id} has {len(beyond)} tokens beyond the {limit} rows of the model's "
                f"embeddings: {names}"
                f"{' ...' if len(beyond) > _SHOWN else ''}. Tokens that were added need rows that are trained: "
                "model.resize_token_embeddings(len(tokenizer)), train, "
                "save both; or save the tokenizer that the model was trained with.",
                code="tokenizer-beyond-embeddings",
            )
    for name in inputs:
        if name in rows and not 0 <= pads[name] < rows[name]:
            raise ModelError(
                f"The tokenizer of {model_id} fills short rows of {name} with {pads[name]}, and the model's table "
                f"has {rows[name]} rows. "
                "Set the pad token that the model was trained with, and save the tokenizer again.",
                code="tokenizer-padding",
            )
    if "token_type_ids" in inputs and "token_type_ids" in rows:
        largest = max(tokenizer(["a"], truncation=True)["token_type_ids"][0])
        if largest >= rows["token_type_ids"]:
            raise ModelError(
                f"The tokenizer of {model_id} gives the token type {largest}, and the model knows "
                f"{rows['token_type_ids']} (type_vocab_size). "
                "Save the tokenizer that the model was trained with.",
                code="tokenizer-token-types",
            )


def _words(tokenizer: Any, rows: Sequence[int]) -> list[str]:
    return [
        f"{row} {token!r}" if (token := tokenizer.convert_ids_to_tokens(row)) is not None else str(row) for row in rows
    ]
