"""Opens the token files of a source: complete and made with the right tokenizer, or an error that says what is wrong.

Next on the path: `mixture.py` decides which documents come when.
"""

from __future__ import annotations

from pathlib import Path

from megatron_lmt.data.indexed import IndexedReader, manifest_path, read_manifest
from megatron_lmt.errors import DataError


def open_source(name: str, prefix: Path, tokenizer_identity: str | None) -> IndexedReader:
    """Open token files and check them against their manifest; no token is read.

    Args:
        name: of the source, for messages.
        tokenizer_identity: of the tokenizer that the data must have been made with; None when it is not known.
    Raises:
        DataError: what is wrong with the files, or the tokenizer is another.
    """
    reader = IndexedReader(prefix)
    manifest = read_manifest(prefix)
    if "xxh128" not in manifest:
        raise DataError(
            f"source {name}: {manifest_path(prefix)} does not say xxh128, as those of earlier versions; make the files "
            "again with tools/preprocess_data.py"
        )
    if tokenizer_identity and manifest["tokenizer"]["identity"] != tokenizer_identity:
        raise DataError(
            f"source {name}: {prefix} was made with tokenizer {manifest['tokenizer']['identity']}, but the tokenizer "
            f"given is {tokenizer_identity}; give the one the data were made with"
        )
    found = {"documents": reader.num_documents, "tokens": reader.num_tokens}
    for unit, number in found.items():
        if manifest[unit] != number:
            raise DataError(f"source {name}: {prefix} has {number} {unit}, but its manifest says {manifest[unit]}")
    if reader.num_tokens <= reader.num_documents:
        raise DataError(f"source {name}: {prefix} has no document of two tokens, so there is nothing to predict")
    return reader
