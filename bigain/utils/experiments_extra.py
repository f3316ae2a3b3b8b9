"""Import this module before what only the extra ``experiments`` of pyproject.toml installs.

Raises:
    NotInstalledError: if it is not installed. Hydra stands for all of its packages.
"""

from importlib.util import find_spec

from bigain.errors import NotInstalledError

if find_spec("hydra") is None:
    raise NotInstalledError
