"""Several sources: counts that add up, weights by repetition and drawing, and no copy on both sides of a split."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from conversations import dialogue, write_chat_tokenizer, write_rows
from dreamtune.data.prepare import prepare_shards
from dreamtune.errors import UserError
from dreamtune.formats.shards import COPY
from dreamtune.part import Part
from dreamtune.settings.data import DataConfig
from dreamtune.settings.model import ModelConfig
from dreamtune.shards import read_meta, read_split
from rows import TEMPLATE, read, write_tokenizer

SPLIT = {"validation": 0.1, "test": 0.2}
COUNTS = {"math": 60, "web": 80, "chat": 40}
WEIGHTS = {"math": 2.5, "web": 0.5, "chat": 1.0}


def words(number: int) -> str:
    return f"w{4 + number % 90} w{4 + number // 90} w{90 - number % 7}"


def write_sources(folder: Path) -> list[dict[str, Any]]:
    """Write three sources, two of which share ten questions; return their settings."""
    start, sources = 0, []
    for name, count in COUNTS.items():
        numbers = range(start, start + count)
        columns = {"question": "q", "reasoning": "r", "answer": "a"} if name == "web" else {}
        q, r, a = columns.values() if columns else ("question", "reasoning", "answer")
        rows = {q: [words(n) for n in numbers], r: ["w5"] * count, a: ["w6"] * count}
        pl.DataFrame(rows | {"number": list(numbers)}).write_parquet(folder / f"{name}.parquet")
        sources.append({"name": name, "files": [str(folder / f"{name}.parquet")], "weight": WEIGHTS[name]})
        sources[-1] |= {"columns": columns} if columns else {}
        start += count - 10
    return sources


def prepared(folder: Path, sources: list[dict[str, Any]], part: Part | None = None, **settings: Any) -> Path:
    """Prepare sources in `folder`; return the shards' folder."""
    out = folder / f"out{len(list(folder.glob('out*')))}"
    out.mkdir()
    data = DataConfig(sources=sources, template=TEMPLATE, split=SPLIT, batch_rows=17, **settings)
    parts = settings.pop("parts", ())
    prepare_shards(data, ModelConfig(path=write_tokenizer(folder / "model")), out, part=part, parts=parts)
    return out


def test_counts_add_up_and_weights_change_training_alone(tmp_path: Path) -> None:
    sources = write_sources(tmp_path)
    out = prepared(tmp_path, sources)
    meta = read_meta(out)
    found = {source["name"]: source for source in meta["sources"]}
    assert [found[name]["rows"] for name in COUNTS] == list(COUNTS.values())
    assert [source["first_id"] for source in meta["sources"]] == [0, 60, 140]
    for source in meta["sources"]:
        assert sum(source["splits"].values()) + sum(source["dropped"].values()) == source["documents"]
    for split, written in meta["splits"].items():
        copies = sum(source["copies"] for source in meta["sources"]) if split == "train" else 0
        assert written["rows"] == sum(source["splits"][split] for source in meta["sources"]) + copies
    math, web, chat = (found[name] for name in COUNTS)
    assert math["splits"]["train"] < math["copies"] < 2 * math["splits"]["train"]  # each twice, half of them thrice
    assert 0.25 * 80 < web["dropped"]["not_drawn"] < 0.75 * 80 and web["copies"] == chat["copies"] == 0
    plain = prepared(tmp_path, [source | {"weight": 1.0} for source in sources])
    for split in ("validation", "test"):
        assert read(out, split) == read(plain, split) != []


def test_copies_have_ids_of_their_own_one_cluster_and_one_split(tmp_path: Path) -> None:
    out = prepared(tmp_path, write_sources(tmp_path))
    train = read(out, "train")
    ids = [row["example_id"] for row in train]
    assert len(set(ids)) == len(ids) and max(ids) > COPY
    first = {row["example_id"]: row for row in train if row["example_id"] < COPY}
    for row in train:
        assert row | {"example_id": 0} == first[row["example_id"] % COPY] | {"example_id": 0}  # the cluster, too
    heldout = {row["question"] for split in ("validation", "test") for row in read(out, split)}
    assert heldout.isdisjoint(row["question"] for row in train)
    both = [words(n) for n in range(50, 60)]  # in math and in web
    assert len([row for row in read(out, "test") if row["question"] in both]) == len(heldout_of(out, both))


