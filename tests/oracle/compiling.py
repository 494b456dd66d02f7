"""What is compiled: by a process, and into a kernel."""

import re
from typing import Any, Final

# The beginning of a program that tells which functions its process compiles.
LISTENING: Final = """
from numba.core import event

compiled = []  # names, in the order in which they are begun

class Listener(event.Listener):
    def on_start(self, happened):
        compiled.append(happened.data["dispatcher"].py_func.__name__)

    def on_end(self, happened):
        pass

event.register("numba:compile", Listener())
"""


def object_code(kernel: Any) -> bytes:
    """What the cache keeps of a kernel that has been called with one kind of arguments."""
    (signature,), (compiled,) = kernel.overloads, kernel.overloads.values()
    key = kernel._cache._index_key(signature, compiled.library.codegen)
    (_, kind, (code, _)), *_ = kernel._cache._cache_file.load(key)
    assert kind == "object"
    return code


# Names in object code end with a zero; whatever is called is among them.
_OF_LIBRARY: Final = rb"(?:exp|expm1|exp2|log|log1p|log2|tanh|erf|erfc|pow|ldexp)f?\0"


def called_of_the_library(kernel: Any) -> list[bytes]:
    """The functions of C's mathematical library that a kernel calls."""
    return sorted(name[:-1] for name in re.findall(_OF_LIBRARY, object_code(kernel)))
