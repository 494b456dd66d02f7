"""The beginning of a program that tells which functions its process compiles."""

LISTENING = """
from numba.core import event

compiled = []  # names, in the order in which they are begun

class Listener(event.Listener):
    def on_start(self, happened):
        compiled.append(happened.data["dispatcher"].py_func.__name__)

    def on_end(self, happened):
        pass

event.register("numba:compile", Listener())
"""
