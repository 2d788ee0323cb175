"""A training in the image on two nodes of a real SLURM: the losses and weights of one process outside of both."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from project import MICRO, Project
from tests.cluster.local_slurm import LocalSlurm
from tests.cluster.test_container import image, lock  # noqa: F401, a fixture
from tests.cluster.test_slurm import SlurmProject, rule_of
from tests.train.test_processes import ONCE, prepare, same_training, train

pytestmark = pytest.mark.timeout(1800)  # others that use a SLURM may have to end first


@pytest.fixture
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSlurm]:
    with LocalSlurm(tmp_path_factory.mktemp("slurm"), nodes=2) as started:
        yield started


def test_two_nodes_train_what_one_process_does(
    two_nodes: LocalSlurm,
    image: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """`srun` enters the image on each node; the processes meet at the first."""
    one = Project(tmp_path / "one")
    prepare(one)
    train(one)
    two = SlurmProject(tmp_path / "two", two_nodes, MICRO, image)
    prepare(two)
    two.edit(MICRO, ONCE, f"{ONCE}\n  nodes: 2")
    train(two)
    (one.folder / "results/train_adapter").rename(two.folder / "one")
    same_training(two)
    nodes = {rule_of(job): job["NodeList"] for job in two_nodes.jobs()}
    assert nodes.keys() == {"prepare_shards", "audit_references", "train_adapter"}
    assert nodes["train_adapter"] == "node[1-2]" and nodes["prepare_shards"] != nodes["train_adapter"]
    for path in two.manifests():
        assert json.loads(path.read_text())["image"] == f"{image.name}, lock {lock()}", path
    made = (two.folder / "results/train_adapter").glob("*/training.json")
    assert [json.loads(path.read_text())["processes"] for path in made] == [2, 2]
