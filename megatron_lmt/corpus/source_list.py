"""A TOML list of sources, so that one call of preprocess_data.py makes the tokens of a whole mixture.

`[[monolingual]]`, `[[pairs]]`, `[[aligned]]`, `root`, `seed` and `[format]` are those of tools/build_corpus.py: the same
file gives the same documents, without jsonl files in between. Beside them there are `[[tmx]]` and `[[source]]`.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import model_validator

from megatron_lmt.corpus.cpt import CptConfig
from megatron_lmt.corpus.files import Parallel, check_inputs, pair_files, resolve_root, text_files
from megatron_lmt.errors import ConfigError
from megatron_lmt.languages import check_languages, split_direction
from megatron_lmt.preprocessing.inputs import HUB, Input, as_input, expand, kind_of, paired
from megatron_lmt.preprocessing.pairs import Pairing
from megatron_lmt.toml_config import Section, as_value_error, check_placeholders, load_toml, validate


class Tmx(Parallel):
    """`[[tmx]]`: translation memories of one pair or of many; `{source}` and `{target}` may be in the path."""

    @model_validator(mode="after")
    def _check_path(self):
        check_placeholders(self.path, required=set(), allowed={"source", "target"})
        return self


class Source(Section):
    """`[[source]]`: `name` is the prefix of its token files, `input` files, folders, patterns or hf:// names.

    `language` is for the report alone. `direction`, such as "en-de", is for inputs of pairs, all of which become documents
    of it. `keys` are those of the text, or of the source's and the target's sentence (translation.en: in translation).
    """

    name: str
    input: list[str]
    keys: list[str] = []
    language: str | None = None
    direction: str | None = None

    @model_validator(mode="after")
    def _check_languages(self):
        if self.direction:
            as_value_error(split_direction, self.direction)
        if self.language:
            as_value_error(check_languages, [self.language])
        return self


class SourceList(CptConfig):
    tmx: list[Tmx] = []
    source: list[Source] = []


def read_sources(config_file: Path, output_dir: Path, root: str | None = None) -> dict[Path, list[Input]]:
    """Prefix to write → inputs, of every source in the list.

    Args:
        root: instead of the list's own.
    Raises:
        UserError: the list, missing inputs (all of them), or two sources of one name.
    """
    config = validate(SourceList, load_toml(config_file), str(config_file))
    folder = resolve_root(root or config.root, config_file)
    sections = [config, *config.monolingual, *config.pairs, *config.aligned, *config.tmx]
    if any(section.clean != type(section.clean)() for section in sections):
        raise ConfigError(f"{config_file}: clean: tools/build_corpus.py cleans; give what it wrote as --input-dir")
    found: dict[str, list[Input]] = {}
    texts, pairs = text_files(config.monolingual, config.clean, folder), pair_files(config, folder)
    if texts or pairs:
        check_inputs([*texts, *pairs])
    for text in texts:
        found.setdefault(f"mono.{text.language}", []).append(
            Input((text.path,), kind_of(text.path) or "text", language=text.language)
        )
    for files in pairs:
        kind = "tsv" if len(files.paths) == 1 else "aligned"
        _add_both(found, config, files.name, tuple(files.paths), kind, files.source, files.target)
    for section in config.tmx:
        for source, target in map(split_direction, section.names()):
            name = section.path.format(source=source, target=target)
            _add_both(found, config, name, (folder / name,), "tmx", source, target)
    for section in config.source:
        if section.name in found:
            raise ConfigError(f"{config_file}: source {section.name}: there is another one of this name")
        found[section.name] = _inputs_of(section, config, folder)
    if not found:
        raise ConfigError(f"{config_file}: no source: name [[monolingual]], [[pairs]], [[aligned]], [[tmx]] or [[source]]")
    return {output_dir / name: inputs for name, inputs in found.items()}


def _add_both(found: dict, config: SourceList, name: str, paths: tuple, kind: str, source: str, target: str) -> None:
    for reverse in (False, True):
        pairing = Pairing(source, target, config.format.parallel, reverse, half=(config.seed, name))
        direction = f"{target}-{source}" if reverse else f"{source}-{target}"
        found.setdefault(direction, []).append(Input(paths, kind, pairing=pairing))


def _inputs_of(section: Source, config: SourceList, folder: Path) -> list[Input]:
    paths = expand([Path(path) if path.startswith(HUB) else folder / path for path in section.input])
    keys = tuple(section.keys) or None
    if section.direction:
        return paired(paths, Pairing(*split_direction(section.direction), config.format.parallel), keys)
    return [as_input(path, keys=keys, language=section.language) for path in paths]
