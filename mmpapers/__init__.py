"""Published vision methods as registered components of OpenMMLab's toolboxes.

Importing this package is cheap and changes nothing: no torch, no toolbox, no patch. Components are found by name
(``type='mmpapers.TTFNet'``) through :mod:`mmpapers.registry`.
"""

__version__ = '0.1.0'
