"""What `torch.save` makes of a contiguous tensor, without torch: a zip archive with a small pickle and the numbers.

Archives are not compressed, and the numbers begin at a multiple of 64 bytes. The numbers' CRC32 is left out (it is 0): it
takes longer than writing, and nothing that loads a checkpoint looks at it; `COMMITTED.json` has a hash of each file.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from megatron_lmt.conversion.named_pickle import Call, Name, Persistent, dumps

STORAGES = {"FloatStorage": "float32", "BFloat16Storage": "bfloat16"}
"""How the pickle of a tensor names its dtype."""

ALIGNMENT = 64
DATA = "data/0"
LONGEST = 2**32 - 2**16
"""Bytes; larger ones would need another form of zip. Conversion writes pieces of a few megabytes."""

_LOCAL = struct.Struct("<4s5H3L2H")
"""Before each record: signature, version, flags, method, time, date, CRC32, size twice, lengths of name and padding."""
_CENTRAL = struct.Struct("<4s6H3L5H2L")
"""The same with two versions, then length of a comment, disk, attributes (two), and the byte at which the record begins."""
_END = struct.Struct("<4s4H2LH")
"""Signature, disk twice, number of records twice, size and place of the directory, length of a comment."""


@lru_cache(maxsize=256)  # layers have the same shapes
def tensor_archive(dtype: str, shape: tuple[int, ...], itemsize: int) -> tuple[bytes, bytes]:
    """What comes before and after a tensor's bytes.

    Raises:
        ValueError: it has more than `LONGEST` bytes.
    """
    numel = math.prod(shape)
    storage = Name("torch", next(name for name, stored in STORAGES.items() if stored == dtype))
    memory = Persistent(("storage", storage, "0", "cpu", numel))
    strides = tuple(math.prod(shape[dimension + 1 :]) for dimension in range(len(shape)))
    no_hooks = Call(Name("collections", "OrderedDict"), ())
    tensor = Call(Name("torch._utils", "_rebuild_tensor_v2"), (memory, 0, shape, strides, False, no_hooks))
    return _archive({"data.pkl": dumps(tensor), "byteorder": b"little", DATA: numel * itemsize, "version": b"3\n"})


def object_archive(value: Any) -> bytes:
    """What `torch.save` makes of plain data."""
    return b"".join(_archive({"data.pkl": dumps(value), "byteorder": b"little", "version": b"3\n"}))


def _archive(records: Mapping[str, bytes | int]) -> tuple[bytes, bytes]:
    """An archive of records; one may be given by its length, and the archive is cut where its bytes belong."""
    parts, central, place, cut = [], [], 0, None
    for name, content in records.items():
        path = f"archive/{name}".encode()
        length = content if isinstance(content, int) else len(content)
        if place + length > LONGEST:
            raise ValueError(f"{length} bytes are too many for one archive")
        crc = 0 if isinstance(content, int) else zlib.crc32(content)
        padding = -(place + _LOCAL.size + len(path) + 4) % ALIGNMENT
        extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
        parts.append(_LOCAL.pack(b"PK\3\4", 0, 0, 0, 0, 0, crc, length, length, len(path), len(extra)) + path + extra)
        central.append(
            _CENTRAL.pack(b"PK\1\2", 0, 0, 0, 0, 0, 0, crc, length, length, len(path), 0, 0, 0, 0, 0, place) + path
        )
        place += len(parts[-1]) + length
        if isinstance(content, int):
            cut = len(parts)
        else:
            parts[-1] += content
    directory = b"".join(central)
    end = directory + _END.pack(b"PK\5\6", 0, 0, len(central), len(central), len(directory), place, 0)
    return b"".join(parts[:cut]), b"".join(parts[cut:] if cut else []) + end
