"""Libraries that only some users need: the extras of setup.py."""

from __future__ import annotations

import importlib
from types import ModuleType

from megatron_lmt.errors import MissingExtraError


def import_extra(module: str, extra: str, purpose: str) -> ModuleType:
    """The module, imported when it is first needed.

    Raises:
        MissingExtraError: its package is not installed; names the extra that has it.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != package:  # it is there, and lacks something itself
            raise
        raise MissingExtraError(package, extra, purpose) from None
