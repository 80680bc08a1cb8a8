"""Every model component by plain import: ``from mmpapers.models import TTFNet``.

Nothing is listed here: names come from the registry's index of the sources, and a module is imported when one of its
names is.
"""

from mmpapers import registry as _registry


def __getattr__(name: str) -> type:
    if name.startswith('_'):
        raise AttributeError(name)
    try:
        return _registry.load('MODELS', name)
    except KeyError as error:
        raise AttributeError(error.args[0]) from None


def __dir__() -> list[str]:
    return sorted(name for symbol, name in _registry.index() if symbol == 'MODELS')
