"""The model repository: what may be uploaded, and where it is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from gateway.settings.models import read_size
from gateway.settings.section import Section

GIB = 1024**3
Size = Annotated[int, BeforeValidator(read_size), Field(ge=1024)]


class RepositorySettings(Section):
    """Models that callers upload. Sizes in bytes or as `20GiB`, times in seconds."""

    enabled: bool = Field(False, description="Take uploads. Otherwise every address of the repository answers 501.")
    directory: Path | None = Field(
        None, description="Where models are kept; replicas share it as a volume; default: `repository` in `state_dir`."
    )
    max_file_bytes: Size = Field(16 * GIB, description="Largest file of a model.")
    max_model_bytes: Size = Field(64 * GIB, description="Largest model, all its files together.")
    quota_bytes: Size = Field(
        128 * GIB, description="All models and everything that open uploads have announced, together."
    )
    max_uploads: int = Field(16, ge=1, le=10_000, description="Uploads that are open at once.")
    upload_ttl: float = Field(86_400.0, gt=0, description="Without a part for so long, an upload is thrown away.")
