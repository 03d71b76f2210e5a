"""The families of models that can be trained; a new one is a folder and a line here."""

from collections.abc import Mapping

from helpers.models.family import ModelFamily
from helpers.models.sd3.family import sd3_family

DEFAULT_FAMILY = "sd3"
"""The family that a run trains."""


def families() -> Mapping[str, ModelFamily]:
    """Every family by its name; costs no import beyond torch."""
    return {family.name: family for family in (sd3_family(),)}