def heldout_of(out: Path, questions: list[str]) -> set[str]:
    return {row["question"] for row in read(out, "test") if row["question"] in questions}


def test_ids_do_not_depend_on_what_is_taken(tmp_path: Path) -> None:
    sources = write_sources(tmp_path)
    every = {row["example_id"]: row["question"] for row in rows_of(prepared(tmp_path, sources))}
    sources[0] |= {"where": "number >= 20", "rows": 30}
    sources[2] |= {"where": "length(question) > 9", "weight": 3}
    out = prepared(tmp_path, sources)
    for row in rows_of(out):
        assert every.get(row["example_id"] % COPY, row["question"]) == row["question"]
    math = read_meta(out)["sources"][0]
    assert math["dropped"]["not_selected"] == 20 and math["dropped"]["over_row_limit"] == 10
    assert all(20 <= row["example_id"] % COPY < 50 for row in rows_of(out) if row["example_id"] % COPY < 60)
    lengths = pl.read_parquet(out / "lengths.parquet")
    assert lengths.height == 180
    assert lengths.filter(pl.col("dropped").is_in(["not_selected", "over_row_limit"]))["split"].null_count() >= 30
    audit = json.loads((out / "audit.json").read_text())
    assert audit["rows_with_text"] <= 150 and not [text for text in audit["warnings"] if "are dropped" in text]


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [row for split in ("train", "validation", "test") for row in read(out, split)]


def test_a_draw_depends_on_the_seed_and_the_row_alone(tmp_path: Path) -> None:
    sources = write_sources(tmp_path)

    def drawn(split: dict[str, Any], sources: list[dict[str, Any]]) -> set[str]:
        out = tmp_path / f"drawn{len(list(tmp_path.glob('drawn*')))}"
        out.mkdir()
        data = DataConfig(sources=sources, template=TEMPLATE, split=split)
        prepare_shards(data, ModelConfig(path=write_tokenizer(tmp_path / "model")), out)
        return {row["question"] for row in read(out, "train")}

    web = [sources[1]]
    first = drawn({"validation": 0.0, "test": 0.0}, web)
    assert first == drawn({"validation": 0.0, "test": 0.0}, web)
    assert first != drawn({"validation": 0.0, "test": 0.0, "seed": 1}, web)
    assert first < drawn({"validation": 0.0, "test": 0.0}, [web[0] | {"weight": 0.8}])


def test_one_source_of_weight_1_has_the_shards_of_its_files(tmp_path: Path) -> None:
    source = write_sources(tmp_path)[1]
    out = prepared(tmp_path, [{"files": source["files"], "columns": source["columns"]}])
    alone = tmp_path / "alone"
    alone.mkdir()
    data = DataConfig(files=source["files"], columns=source["columns"], template=TEMPLATE, split=SPLIT, batch_rows=17)
    prepare_shards(data, ModelConfig(path=write_tokenizer(tmp_path / "model")), alone)
    files = sorted(path.relative_to(alone) for path in alone.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file())
    for file in files:
        if file.name not in ("shards.json", "audit.json"):
            assert (alone / file).read_bytes() == (out / file).read_bytes(), file
    assert "sources" not in read_meta(alone) and [one["name"] for one in read_meta(out)["sources"]] == ["source_1"]


