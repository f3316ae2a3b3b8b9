"""Lets configs/hydra/launcher stand in for the plugins' own configs of the same names."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.plugins.search_path_plugin import SearchPathPlugin


class LauncherPresets(SearchPathPlugin):
    """Hydra would merge ours into theirs by name, with a warning that it soon will not."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        theirs = ConfigStore.instance().repo["hydra"]["launcher"]
        for name in ("joblib", "ray", "submitit_local", "submitit_slurm"):
            theirs.pop(f"{name}.yaml", None)
