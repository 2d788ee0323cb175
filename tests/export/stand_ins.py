"""Stand-ins for the clients of MLflow and Weights & Biases, which keep what they are told."""

import os
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar


class Client:
    """MlflowClient, as far as it is used; `stores` are by URI, so that a second client finds what a first one wrote."""

    stores: ClassVar[dict[str, dict[str, Any]]] = {}
    limits: ClassVar = {"params": 100, "tags": 100, "metrics": 1000}  # of the real one, for each call

    def __init__(self, tracking_uri: str, registry_uri: str) -> None:
        assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == os.environ["DO_NOT_TRACK"] == "true"
        assert tracking_uri == registry_uri
        self.store = self.stores.setdefault(tracking_uri, {})

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id=name) if name in self.store else None

    def create_experiment(self, name: str, artifact_location: str) -> str:
        self.store[name] = {}
        return name

    def create_run(self, experiment: str, start_time: int, tags: dict[str, str], run_name: str) -> Any:
        run = f"{run_name}{len(self.store[experiment])}"
        info = SimpleNamespace(run_id=run, status="RUNNING", start_time=start_time, end_time=None)
        empty: dict[str, Any] = {"params": {}, "metrics": {}, "artifacts": []}
        self.store[experiment][run] = SimpleNamespace(info=info, name=run_name, tags=dict(tags), **empty)
        return self.store[experiment][run]

    def log_batch(self, run: str, **given: list[Any]) -> None:
        for kind, values in given.items():
            assert 0 < len(values) <= self.limits[kind]
            held = getattr(self._run(run), kind)
            for value in values:
                if kind == "metrics":
                    held.setdefault(value.key, []).append((value.step, value.value, value.timestamp))
                else:
                    assert kind == "tags" or value.key not in held, "a parameter is given once"
                    held[value.key] = value.value

    def log_artifact(self, run: str, path: str) -> None:
        self._run(run).artifacts.append(Path(path).name)

    def set_terminated(self, run: str, status: str, end_time: int) -> None:
        self._run(run).info.status, self._run(run).info.end_time = status, end_time

    def search_runs(self, experiments: list[str], filter_string: str) -> list[Any]:
        [wanted] = filter_string.split("'")[1::2]
        return [run for run in self.store[experiments[0]].values() if run.tags["dreamtune.id"] == wanted]

    def delete_run(self, run: str) -> None:
        for runs in self.store.values():
            runs.pop(run, None)

    def _run(self, run: str) -> Any:
        return next(runs[run] for runs in self.store.values() if run in runs)


def mlflow() -> ModuleType:
    """Return a module with the names of `mlflow` that are used."""

    def entity(*names: str) -> Any:
        return lambda *values: SimpleNamespace(**dict(zip(names, values, strict=True)))

    Client.stores.clear()
    module = ModuleType("mlflow")
    pair = entity("key", "value")
    entities = SimpleNamespace(Param=pair, RunTag=pair, Metric=entity("key", "value", "timestamp", "step"))
    vars(module).update(entities=entities, tracking=SimpleNamespace(MlflowClient=Client))
    return module


class Run:
    """A run of wandb, which makes its folder as wandb does, and may fail in the middle."""

    fails = False  # while it is finished

    def __init__(self, number: int, given: dict[str, Any]) -> None:
        assert given["mode"] == "offline"
        self.given, self.rows, self.summary, self.attached = given, {}, {}, []
        self.folder = Path(given["dir"]) / f"wandb/offline-run-20261128_10000{number}-{given['id']}"
        self.folder.mkdir(parents=True)

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        if Run.fails:
            raise OSError(28, "No space left on device")

    def log(self, values: dict[str, float], step: int) -> None:
        assert step > max(self.rows, default=-1), "a step is taken once, in order"
        self.rows[step] = values

    def log_artifact(self, artifact: Any) -> None:
        self.attached += artifact.files


def wandb() -> Any:
    """Return a module with the names of `wandb` that are used; its runs are in the attribute `runs`."""
    module: Any = ModuleType("wandb")
    module.runs = []

    def init(**given: Any) -> Run:
        assert os.environ["WANDB_ERROR_REPORTING"] == "false"
        assert Path(os.environ["WANDB_DATA_DIR"]).parent == given["dir"], "nothing goes to the home folder"
        module.runs.append(Run(len(module.runs), given))
        return module.runs[-1]

    def artifact(name: str, type: str) -> Any:
        files: list[str] = []
        return SimpleNamespace(files=files, add_file=lambda path: files.append(Path(path).name))

    module.init, module.Artifact, module.Settings = init, artifact, SimpleNamespace
    module.teardown = lambda: None
    return module
