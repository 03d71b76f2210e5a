"""The families of models that can be trained; a new one is a folder and a line here."""

from collections.abc import Mapping

from helpers.models.family import ModelFamily
from helpers.models.sd3.family import sd3_family

DEFAULT_FAMILY = "sd3"
"""The family that a run trains."""

FAMILIES = (sd3_family,)


def families() -> Mapping[str, ModelFamily]:
    """Every family by its name; costs no import beyond torch."""
    return {family.name: family for family in (make() for make in FAMILIES)}


def default_family() -> ModelFamily:
    """The family that a run trains."""
    return families()[DEFAULT_FAMILY]
