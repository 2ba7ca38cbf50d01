"""Where may the Optuna study of a search lie?"""

import os
import re

from pydantic import BaseModel, ConfigDict, Field, field_validator

from kdnas_ray.postgres import check_address, is_postgres
from search_spaces.errors import KdnasError

VARIABLE = re.compile(r"env:([A-Za-z_]\w*)")
WRITTEN = "postgresql://user@host:5432/database, or env:NAME for an address in the variable NAME"


class StudySettings(BaseModel):
    """The Optuna study: a file of the run folder, or in a database, where several searches can share it."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    url: str | None = None
    """postgresql://user@host/database without password, or env:NAME of a variable; null for a file of the run."""
    name: str | None = None
    """Searches that name the same study learn from each other; null for a study of its own."""
    patience_s: float = Field(300, ge=0)
    """Seconds that the database may be away before the search ends, to be resumed."""

    @field_validator("url")
    @classmethod
    def _without_password(cls, url: str | None) -> str | None:
        if url is None or VARIABLE.fullmatch(url):
            return url
        if not is_postgres(url):  # not shown: libpq's other way to write one, `host=… password=…`, may be meant
            raise KdnasError("is no address of a PostgreSQL database", field="study.url", remedy=f"write {WRITTEN}")
        check_address(url, "study.url", "study.url=env:NAME and the whole address as that variable")
        return url

    @field_validator("name")
    @classmethod
    def _some_name(cls, name: str | None) -> str | None:
        if name is not None and not (name.strip() and name.isprintable() and len(name) <= 200):
            raise ValueError("give a name of at most 200 signs, or null")
        return name

    def address(self) -> str:
        """The database's address, with the password where the variable that `url` names holds one.

        Raises:
            KdnasError: there is no such variable, or it holds no such address.
        """
        assert self.url is not None, "a study in the run folder has no address"
        variable = VARIABLE.fullmatch(self.url)
        if variable is None:
            return self.url
        found = os.environ.get(variable[1], "")
        if not is_postgres(found):
            problem = "holds no address of a PostgreSQL database" if found else "is not set"
            raise KdnasError(
                f"the variable {problem}",
                field="study.url",
                value=self.url,
                remedy=f"export {variable[1]}=postgresql://user:password@host:5432/database",
            )
        return found
