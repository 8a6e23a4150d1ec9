import json

import pytest

from megatron_lmt.errors import MissingExtraError
from megatron_lmt.extras import import_extra


def test_the_error_names_the_missing_package_its_purpose_and_its_extra():
    with pytest.raises(MissingExtraError, match=r"^finding words needs the package 'no_such_package': .*\.\[clean\]"):
        import_extra("no_such_package.words", "clean", "finding words")


def test_what_a_package_itself_lacks_is_not_taken_for_the_package(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        import_extra("broken_package", "clean", "finding words")


def test_an_installed_module_is_returned():
    assert import_extra("json", "clean", "reading") is json
