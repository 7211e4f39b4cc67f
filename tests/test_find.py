from __future__ import annotations

import inspect

import pytest

from edgeprune import find
from edgeprune.errors import BadOption

FOLDERS = ("passes", "agents", "backends", "tasks")
EVERYTHING = [(folder, name) for folder in FOLDERS for name in find.names(folder)]


@pytest.mark.parametrize(("folder", "name"), EVERYTHING, ids="/".join)
def test_everything_found_is_a_class_of_that_name_with_a_line_about_it(folder: str, name: str) -> None:
    cls = find.find(folder, name)
    assert inspect.isclass(cls)
    assert cls.name == name
    assert (cls.__doc__ or "").strip()


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_folder_is_empty(folder: str) -> None:
    assert find.names(folder) == sorted(find.names(folder)) != []


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(BadOption, match=r"^unknown agent 'pp0'; did you mean 'ppo'\?$"):
        find.find("agents", "pp0")


def test_a_name_is_never_used_as_a_path() -> None:
    with pytest.raises(BadOption, match=r"^unknown agent '\.\./cli'"):
        find.find("agents", "../cli")


def test_names_have_dashes_where_files_have_underscores() -> None:
    assert not [name for _, name in EVERYTHING if "_" in name]