def test_parts_make_the_same_shards(tmp_path: Path) -> None:
    sources = write_sources(tmp_path)
    sources[0] |= {"where": "number % 3 = 0"}
    whole = prepared(tmp_path, sources)
    parts = [prepared(tmp_path, sources, Part(number, 4)) for number in range(1, 5)]
    out = tmp_path / "gathered"
    out.mkdir()
    data = DataConfig(sources=sources, template=TEMPLATE, split=SPLIT, batch_rows=17)
    prepare_shards(data, ModelConfig(path=write_tokenizer(tmp_path / "model")), out, parts=parts)
    for file in ("shards.json", "train/train-00000.arrow", "test/test-00000.arrow", "audit.json"):
        assert (out / file).read_bytes() == (whole / file).read_bytes(), file


def test_rows_and_conversations_in_one_training(tmp_path: Path) -> None:
    chats = [{"messages": dialogue(f"Ask {n}", f"Reply {n}", "More?", f"Again {n}")} for n in range(30)]
    rows = [{"question": f"What is {n}?", "answer": f"It is {n}."} for n in range(30)]
    write_rows(tmp_path / "chats.jsonl", chats)
    write_rows(tmp_path / "rows.parquet", rows)
    sources = [
        {"name": "chats", "files": [str(tmp_path / "chats.jsonl")], "columns": {"messages": "messages"}, "weight": 2},
        {"name": "rows", "files": [str(tmp_path / "rows.parquet")], "columns": {"reasoning": None}, "rows": 20},
    ]
    out = tmp_path / "out"
    out.mkdir()
    data = DataConfig(sources=sources, template="{question}\n{answer}", split={"validation": 0.0, "test": 0.3})
    prepare_shards(data, ModelConfig(path=write_chat_tokenizer(tmp_path / "model")), out)
    first, second = read_meta(out)["sources"]
    assert (first["documents"], second["documents"], second["first_id"]) == (60, 30, 60)
    assert first["copies"] == first["splits"]["train"] > 20 and second["dropped"] == {"over_row_limit": 10}
    turns = pl.read_parquet(out / "turns.parquet")
    assert turns.height == 90 and turns.filter(pl.col("example_id") >= 60)["turn"].unique().to_list() == [1]
    split = {row: name for name in ("train", "test") for row in conversations(out, name, turns)}
    assert sum(len(set(conversations(out, name, turns))) for name in ("train", "test")) == len(split)


def conversations(out: Path, split: str, turns: pl.DataFrame) -> list[int]:
    numbers = dict(turns.select("example_id", "row").iter_rows())
    return [numbers[row["example_id"] % COPY] for row in read_split(out, split)]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"files": ["x"], "sources": [{"files": ["x"]}]}, "data.files and data.sources are both given"),
        ({"columns": {"question": "q"}, "sources": [{"files": ["x"]}]}, "data.columns and data.sources are both given"),
        ({"sources": []}, "data.sources is empty"),
        ({}, "no data are named"),
        ({"sources": [{"files": ["x"], "name": "a"}, {"files": ["y"], "name": "a"}]}, "two sources are named a"),
        ({"sources": [{"files": ["x"], "weight": 0.0}]}, "greater than 0"),
        ({"sources": [{"files": ["x"], "columns": {"cluster": "c"}}, {"files": ["y"]}]}, "columns.cluster is named"),
        ({"sources": [{"files": ["x"]}, {"files": ["y"], "columns": {"reasoning": None}}]}, "go together"),
    ],
)
def test_settings_that_contradict_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DataConfig(**settings)


def test_a_condition_that_keeps_nothing_is_refused(tmp_path: Path) -> None:
    sources = write_sources(tmp_path)
    sources[1] |= {"where": "number < 0"}
    with pytest.raises(UserError, match="web: where 'number < 0' keeps none of the 80 rows"):
        prepared(tmp_path, sources)


def test_a_source_of_which_nothing_trains_is_named(tmp_path: Path) -> None:
    sources = [source | ({"weight": 1e-9} if source["name"] == "web" else {}) for source in write_sources(tmp_path)]
    audit = json.loads((prepared(tmp_path, sources) / "audit.json").read_text())
    assert any(text.startswith("no row of the source web trains (80 documents; ") for text in audit["warnings"])
