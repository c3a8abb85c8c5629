"""The section dataset: what stands beside the name, its world says (`worlds.base.WorldConfig`)."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, ClassVar, Union

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from realdataexp.errors import InputError
from realdataexp.options import Fault, NestedFaults, Options, PathText, faults_of, of_value
from realdataexp.registry import calling, find, is_outside, names

_BASE = "realdataexp.worlds.base:WorldConfig"


class DatasetConfig(Options):
    """Where the logs come from."""

    takes_features: ClassVar[bool] = False
    has_folder: ClassVar[bool] = False

    name: Annotated[str, AfterValidator(lambda name: world_named(name) and name)] = Field(
        description=f"the data set: one of {', '.join(names('world'))} (tables: one's own), or "
        "package.module:Name"
    )
    path: PathText | None = Field(None, description="folder with the files; none for synthetic")
    cache_path: PathText | None = Field(
        None, description="folder of the imported data; null: the user's cache folder"
    )

    @field_validator("path")
    @classmethod
    def _no_folder_without_files(cls, path: str | None, info: ValidationInfo) -> str | None:
        if path is not None and not cls.has_folder and "name" in info.data:
            name = info.data["name"]
            raise ValueError(f"the data set {name} is generated and has no folder: leave it out")
        return path

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return handler(
            any_dataset().__pydantic_core_schema__ if cls is DatasetConfig else core_schema
        )


class _Nameless(DatasetConfig):
    """A section whose name is missing or wrong, so that nobody knows its other keys."""

    model_config = ConfigDict(extra="ignore")


def world_named(name: Any) -> type[DatasetConfig]:
    """The class of the world that a config names.

    Raises:
        ValueError: there is none, or it is something else.
    """
    if name not in names("world") and not (isinstance(name, str) and is_outside(name)):
        known = ", ".join(names("world"))
        raise ValueError(f"must be one of {known}, or package.module:Name (the data set)")
    where = "dataset.name"
    try:
        world, base = find("world", name, where), find("world", _BASE, where)
    except InputError as error:
        raise ValueError(str(error).removeprefix(f"{where} = {name!r}: ")) from error
    if not (isinstance(world, type) and issubclass(world, base)):
        found = world.__name__ if isinstance(world, type) else f"a {type(world).__name__}"
        raise ValueError(f"must be a subclass of realdataexp.worlds.WorldConfig, not {found}")
    return world


def takes_features(values: Any) -> bool:
    """Whether the world of a section that may be faulty takes features, as far as is known."""
    name = values.get("name") if isinstance(values, dict) else None
    try:
        return world_named(name).takes_features
    except ValueError:
        return not (isinstance(name, str) and is_outside(name))


def dataset_of(values: Any) -> Any:
    """A section dataset, checked by the world that it names; anything else as it is.

    Raises:
        NestedFaults: with all that is wrong.
    """
    if not isinstance(values, dict):
        return values
    name, own = values.get("name"), dict(values)
    faults: list[Fault] = []
    try:
        world = world_named(name)
    except ValueError:
        world = _Nameless  # whose name is reported with the other faults
    for key, setting in values.items():
        field = world.model_fields.get(key)
        if field is None and world is not _Nameless and (other := _foreign(key)) is not None:
            del own[key]
            if not _is_unset(setting, other):
                said = f"has no effect on the data set {name}: leave it out"
                faults.append(((key,), of_value(setting, said)))
        elif field is not None and setting is None and isinstance(field.default, Options):
            del own[key]
    made = None
    with calling(f"dataset.name = {name!r}", "its options", InputError):
        try:
            made = world.model_validate(own)
        except ValidationError as error:
            faults += faults_of(error, world)
    if faults:
        raise NestedFaults(faults)
    return made


def _foreign(key: Any) -> FieldInfo | None:
    """The setting of this name of any other world of the package."""
    return any_dataset().model_fields.get(key)


def _is_unset(setting: Any, field: FieldInfo) -> bool:
    """Whether a key of another world says nothing: resolved configs used to list them all."""
    setting = tuple(setting) if isinstance(setting, list) else setting
    is_same = setting == field.default and isinstance(setting, bool) is (field.annotation is bool)
    return setting is None or is_same


@cache
def any_dataset() -> type[BaseModel]:
    """The section of whatever world, with the keys of all that the package has."""
    fields: dict[str, Any] = {}
    for name in names("world"):
        for key, field in world_named(name).model_fields.items():
            known, first = fields.get(key, (field.annotation, field))
            fields[key] = (Union[known, field.annotation], first)  # noqa: UP007
    return create_model(
        "DatasetConfig",
        __config__=ConfigDict(extra="allow"),
        __doc__=DatasetConfig.__doc__,
        **fields,
    )
