"""The JSON schemas of study.json, confirm.json and members.json; write_schema.py writes them into docs/.

No stage reads or writes through these types: a description that is put better makes nothing anew.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

UNIT = "share of right answers, or nats per token by which the NLL falls; more is better"
Number = float | None
Share = Annotated[float, Field(ge=0, le=1)]


class Part(BaseModel):
    """A JSON object whose keys are all known."""

    model_config = ConfigDict(extra="forbid")


class ComparisonRow(Part):
    """A method against the base, or against the baseline. Also a row of study.csv and study.parquet."""

    comparison: str = Field(description="its name, such as: qlora against full")
    method: str
    against: str = Field(description="base, or the study's baseline")
    role: Literal["confirmatory", "exploratory"] = Field(description="confirmatory: it is of the family")
    about: Literal["method", "adapters"] = Field(description="method: of at least three seeds; else adapters")
    seeds: int = Field(ge=0, description="runs of the method that finished")
    seeds_against: int | None = Field(description="of the baseline; null for the base model, which has none")
    ended: str | None = Field(description="what became of the seeds that ended without a report; null if none did")
    questions: int = Field(ge=0)
    clusters: int = Field(ge=0, description="of similar questions; as many as questions, if all are unrelated")
    gain: Number = Field(description=UNIT)
    low: Number = Field(description="limit for this comparison alone; null where there is no test")
    high: Number
    simultaneous_low: Number = Field(description="limit that holds for all comparisons of this role together")
    simultaneous_high: Number
    error_questions: Number = Field(description="standard error over questions, or clusters")
    error_seeds: Number = Field(description="standard error over seeds; null where they are too few")
    df: Number = Field(description="Satterthwaite's degrees of freedom")
    p: Share | None = Field(description="raw, two-sided")
    p_adjusted: Share | None = Field(description="Holm's over the family")
    test: str = Field(description="which, or why there is none")
    word: Literal["improved", "worse", "no evidence of change", "exploratory", "not tested"]
    equivalence: Literal["equivalent", "no worse", "not shown"] | None = Field(description="null where nobody asked")
    p_no_worse: Share | None
    p_equivalent: Share | None
    sentence: str


class Choice(Part):
    """Which of several methods is the best, and on what that was decided."""

    winner: str
    means: dict[str, Number] = Field(
        description="what each candidate reached, mean over questions and seeds: its share of right answers, or its "
        "NLL with a minus sign"
    )
    questions: int = Field(ge=0, description="how many decided")
    split: Literal["validation", "test"]


class StatedChoice(Choice):
    """The best where all were looked at on the test questions, and its gain, which is overstated."""

    gain: Number = Field(description=UNIT)
    low: Number = Field(description="limits that hold for all candidates together")
    high: Number
    label: str = Field(description="what kind of limits these are")


class Estimate(Part):
    """A change of the validation NLL in nats per token, with its confidence limits."""

    value: Number
    low: Number
    high: Number


class Change(Estimate):
    """A change of the primary measure, in its unit."""

    error_questions: Number
    error_runs: Number
    df: Number


class Curve(Part):
    """A learning curve over sizes of the training data."""

    runs: list[str]
    sizes: list[float] = Field(description="training rows of each run")
    means: list[Number] = Field(description="of each run, in the primary measure's unit")
    per_doubling: Change | None = Field(description="the trend; null with fewer than 3 runs or 2 sizes")
    next_doubling: Change | None = Field(description="from the largest size to twice that; null: refusal says why")
    refusal: str | None


class Course(Part):
    """A learning curve of a method over its optimiser steps, with its seeds as replicates."""

    steps: int = Field(ge=0, description="of each training")
    seeds: int = Field(ge=0, description="number of trainings")
    per_doubling: Estimate | None = Field(description="per doubling of the steps; null where it is not known")
    twice: Estimate | None = Field(description="from the last step to twice as many; null: refusal says why")
    refusal: str | None


class MainEffect(Part):
    """The mean change from a setting's first value to another one, over all other settings of the grid."""

    setting: str
    first: Any
    other: Any
    runs: int = Field(ge=1, description="with the other value")
    change: Change


