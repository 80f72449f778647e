"""The stack on which this thread's signal handlers run, sigaltstack(2)."""

import ctypes

_LIBC = ctypes.CDLL(None)


class SignalStack(ctypes.Structure):
    """stack_t."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def get() -> SignalStack:
    stack = SignalStack()
    assert _LIBC.sigaltstack(None, ctypes.byref(stack)) == 0
    return stack


def put(stack: SignalStack) -> None:
    assert _LIBC.sigaltstack(ctypes.byref(stack), None) == 0
