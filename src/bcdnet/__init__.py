"""bcdnet: build, train, understand and deploy accurate binary neural networks for images.

Importing the package is cheap: no torch. When timm is imported, before or after, the models are registered with it.
"""

from bcdnet import _timm_hook

__version__ = "0.1.0"

_timm_hook.install()
