"""The second reading of the rows: which documents are kept, and the tables they are written to."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dreamtune.contamination.benchmark import BenchmarkOverlap
from dreamtune.contamination.copies import Copies
from dreamtune.contamination.giveaway import gives_away
from dreamtune.contamination.rows import RowOverlap
from dreamtune.data.clusters import ClusterKeys
from dreamtune.data.encode import EncodedRows
from dreamtune.data.encode_turns import TurnEncoder
from dreamtune.data.giveaways import Giveaways
from dreamtune.data.heldout import Findings
from dreamtune.data.shard_writer import LengthsWriter, ShardWriter
from dreamtune.data.survey import NO_SPLIT, SPLIT_NAMES, TEST, TRAIN, Survey
from dreamtune.data.tables import LENGTHS, lengths_table, shard_table, turns_table
from dreamtune.data.tokenizer import Tokenizer
from dreamtune.data.truncation import Fit, fit
from dreamtune.errors import UserError
from dreamtune.formats.shards import LENGTHS_FILE
from dreamtune.formats.turns import TURNS, TURNS_FILE
from dreamtune.settings.data import DataConfig
from dreamtune.sources.choice import NOT_DRAWN
from dreamtune.sources.origins import Origins, copy_ids


class SecondPass:
    """The second reading of the rows, in source order: keep or drop each, and write the kept ones to the shards.

    Args:
        survey: results of the first reading.
        copies: finds training rows that nearly repeat a held-out question.
        against: benchmarks that training rows must not overlap.
        out: folder of the shards.
        turns: the encoder of conversations or of rows as such; None for rows in the template's text.
    """

    def __init__(
        self,
        data: DataConfig,
        tokenizer: Tokenizer,
        survey: Survey,
        copies: Copies,
        against: list[BenchmarkOverlap],
        out: Path,
        turns: TurnEncoder | None = None,
    ) -> None:
        self.data, self.tokenizer, self.survey, self.against, self.chat = data, tokenizer, survey, against, turns
        self.writers = {name: ShardWriter(out, name, data.rows_per_shard) for name in SPLIT_NAMES if name}
        self.lengths = LengthsWriter(out / LENGTHS_FILE, LENGTHS)
        self.turns = LengthsWriter(out / TURNS_FILE, TURNS) if data.conversations else None
        self.origins: Origins | None = None  # where there are several sources
        self.overlap, self.copies, self.giveaways = RowOverlap(survey.heldout), copies, Giveaways()
        self.clusters = ClusterKeys(survey.clusters, len(self.writers))
        self.dropped: Counter[str] = Counter()
        self.row, self.unknown = 0, 0
        self.groups = survey.groups()  # [rows], each row's question as a number
        self.taken = np.zeros(int(self.groups.max()) + 1, bool)  # [questions], whether an earlier usable row asked it

    def write(self, rows: EncodedRows) -> None:
        """Truncate, drop and write the rows of one batch; a row counts under the first reason to drop it."""
        ids = np.arange(self.row, self.row + len(rows.questions))
        splits = self.survey.splits[ids]
        rows = rows if self.origins is None else _chosen(rows, self.origins, self.survey.rows_of(ids), splits)
        outcome = fit(self.data.too_long, *rows.lengths(), self.data.max_tokens)
        dropped = np.where(rows.dropped == "", outcome.dropped, rows.dropped)
        self._drop_giveaways(rows, ids, splits, dropped)
        self._drop_contaminated(rows, np.flatnonzero((splits == TRAIN) & (dropped == "")), ids, dropped)
        repeats = self._repeats(dropped, self.groups[ids])
        if self.data.duplicates == "drop":
            dropped[repeats] = "duplicate"
        # A test question that is asked twice would count twice, where the statistics assume independent questions.
        dropped[repeats & (splits == TEST) & (dropped == "")] = "repeated_test_question"
        kept = dropped == ""
        assert (splits[kept] != NO_SPLIT).all(), "a row without a question was kept"
        for number, name in enumerate(SPLIT_NAMES):
            if name is not None:
                chosen = np.flatnonzero(kept & (splits == number))
                keys = self.clusters.of(number, ids[chosen])
                self._write(name, rows, outcome, chosen, ids[chosen], keys)
                if name == "train" and self.origins:
                    self._write_copies(self.origins, rows, outcome, chosen, ids[chosen], keys)
        if self.origins:
            self.origins.note(ids, splits, dropped)
        self.lengths.write(lengths_table(rows, outcome, ids, splits, dropped))
        if self.turns and self.survey.turns is not None:
            heldout = np.where(kept, self.survey.in_heldout()[ids], False)
            self.turns.write(turns_table(rows, ids, self.survey.rows_of(ids), self.survey.turns[ids], heldout))
        self.dropped.update(dropped[~kept].tolist())
        self.row += len(ids)
        self.unknown += rows.unknown

    def finish(self, source_rows: int) -> dict[str, Any]:
        """Close the files and return the content of shards.json.

        Raises:
            UserError: no row is left for training.
        """
        self.lengths.close()
        if self.turns:
            self.turns.close()
        splits = {name: writer.close() for name, writer in self.writers.items()}
        kept = sum(writer.rows for writer in self.writers.values()) - (self.origins.copied if self.origins else 0)
        assert kept + self.dropped.total() == self.row == len(self.groups), "every document is kept or dropped, once"
        dropped = dict(sorted(self.dropped.items()))
        if not self.writers["train"].rows:
            what = ", ".join(f"{reason} {count}" for reason, count in dropped.items()) or "none dropped"
            raise UserError(
                f"none of the {source_rows} rows is left for training (held out: {kept}; dropped: {what}); "
                "check data.columns, data.split and data.max_tokens"
            )
        begins = self.data.beginning_token and self.tokenizer.beginning_id is not None
        meta: dict[str, Any] = {
            "template": next((one.layout.template for one in self.data.of_each() if not one.columns.messages), None),
            "beginning_token": begins and self.chat is None,  # a chat template writes its own
            "max_tokens": self.data.max_tokens,
            "tokenizer": self.tokenizer.describe(),
            "splits": splits,
            "source_rows": source_rows,
            "dropped": dropped,
        }
        if self.chat:
            meta["tokenizer"]["turn_end_id"] = self.chat.turn_end_id
            meta |= {"chat": self.chat.chat.describe(), "documents": len(self.groups)}
        return meta | ({"sources": self.origins.describe()} if self.origins else {})

    def findings(self) -> Findings:
        """Return what is known about the held-out questions when all rows are written."""
        known = self.clusters.known(TRAIN)
        return Findings(self.overlap, self.copies, known, self.giveaways.heldout, self.data.contaminated == "drop")

    def templates(self) -> dict[str, Any]:
        """Return the number of clusters of all rows with a question, rows of the largest, and clusters by split."""
        by_split = dict(zip(self.writers, self.clusters.counts(), strict=True))
        return {"column": self.data.cluster, **self.survey.clusters_found(), **by_split}

    def _write(
        self, split: str, rows: EncodedRows, outcome: Fit, chosen: np.ndarray, ids: np.ndarray, keys: np.ndarray
    ) -> None:
        """Write the rows of a batch at the places `chosen` [n] to a split, with these example ids and cluster keys."""
        from_start = self.data.too_long == "shorten_reasoning" and self.data.shorten_from == "start"
        self.writers[split].write(shard_table(rows, outcome, chosen, ids, keys, self.tokenizer.end_id, from_start))

    def _write_copies(
        self, origins: Origins, rows: EncodedRows, outcome: Fit, chosen: np.ndarray, ids: np.ndarray, keys: np.ndarray
    ) -> None:
        """Write training rows as often again as the weight of their source says; all copies are one cluster."""
        copies = origins.copies(self.survey.rows_of(ids))
        for copy in range(1, int(copies.max(initial=1))):
            again = copies > copy
            self._write("train", rows, outcome, chosen[again], copy_ids(ids[again], copy), keys[again])
            origins.note_copies(ids[again])

    def _drop_giveaways(self, rows: EncodedRows, ids: np.ndarray, splits: np.ndarray, dropped: np.ndarray) -> None:
        """Note the usable rows of a batch whose question gives its answer away; drop those meant for training.

        Test questions stay, because the report leaves them out of a second reading beside the first.
        """
        ways = gives_away(rows.questions, rows.reasonings, rows.answers)
        for number, name in enumerate(SPLIT_NAMES):
            found = np.flatnonzero((ways != "") & (dropped == "") & (splits == number))
            if name is not None:
                self.giveaways.note(name, ids[found], ways[found])
            if number == TRAIN and self.data.gives_away == "drop":
                dropped[found] = "gives_answer_away"

    def _drop_contaminated(self, rows: EncodedRows, train: np.ndarray, ids: np.ndarray, dropped: np.ndarray) -> None:
        """Compare training rows with the held-out questions and the benchmarks, and count the overlaps.

        Args:
            rows: a batch.
            train: [training rows], their places in the batch.
            ids: [rows] example ids.
            dropped: [rows] reasons, changed in place for rows that overlap and have to go.
        """
        columns = (rows.questions, rows.answers, rows.reasonings)
        questions, answers, reasonings = ([column[i] for i in train] for column in columns)
        identities, with_context = self.survey.identities[ids[train]], self.survey.with_context(ids[train])
        shares = self.overlap.look_up(questions, answers, reasonings, ids[train])
        shares |= self.copies.look_up(with_context, questions, answers, ids[train])
        # The other turns of a conversation show the turn that overlaps, or are shown by it.
        source = self.survey.rows_of(ids[train])
        touched = shares.copy()
        for benchmark in self.against:
            overlaps = benchmark.look_up(identities, questions, answers, reasonings, ids[train])
            touched |= overlaps
            dropped[train[np.isin(source, source[overlaps])]] = "contaminated_by_benchmark"
        if self.data.contaminated == "drop":
            dropped[train[np.isin(source, source[shares])]] = "contaminated"
        if self.origins:
            self.origins.note_overlaps(ids[train[touched]])

    def _repeats(self, dropped: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """Return which usable rows of a batch repeat the question of an earlier usable row, here or in a batch before.

        Args:
            dropped: [rows] object; reasons, "" for a usable row.
            groups: [rows], each row's question as a number.

        Returns:
            [rows] bool.

        Rows that ask questions 0, 1, 0, 2, 0, where question 1 was asked in a batch before, and the first row is
        dropped already, so that it is the third that asks question 0 first:

        >>> from types import SimpleNamespace
        >>> second_pass = SimpleNamespace(taken=np.array([False, True, False]))
        >>> dropped = np.array(["too_long", "", "", "", ""], object)
        >>> SecondPass._repeats(second_pass, dropped, groups=np.array([0, 1, 0, 2, 0])).tolist()
        [False, True, False, False, True]
        """
        repeats, usable = np.zeros(len(groups), bool), np.flatnonzero(dropped == "")
        first = usable[np.unique(groups[usable], return_index=True)[1]]  # of each question asked in this batch
        repeats[np.setdiff1d(usable, first[~self.taken[groups[first]]])] = True
        self.taken[groups[usable]] = True
        return repeats


def _chosen(rows: EncodedRows, origins: Origins, places: np.ndarray, splits: np.ndarray) -> EncodedRows:
    """Return a batch in which documents that are not taken, and training documents not drawn, have a reason to drop.

    Args:
        places: [documents] the row of each, in all sources together.
        splits: [documents] indices into SPLIT_NAMES.
    """
    reasons = origins.not_taken(places)
    undrawn = (splits == TRAIN) & (rows.dropped == "") & (origins.copies(places) == 0)
    reasons[(reasons == "") & undrawn] = NOT_DRAWN
    return replace(rows, dropped=np.where(reasons == "", rows.dropped, reasons))
