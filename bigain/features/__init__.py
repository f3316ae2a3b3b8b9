"""Networks that describe images by vectors, for the metrics of generated images.

Networks whose libraries are slow to import must be imported from their own modules.
"""

import bigain.utils.experiments_extra  # noqa: F401 (first, as it says what to install)

# isort: split
from bigain.features.base import FeatureNetwork, Features, extract
from bigain.features.fashion import FashionFeatures

__all__ = ["FashionFeatures", "FeatureNetwork", "Features", "extract"]
