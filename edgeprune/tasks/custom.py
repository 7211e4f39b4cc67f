"""A user's own Task, named ``file.py:Name`` on the command line."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from edgeprune.errors import BadOption, EdgepruneError, nearest
from edgeprune.model import first_line
from edgeprune.tasks.base import Task


def load_task(text: str, data: Path | None, seed: int) -> Task:
    """Import the file and return ``Name(data=data, seed=seed)``. This runs the file: only for names given by the user.

    Raises BadOption if the file or the name does not exist, fails to import or to construct, or is no subclass of
    ``edgeprune.tasks.base.Task``; errors of edgeprune's own that the class raises pass through.
    """
    path, separator, name = text.rpartition(":")
    if not separator or not path.endswith(".py") or not name.isidentifier():
        raise BadOption(f"--task {text!r} is not understood; give file.py:Name, where Name is a subclass of Task")
    module = _import(Path(path))
    found = getattr(module, name, None)
    if found is None:
        classes = [key for key, value in vars(module).items() if isinstance(value, type) and value is not Task]
        raise BadOption(f"{path} defines no {name!r}{nearest(name, classes) if classes else ', nor any other class'}")
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise BadOption(f"{name} of {path} is not a subclass of edgeprune.tasks.base.Task; derive it from that")
    if not isinstance(getattr(found, "name", None), str):
        raise BadOption(f"{name} of {path} has no name; write name = {name.lower()!r} in the class")
    try:
        task = found(data=data, seed=seed)  # type: ignore[call-arg]  # the user's own constructor
    except EdgepruneError:
        raise
    except Exception as error:
        raise BadOption(
            f"{name}(data=..., seed=...) of {path} failed with {type(error).__name__}: {first_line(error)}"
        ) from error
    return task


def _import(path: Path) -> ModuleType:
    if not path.is_file():
        raise BadOption(f"there is no file {path}; give --task the path of a Python file, a colon and a class name")
    # The name holds the path's hash, so that two files called task.py do not replace each other.
    name = f"edgeprune_user_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # a .py suffix always has the source loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look a class up through its module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise BadOption(f"{path} cannot be imported ({type(error).__name__}: {first_line(error)})") from error
    return module
