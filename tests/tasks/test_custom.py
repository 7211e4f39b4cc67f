import pytest

from edgeprune.errors import BadData, BadOption
from edgeprune.tasks.custom import load_task

GOOD = """
from dataclasses import dataclass
from pathlib import Path
from edgeprune.errors import BadData
from edgeprune.tasks.base import Task

class _All(Task):
    def spec(self): return None
    def splits(self): return ()
    def train_batches(self, epoch, seed): yield from ()
    def train_steps(self): return 0
    def calibration_batches(self): yield from ()
    def loss(self, output, batch): return output
    def score(self, predict, split, indices=None): return None
    def digest(self): return str(self.seed)

@dataclass
class Mine(_All):
    name = "mine"
    data: Path | None
    seed: int
    def __post_init__(self): pass

class Nameless(_All):
    pass

class Partial(Task):
    name = "partial"

class Picky(Mine):
    def __post_init__(self):
        raise BadData("there is no data; give --data")

class Crashing(Mine):
    def __post_init__(self):
        raise KeyError("labels")

class Other:
    pass
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "task.py"
    path.write_text(GOOD)
    return path


def test_a_task_is_built_with_data_and_seed(file, tmp_path):
    task = load_task(f"{file}:Mine", tmp_path, 7)
    assert (task.name, task.data, task.digest()) == ("mine", tmp_path, "7")
    assert load_task(f"{file}:Mine", None, 0).data is None


def test_two_files_of_one_name_do_not_meet(file, tmp_path):
    (tmp_path / "b").mkdir()
    other = tmp_path / "b" / "task.py"
    other.write_text(GOOD.replace('"mine"', '"yours"'))
    assert [load_task(f"{f}:Mine", None, 0).name for f in (file, other, file)] == ["mine", "yours", "mine"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Mime", "FILE defines no 'Mime'; did you mean 'Mine'?"),
        ("Other", "Other of FILE is not a subclass of edgeprune.tasks.base.Task; derive it from that"),
        ("Zebra", "FILE defines no 'Zebra'; known: "),
        ("Nameless", "Nameless of FILE has no name; write name = 'nameless' in the class"),
        ("Partial", "Partial(data=..., seed=...) of FILE failed with TypeError: "),
        ("Crashing", "Crashing(data=..., seed=...) of FILE failed with KeyError: 'labels'"),
    ],
)
def test_classes_that_cannot_be_used(file, name, message):
    with pytest.raises(BadOption) as caught:
        load_task(f"{file}:{name}", None, 0)
    assert str(caught.value).replace(str(file), "FILE").startswith(message)


def test_its_own_errors_of_ours_pass_through(file):
    with pytest.raises(BadData, match="there is no data; give --data"):
        load_task(f"{file}:Picky", None, 0)


@pytest.mark.parametrize("text", ["task.py", "task.py:", ":Mine", "task:Mine", "task.py:1x"])
def test_text_that_names_no_class(text):
    with pytest.raises(BadOption) as caught:
        load_task(text, None, 0)
    message = f"--task {text!r} is not understood; give file.py:Name, where Name is a subclass of Task"
    assert str(caught.value) == message


def test_files_that_cannot_be_imported(tmp_path):
    missing, broken, empty = tmp_path / "missing.py", tmp_path / "broken.py", tmp_path / "empty.py"
    broken.write_text("import no_such_thing\n")
    empty.touch()
    with pytest.raises(BadOption, match=r"there is no file .*missing\.py; give --task the path of a Python file"):
        load_task(f"{missing}:A", None, 0)
    with pytest.raises(BadOption, match=r"broken\.py cannot be imported \(ModuleNotFoundError: No module named"):
        load_task(f"{broken}:A", None, 0)
    with pytest.raises(BadOption, match=r"empty\.py defines no 'A', nor any other class$"):
        load_task(f"{empty}:A", None, 0)
