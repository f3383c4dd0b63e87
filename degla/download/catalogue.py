"""The addresses of data sets, read from a YAML file and checked against a schema.

Imports no torch.
"""

import difflib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote, urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from degla.errors import ConfigError

ADDRESSES = Path(__file__).parent / "addresses.yaml"


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if PurePosixPath(path).is_absolute() or ".." in parts or "\\" in path:
        raise ValueError("must be a path below data_dir")
    return path


def _web(url: str) -> str:
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise ValueError("must begin with http:// or https://")
    return url


RelativePath = Annotated[str, AfterValidator(_inside)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RemoteFile(_Strict):
    """One file to download, and how to unpack it."""

    url: Annotated[str, AfterValidator(_web)]
    to: RelativePath  # folder below data_dir
    name: RelativePath | None = None  # null: the last part of the address
    size: int | None = Field(None, ge=0)  # bytes, for the list and the disk check; the server's size takes precedence
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None  # null: recorded at the first download
    md5: Annotated[str, Field(pattern="^[0-9a-f]{32}$")] | None = None  # where only this is published
    unpack: Literal["zip", "tar"] | None = None
    strip: bool = False  # leave out the one folder at the top of the archive
    folder: RelativePath | None = None  # exists after unpacking
    num_files: int | None = Field(None, ge=1)  # files in `folder`; null: recorded after the first unpacking

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if bool(self.unpack) != bool(self.folder):
            raise ValueError("`unpack` and `folder` go together")
        if not self.file_name:
            raise ValueError("the address has no file name: set `name`")
        return self

    @property
    def file_name(self) -> str:
        """Name under which the file is kept."""
        return self.name or unquote(PurePosixPath(urlsplit(self.url).path).name)

    @property
    def target(self) -> str:
        """Path below ``data_dir`` whose existence shows that the file has been downloaded."""
        return self.folder or str(PurePosixPath(self.to) / self.file_name)


class DataSet(_Strict):
    """A data set, with its licence and where it comes from."""

    title: str
    licence: str
    source: Annotated[str, AfterValidator(_web)]
    files: tuple[RemoteFile, ...] = ()
    by_hand: str | None = None  # instructions, for data that no program may download
    expects: tuple[RelativePath, ...] = ()  # files or folders whose existence shows that this was done
    note: str | None = None  # the setting that reads it, if not the default

    @model_validator(mode="after")
    def _has_source(self) -> Self:
        if not self.files and not self.by_hand:
            raise ValueError("needs `files` or `by_hand`")
        return self

    @property
    def size(self) -> int:
        """Bytes to download, as far as they are known."""
        return sum(file.size or 0 for file in self.files)


class Catalogue(_Strict):
    """All data sets by name, and which of them each recipe and benchmark reads."""

    data_sets: dict[str, DataSet]
    uses: dict[str, tuple[str, ...]]

    @model_validator(mode="after")
    def _uses_exist(self) -> Self:
        for use, names in self.uses.items():
            if unknown := set(names) - set(self.data_sets):
                raise ValueError(f"`uses.{use}` names {', '.join(sorted(unknown))}, which is not in `data_sets`")
        return self

    def users(self, name: str) -> list[str]:
        """Return the recipes and benchmarks that read a data set.

        Args:
            name: of the data set.
        """
        return [use for use, names in self.uses.items() if name in names]

    def choose(self, names: Iterable[str]) -> list[str]:
        """Return the names of data sets, where ``names`` may also hold recipes, benchmarks and ``all``.

        Args:
            names: what the user asked for.

        Raises:
            ConfigError: a name is unknown.
        """
        chosen: dict[str, None] = {}
        for name in names:
            if name == "all":
                chosen |= dict.fromkeys(self.data_sets)
            elif name in self.data_sets:
                chosen[name] = None
            elif uses := [use for use in self.uses if name in (use, use.partition("=")[2])]:
                chosen |= dict.fromkeys(item for use in uses for item in self.uses[use])
            else:
                known = [*self.data_sets, *(use.partition("=")[2] for use in self.uses)]
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {close[0]}?" if close else "degla-data without get lists the names"
                raise ConfigError(f"get: there is no data set {name}: {hint}")
        return list(chosen)


def read_catalogue(path: Path = ADDRESSES) -> Catalogue:
    """Read a file of addresses.

    Args:
        path: the YAML file; the default comes with the package.

    Raises:
        ConfigError: it cannot be read, or does not follow the schema.
    """
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Catalogue.model_validate(content)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"addresses: {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"addresses: {path} is not YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise ConfigError(f"addresses: {path}: {place}: {first['msg'].removeprefix('Value error, ')}") from error
