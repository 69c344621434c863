"""Lets `import timm` work in this environment whatever is imported first; see sparsight._torchvision."""

import sys
from importlib.abc import MetaPathFinder


class _BeforeTorchvision(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            from sparsight._torchvision import repair

            repair()
        return None


sys.meta_path.insert(0, _BeforeTorchvision())
