"""``edgekit trim-vocab``."""

from __future__ import annotations

import click

from edgekit.cli._options import columns_option, given_options
from edgekit.cli._output import bars, echo, echo_text

__all__ = ["command"]


@click.command(name="trim-vocab")
@click.argument("model")
@click.option(
    "--samples",
    multiple=True,
    metavar="FILE",
    help="Texts that represent all inputs of the model; labels are not needed. Repeatable.",
)
@click.option(
    "--tokens",
    default=None,
    metavar="FILE",
    help="File of tokens to keep, one a line, beside those of the samples or in their place.",
)
@click.option(
    "--eval",
    "evaluation",
    default=None,
    metavar="FILE",
    help="Other texts, to report how much longer their token sequences become.",
)
@click.option(
    "-o",
    "--out",
    required=True,
    metavar="FOLDER",
    help="Folder of the smaller model, a Hugging Face model; it appears whole or not at all.",
)
@click.option("--revision", default=None, help="Branch, tag or commit of a hub id.")
@columns_option
@click.option("--force", is_flag=True, help="Replace a model that EdgeKit wrote at --out.")
def command(model, samples, tokens, evaluation, out, **options):  # type: ignore[no-untyped-def]
    """Remove the tokens from MODEL's vocabulary that the samples, or a list, do not use.

    Tokenizer and embedding table shrink together. Any text can still be encoded: words that are not in the samples
    become more tokens. The model discloses which words the samples contain.
    """
    with bars() as progress:
        progress("load", 0, 0)
        from edgekit.compress.vocabulary import trim_vocab
        from edgekit.spec.options import TrimVocabOptions

        chosen = TrimVocabOptions(**given_options(**options))
        result = trim_vocab(
            model, samples=samples, tokens=tokens, out=out, eval=evaluation, options=chosen, progress=progress
        )
    echo_text(result.text())
    echo(f"Wrote {out}.")
