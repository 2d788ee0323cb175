"""What the real clients write, read back by themselves; that they go to no network. Skipped where none is installed."""

import json
import os
import socket
import struct
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from dreamtune.export.export import export
from dreamtune.export.record import Record, read_records
from tests.export.published import publish_run, publish_study
from tests.overview.studies import LATEST, Studies

OUT = Path("out")
INTERNET = (socket.AF_INET, socket.AF_INET6)
# Not pytest.importorskip, which would import a client before it is told not to report its use.
needs_mlflow = pytest.mark.skipif(not (find_spec("mlflow") and find_spec("alembic")), reason="needs the extra mlflow")
needs_wandb = pytest.mark.skipif(not find_spec("wandb"), reason="needs the extra wandb")


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let this process connect to nothing and look no name up, and other processes only to one port, which listens."""

    asked: list[Any] = []  # also by threads, whose exceptions nobody sees

    def refuse(*given: Any) -> None:
        asked.append(given)
        raise OSError(f"the network was asked: {given}")

    def connect(self: socket.socket, address: Any) -> None:
        real(self, address) if self.family not in INTERNET else refuse(address)

    real = socket.socket.connect
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "WANDB_BASE_URL", "OTEL_EXPORTER_OTLP_ENDPOINT"):
            monkeypatch.setenv(name, address)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.setattr(socket.socket, "connect", connect)
        monkeypatch.setattr(socket, "getaddrinfo", refuse)
        yield
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody has connected
            listener.accept()
        assert asked == []


def written(studies: Studies, to: str) -> list[Record]:
    """Publish two seeds and their study, export them twice, and return what was exported."""
    for name in ("CI", "PYTEST_CURRENT_TEST"):  # MLflow reports no use where one of them is set
        os.environ.pop(name, None)
    publish_study(studies, experiments={"a": {}}, seeds=2)
    for _ in range(2):
        records = list(read_records(LATEST, []))
        list(export(records, to, OUT, "mine"))
    return records


@needs_mlflow
def test_mlflow_reads_back_what_was_written(studies: Studies) -> None:
    records = written(studies, "mlflow")
    from mlflow.telemetry import get_telemetry_client
    from mlflow.tracking import MlflowClient

    assert get_telemetry_client() is None, "which would report its use when the process ends"
    client = MlflowClient(f"sqlite:///{OUT.absolute()}/mlflow.db")
    experiment = client.get_experiment_by_name("mine").experiment_id
    found = {run.data.tags["dreamtune.id"]: run for run in client.search_runs([experiment])}
    assert set(found) == {record.id for record in records} and len(records) == 3
    for record in records:
        run = found[record.id]
        figures = {name: value for name, value in run.data.metrics.items() if "/" in name}
        assert figures == pytest.approx({name: v for name, v in record.figures.items()}, rel=1e-15)
        assert run.data.params.keys() == record.settings.keys() and run.data.tags["verdict"] == record.verdict
        assert run.info.status == "FINISHED" and run.info.start_time == 1000 * record.started
        history = [(m.step, m.value, m.timestamp) for m in client.get_metric_history(run.info.run_id, "loss")]
        assert history == [(p.step, p.value, 1000 * p.at) for p in record.curve if p.name == "loss"]
        assert {file.path for file in client.list_artifacts(run.info.run_id)} == {f.name for f in record.files}
    assert len(client.search_runs([experiment], "tags.method = 'a'")) == 2, "its seeds"


@needs_wandb
def test_wandb_files_hold_what_was_written(studies: Studies) -> None:
    home = set(Path.home().glob(".*/wandb*")) | set(Path.home().glob(".*/*/wandb*"))
    records = written(studies, "wandb")
    files = {path.parent.name.partition("-")[2].partition("-")[2]: path for path in OUT.glob("wandb/*-run-*/*.wandb")}
    found = {path.name.removeprefix("run-").removesuffix(".wandb"): [*entries(path)] for path in files.values()}
    assert set(found) == {record.id for record in records} and len(files) == 3, "the second export doubled none"
    for record in records:
        held = found[record.id]
        [run] = [entry.run for entry in held if entry.WhichOneof("record_type") == "run"]
        config = {update.key: json.loads(update.value_json) for update in run.config.update}
        assert run.run_group == record.group and list(run.tags) == [record.verdict] and run.host == ""
        assert config["dreamtune"]["verdict"] == record.verdict
        rows = [values(entry.history.item) for entry in held if entry.WhichOneof("record_type") == "history"]
        losses = [(row["_step"], row["loss"], row["_timestamp"]) for row in rows if "loss" in row]
        assert losses == [(p.step, p.value, p.at) for p in record.curve if p.name == "loss"]
        summary: dict[str, Any] = {}
        for entry in held:
            if entry.WhichOneof("record_type") == "summary":
                summary |= values(entry.summary.update)
        assert {name: summary[name] for name in record.figures} == record.figures
        [attached] = [entry.artifact for entry in held if entry.WhichOneof("record_type") == "artifact"]
        assert [content.path for content in attached.manifest.contents] == sorted(file.name for file in record.files)
        assert all(Path(content.local_path).is_relative_to(OUT.absolute()) for content in attached.manifest.contents)
        assert held[-1].WhichOneof("record_type") == "exit", "the run ended"
    assert set(Path.home().glob(".*/wandb*")) | set(Path.home().glob(".*/*/wandb*")) == home


@needs_mlflow
@needs_wandb
def test_what_the_environment_says_of_trackers_sends_nothing_elsewhere(
    summary: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_run("demo", summary)
    for name, value in {
        "WANDB_MODE": "online",
        "WANDB_API_KEY": "0" * 40,
        "WANDB_DIR": "elsewhere",
        "MLFLOW_TRACKING_URI": os.environ["HTTP_PROXY"],
    }.items():
        monkeypatch.setenv(name, value)
    for to in ("wandb", "mlflow"):
        list(export(read_records(LATEST, []), to, OUT, "mine"))
    assert (OUT / "mlflow.db").exists() and list(OUT.glob("wandb/offline-run-*")) and not Path("elsewhere").exists()


def entries(path: Path) -> Iterator[Any]:
    """Yield the records in a .wandb file: seven bytes, then the log format of LevelDB in blocks of 32 KiB.

    The client has no reader of its own any more.
    """
    from wandb.proto.wandb_internal_pb2 import Record as Entry

    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or last
            yield Entry.FromString(whole)
            whole = b""


def values(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
