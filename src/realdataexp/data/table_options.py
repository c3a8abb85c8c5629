"""Which files and columns one's own data are in: the block `dataset.tables`."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator

from realdataexp.options import Names, Options, PathText, Text, repeated


class TablesConfig(Options):
    """Files and columns of one's own data (`dataset.name: tables`); paths are within its folder."""

    log: Annotated[tuple[PathText, ...], Field(strict=False, min_length=1)] = Field(
        description="the log's files, .parquet or .csv; or folders of such parts, or patterns"
    )
    videos: PathText = Field(description="file with a row for each video, .parquet or .csv")
    users: PathText | None = Field(
        None, description="file with a row for each user; null: users have no features"
    )
    user_id: Text = Field("user_id", description="column of the user, in the log and in users")
    video_id: Text = Field(
        "video_id",
        validate_default=True,
        description="column of the video, in the log and in videos",
    )
    time: Text = Field(
        "time",
        validate_default=True,
        description="column of the log: a number, or an ISO date and time",
    )
    early_before: int | float | Text | None = Field(
        None, description="rows of an earlier time are the early log; null: there is none"
    )
    lists: Names = Field(
        (), description="categorical features whose texts hold several categories, as a,b,c"
    )

    @field_validator("early_before", mode="before")
    @classmethod
    def _date_as_text(cls, value: Any) -> Any:
        return value.isoformat() if isinstance(value, date) else value  # YAML reads dates

    @field_validator("video_id", "time")
    @classmethod
    def _columns_of_their_own(cls, name: str, info: ValidationInfo) -> str:
        for other in ("user_id", "video_id"):
            if info.field_name != other and name == info.data.get(other):
                raise ValueError(f"is {other} too: name the column of each")
        return name

    @field_validator("log", "lists")
    @classmethod
    def _no_name_twice(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if twice := repeated(names):
            raise ValueError(f"each name once: remove the second {', '.join(twice)}")
        return names