class Interaction(Part):
    """Whether the effect of one setting depends on another."""

    settings: tuple[str, str]
    p: Share | None
    p_adjusted: Share | None = Field(description="Holm's over the grid's pairs")


class Grid(Part):
    """What a grid says about its settings; exploratory."""

    experiment: str
    left_out: int = Field(ge=0, description="runs that are invalid, or ended without a report")
    runs: int
    effects: list[MainEffect]
    interactions: list[Interaction] = Field(description="pairs that could be tested, the smallest p first")
    refusal: str | None = Field(description="why there are no effects, or no tests of interactions")


class Method(Part):
    """The runs of a method."""

    runs: list[str] = Field(description="those that finished")
    invalid: dict[str, str] = Field(description="by run, which canary failed")
    lost: str | None = Field(description="what became of the seeds that ended without a report; null if none did")


class EndedRun(Part):
    """A run that ended without a report, and is no evidence."""

    name: str
    by: Literal["gate", "failure", "halving"] = Field(description="what ended it")
    reason: str


class StudyContent(Part):
    """results/study/VERSION/study.json: all methods of a study compared."""

    format: Literal[1]
    rule: str = Field(description="how it was decided, in words")
    primary: Literal["accuracy", "nll"]
    unit: str
    alpha: float = Field(gt=0, lt=1, description="of the family")
    baseline: str | None
    family: list[str] = Field(description="names of the confirmatory comparisons")
    margin: Share | None = Field(description="of equivalence, as a share; null where nobody asked")
    comparisons: list[ComparisonRow] = Field(description="the family's first")
    not_compared: list[str] = Field(description="as their likelihoods are of different kinds")
    choice: StatedChoice | None = Field(description="null where confirm.json has it, or of one method")
    curves: dict[str, Curve]
    steps: dict[str, Course] = Field(description="by method that has logged its validation NLL")
    grids: list[Grid]
    methods: dict[str, Method]
    ended: list[EndedRun]


class ConfirmContent(Part):
    """results/confirm/VERSION/confirm.json: the best method by validation answers, measured on the test questions."""

    format: Literal[1]
    rule: str
    choice: Choice
    label: str
    left_out: dict[str, str] = Field(description="by run, which canary failed, or what ended it without a report")
    comparison: ComparisonRow = Field(description="of the winner with the base")


class MemberContent(Part):
    """A run of a study."""

    name: str
    method: str = Field(description="the name without the seed")
    experiment: str = Field(description="from which grid, seeds and data sizes made it")
    seed: int
    data_size: int | None = Field(description="training rows by data_sizes; null for all")
    settings: dict[str, Any] = Field(description="those that differ, by dotted name; null where one has no meaning")
    folders: dict[str, str] = Field(description="version folders by name, in the order they are made; report is last")
    ended: str = Field(description="what ended it without a report, and why; empty if nothing did")
    decided: list[str] = Field(description="version folders of halve that decide whether it goes on")


class MembersContent(Part):
    """results/latest/members.json: the study as it was planned, also of runs that failed or have not begun."""

    format: Literal[1]
    runs: list[MemberContent]
    settings: list[str] = Field(description="dotted names of the settings that differ, those of grids first")
    named: list[str] = Field(description="methods of the family")
    baseline: str | None
    primary: Literal["accuracy", "nll"]
    study: str = Field(description="version folder of the stage study")
    confirm: str | None = Field(description="version folder of the stage confirm; null where there is none")


CONTENTS: dict[str, type[Part]] = {"study": StudyContent, "confirm": ConfirmContent, "members": MembersContent}


def study_schemas() -> dict[str, dict[str, Any]]:
    """Return the JSON schema of each file of a study, by the file's name without its ending."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {
        name: kind.model_json_schema() | dialect | {"title": f"dreamtune {name}.json, format 1"}
        for name, kind in CONTENTS.items()
    }
