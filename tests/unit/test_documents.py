"""What README.md and docs/ name is there: files, options of programs, keys of TOML files."""

import argparse
import re
import runpy
import shlex
from functools import cache

import pytest

from megatron_lmt.config import RunConfig
from megatron_lmt.corpus.source_list import SourceList
from megatron_lmt.sft.config import SftConfig
from megatron_lmt.toml_config import load_toml, validate
from tests.conftest import REPOSITORY

DOCUMENTS = {str(path.relative_to(REPOSITORY)): path for path in [REPOSITORY / "README.md", *REPOSITORY.glob("docs/*.md")]}
FOLDERS = "tools|docs|examples|slurm|tests|benchmarks|megatron_lmt"
PROGRAM = re.compile(
    r"python (?:-m )?((?:tools|benchmarks)[/.][\w/.]+)|(megatron_lmt\.train)|(?:bash |sbatch .*|^)(\w+/[\w/]+\.sh)"
)
OF_OTHERS = set(
    "--batch --dependency --signal --container-image --nodes --nproc-per-node --no-build-isolation --gpus".split()
)
"""Options of Slurm, pyxis, torchrun and pip; and --gpus, which slurm/cpt.sh hands to tools/rehearse.py."""


@pytest.fixture(params=DOCUMENTS)
def text(request):
    return DOCUMENTS[request.param].read_text(encoding="utf-8")


def code_of(text: str) -> list[str]:
    """What is in backquotes inside of sentences."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def commands_of(text: str) -> list[str]:
    """Lines of the blocks without a language, and code that calls a program; comments are left out."""
    blocks = re.findall(r"```\n(.*?)```", text, flags=re.DOTALL)
    lines = [line.partition("  #")[0] for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines + code_of(text) if PROGRAM.search(line)]


class _Parser(BaseException):
    """Carries a program's parser out of it, past whatever it catches."""


@cache
def options_of(program: str) -> str | set[str]:
    """The options of a tool or module with all its subcommands; of a script its text."""
    if program.endswith(".sh"):
        return (REPOSITORY / program).read_text(encoding="utf-8")

    def stop(parser, *_):
        raise _Parser(parser)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(_Parser) as caught:
        patch.setattr(argparse.ArgumentParser, "parse_known_args", stop)
        patch.setattr(argparse.ArgumentParser, "parse_known_intermixed_args", stop)
        if program.endswith(".py"):
            runpy.run_path(str(REPOSITORY / program), run_name="__main__")
        else:
            runpy.run_module(program, run_name="__main__")
    return _options(caught.value.args[0])


def _options(parser: argparse.ArgumentParser) -> set[str]:
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= set(action.choices).union(*map(_options, action.choices.values()))
    return found


def programs() -> list[str]:
    tools = [*REPOSITORY.glob("tools/*.py"), *REPOSITORY.glob("tools/*/*.py")]
    scripts = [*REPOSITORY.glob("slurm/*.sh"), *REPOSITORY.glob("examples/*/run.sh")]
    return [str(path.relative_to(REPOSITORY)) for path in tools + scripts] + ["megatron_lmt.train"]


def test_files_are_there(text):
    paths = re.findall(rf"(?<![\w/.{{])((?:{FOLDERS})/[\w./*-]*[\w*])", text)
    paths += [f"docs/{link}" for link in re.findall(r"\]\((\w+\.md)\)", text)]
    named = [code for code in code_of(text) if re.fullmatch(r"[a-z][\w/]*\.(py|sh)", code)]
    roots = [REPOSITORY / folder for folder in FOLDERS.split("|")]
    absent = {path for path in paths if not list(REPOSITORY.glob(path))}
    absent |= {name for name in {*named} - {*paths} if not any(list(root.rglob(name)) for root in roots)}
    assert not absent


def test_the_rooms_hold_what_the_readme_says():
    rows = re.findall(r"^\| `(\w+/)`: .*\| (.*) \|$", DOCUMENTS["README.md"].read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(rows) == 3
    for room, files in rows:
        assert all((REPOSITORY / "megatron_lmt" / room / name).is_file() for name in re.findall(r"`([\w.]+)`", files))


def test_commands_have_the_options(text):
    wrong = []
    for command in commands_of(text):
        program = next(filter(None, PROGRAM.search(command).groups()))
        words = re.split(r"\$\(", command[command.index(program) :])[0].replace("[", " ").replace("]", " ").replace("…", "")
        wrong += [
            f"{program} {word}" for word in shlex.split(words.rstrip('"')) if word[:2] == "--" and not has(program, word)
        ]
    assert not wrong


def has(program: str, word: str) -> bool:
    return word.partition("=")[0] in OF_OTHERS or word.partition("=")[0] in options_of(program)


def test_options_are_those_of_some_program(text):
    options = {
        word for code in code_of(text) for word in re.findall(r"(?:^| )(--[\w-]+)", code) if "benchmarks." not in code
    }
    assert not {word for word in options if not any(has(program, word) for program in programs())} - BENCHMARKS


BENCHMARKS = {"--documents", "--batches", "--sides"}
"""Of benchmarks.mixture, in a sentence of its own."""


def test_keys_of_the_run_file_are_there(text):
    sections = {name: field.annotation for name, field in RunConfig.model_fields.items()}
    keys = [code.split(" ")[0] for code in code_of(text)]
    named = [
        key.partition(".")[::2] for key in keys if re.fullmatch(rf"({'|'.join(sections)})\.(?!py|log|jsonl?)[a-z]\w+", key)
    ]
    assert not [f"{section}.{key}" for section, key in named if key not in fields(sections[section])]


def fields(annotation) -> set[str]:
    """Keys of a section, which may be optional."""
    models = [annotation, *getattr(annotation, "__args__", ())]
    return {name for model in models for name in getattr(model, "model_fields", ())}


@pytest.mark.parametrize(
    ("name", "config"), [("finetuning", SftConfig), ("preprocessing", SourceList), ("checkpoints", None), ("gpu", None)]
)
def test_toml_in_the_documents_is_read(tmp_path, name, config):
    block = DOCUMENTS[f"docs/{name}.md"].read_text(encoding="utf-8").partition("```toml\n")[2].partition("```")[0]
    (tmp_path / "file.toml").write_text(block, encoding="utf-8")
    tables = load_toml(tmp_path / "file.toml")
    if config:
        assert validate(config, tables, name).model_fields_set
    else:  # a part of a run file
        assert all(set(keys) <= fields(RunConfig.model_fields[section].annotation) for section, keys in tables.items())
