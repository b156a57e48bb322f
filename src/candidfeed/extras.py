"""Packages that only some commands need: imported when asked for, and missed in plain words."""

import importlib
from types import ModuleType

from candidfeed.errors import ConfigError


def import_extra(package: str, *, extra: str) -> ModuleType:
    """The package, which comes with `candidfeed[extra]`.

    Raises:
        ConfigError: it is not installed, or a library of the system that it needs is missing.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{error.name} is not installed; install it with: pip install 'candidfeed[{extra}]'"
        ) from error
    except (ImportError, OSError) as error:
        # LightGBM's wheel leaves OpenMP to the system.
        hint = "; install libgomp1 (or your system's OpenMP)" if "gomp" in str(error) else ""
        raise ConfigError(f"{package} is installed but can't be loaded ({error}){hint}") from error
