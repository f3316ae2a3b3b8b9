"""The sweeper and the launchers of this project, registered with Hydra from code."""

from collections.abc import Callable, Sequence

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins


def register_plugins(compare: Callable[[Sequence[str]], None] | None = None) -> None:
    """Make Hydra know the plugins that configs/hydra names; call it before `hydra.main`.

    Args:
        compare: is given the runs' folders after a sweep of several, to print a table of them.
    """
    plugins = Plugins.instance()  # imports the installed plugins, which store their own presets
    # only now: the scan executes the module of the sweeper's base class a second time
    from bigain.experiments.ray_launcher import RayLauncher
    from bigain.experiments.sweeper import PACKAGES, ExperimentSweeper

    ExperimentSweeper.compare = staticmethod(compare) if compare else None
    for plugin in (ExperimentSweeper, RayLauncher):
        plugins.register(plugin)
        # Hydra instantiates only names that begin with hydra_plugins
        plugins.class_name_to_class[f"hydra_plugins.bigain.{plugin.__name__}"] = plugin
    # configs/hydra/launcher stands in for the presets of the same names, which Hydra would
    # otherwise merge into ours with a deprecation warning
    presets = ConfigStore.instance().repo["hydra"]["launcher"]
    for launcher in PACKAGES:
        presets.pop(f"{launcher}.yaml", None)
