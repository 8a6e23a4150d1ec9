"""Strict TOML: read a file, check it against a pydantic model, report all problems at once."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable
from pathlib import Path
from string import Formatter
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from megatron_lmt.errors import ConfigError, UserError
from megatron_lmt.files import no_file

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class Section(BaseModel):
    """Common to all sections: no unknown keys, no silent conversion of types, no change after reading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


AnySection = TypeVar("AnySection", bound=Section)
Result = TypeVar("Result")


def load_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: no such file, not UTF-8, or not TOML (with line and column).
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise ConfigError(no_file(Path(path))) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None


def parse_value(text: str) -> Any:
    """One TOML value; what is none is taken as a string, so that a shell user need not quote twice."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def apply_override(data: dict[str, Any], override: str) -> None:
    """Set one key of what `load_toml` read, before it is checked.

    Args:
        override: `section.key=value`; the value is TOML, or else a bare string.
    Raises:
        ConfigError: not of this form, or the section is a value.
    """
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"override {override!r}: write key=value, such as train.train_iters=100")
    *sections, name = key.split(".")
    for section in sections:
        data = data.setdefault(section, {})
        if not isinstance(data, dict):
            raise ConfigError(f"override {override!r}: {section!r} is a value in the run file, not a section")
    data[name] = parse_value(text)


def as_value_error(check: Callable[..., Result], *arguments: Any) -> Result:
    """For validators: pydantic collects ValueErrors, and would end its work at one of ours."""
    try:
        return check(*arguments)
    except UserError as error:
        raise ValueError("; ".join(error.problems)) from None


def check_placeholders(path: str, required: set[str], allowed: set[str]) -> None:
    """
    Raises:
        ValueError: `path` has none of the required `{placeholders}`, or one that nothing will fill in.
    """
    try:
        found = {name for _, name, _, _ in Formatter().parse(path) if name is not None}
    except ValueError as error:
        raise ValueError(f"path = {path!r}: {error}") from None
    if found - allowed:
        known = ", ".join(f"{{{name}}}" for name in sorted(allowed)) or "none"
        raise ValueError(f"path = {path!r}: unknown placeholders {sorted(found - allowed)}; here they are {known}")
    if required and not found & required:
        wanted = " or ".join(f"{{{name}}}" for name in sorted(required))
        raise ValueError(f"path = {path!r} names one file for several sources: put {wanted} in it")


def validate(section: type[AnySection], data: dict[str, Any], where: str) -> AnySection:
    """Check `data` against `section`.

    Args:
        where: the file, for messages.
    Raises:
        ConfigError: with one line for each problem: place, key, what is wrong and the value.
    """
    try:
        return section.model_validate(data)
    except ValidationError as error:
        raise ConfigError([_message(section, where, problem) for problem in error.errors()]) from None


def _message(section: type[Section], where: str, problem: dict[str, Any]) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    prefix = f"{where}: {key}: " if key else f"{where}: "
    if problem["type"] == "extra_forbidden":
        return f"{prefix}unknown key{_suggestion(section, problem['loc'])}"
    if problem["type"] == "missing":
        return f"{prefix}missing"
    if problem["type"] == "value_error":
        return prefix + str(problem["ctx"]["error"])
    message = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{prefix}{message}; the value is {problem['input']!r}"


def _suggestion(section: type[Section], location: tuple[str | int, ...]) -> str:
    """Names like the unknown one, anywhere in the file's model: most wrong keys are a slip or in a wrong section."""
    known = _keys(section, "")
    name = str(location[-1])
    same = [key for key in known if key.rpartition(".")[2] == name]
    close = difflib.get_close_matches(".".join(map(str, location)), known, n=1, cutoff=0.8)
    hint = same or close
    return f"; did you mean {' or '.join(hint)}?" if hint else ""


def _keys(section: type[Section], prefix: str) -> list[str]:
    keys = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, Section):
            keys += _keys(nested, f"{prefix}{name}.")
    return keys
