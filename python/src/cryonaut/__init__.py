"""For programs that take part in their own checkpoints by Cryonaut.

No program needs this to be checkpointed. One that uses it is told of checkpoints, can put them off or refuse them, can leave memory
and descriptors out of the image, and can ask for a checkpoint of itself::

    import cryonaut

    @cryonaut.callback("cache")
    def around(event):
        if event is cryonaut.Event.CHECKPOINT:
            cache.clear()

    with cryonaut.critical_section():
        ...                                   # no checkpoint begins here

    life = cryonaut.checkpoint("state.cryo")  # 0 in this life, 1, 2, ... in restarted ones

All of it works without the library libcryo, too, and nothing happens then: ``checkpoint`` raises FileNotFoundError. The library is
looked for as libcryo.so.0, or where CRYONAUT_LIBCRYO in the environment says. What each function promises is documented in cryo.h.
"""

import atexit
import contextlib
import ctypes
import enum
import errno
import os

__all__ = [
    "Event", "Later", "LeaveOut", "Never", "callback", "checkpoint", "critical_section", "exclude", "generation", "include", "job",
    "keep", "register", "reopen", "unregister",
]


class Event(enum.IntEnum):
    """What a callback is told."""

    CHECKPOINT = 1  #: a checkpoint is about to be made: get ready
    CONTINUE = 2  #: it was made, and the same life goes on
    RESTART = 3  #: this is a new life, which begins where the checkpoint was made
    ABANDONED = 4  #: there is no checkpoint; the same life goes on


class Later(Exception):
    """Raised by a callback that is told of a checkpoint: not now, for this reason."""


class Never(Exception):
    """Raised by a callback that is told of a checkpoint: never, for this reason."""


class LeaveOut(Exception):
    """Raised by a callback that is told of a checkpoint: make it without this process."""


_FUNCTION = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p)
_ARGUMENTS = {
    "cryo_register": [ctypes.c_char_p, _FUNCTION, ctypes.c_void_p, ctypes.c_int],
    "cryo_unregister": [ctypes.c_int],
    "cryo_reason": [ctypes.c_char_p],
    "cryo_enter": [],
    "cryo_leave": [],
    "cryo_exclude": [ctypes.c_void_p, ctypes.c_size_t],
    "cryo_include": [ctypes.c_void_p, ctypes.c_size_t],
    "cryo_reopen": [ctypes.c_int],
    "cryo_keep": [ctypes.c_int],
    "cryo_generation": [],
    "cryo_checkpoint": [ctypes.c_char_p],
}


def _load():
    try:
        library = ctypes.CDLL(os.environ.get("CRYONAUT_LIBCRYO", "libcryo.so.0"), use_errno=True)
    except OSError:
        return None
    for name, arguments in _ARGUMENTS.items():
        function = getattr(library, name)
        function.argtypes = arguments
        function.restype = ctypes.c_int
    return library


_library = _load()
# What C calls must not be collected.
_functions = {}
# Nor in a child after fork what its parent had, as the child may have been born in the middle of a call.
_inherited = []


def _call(name, *arguments):
    if _library is None:
        return 0
    result = getattr(_library, name)(*arguments)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def _answer(function, event):
    try:
        function(Event(event))
        return 0
    except LeaveOut:
        return 3
    except Later as later:
        answer, reason = 1, str(later)
    except Never as never:
        answer, reason = 2, str(never)
    except BaseException as error:  # whatever it is, the program was not made ready
        answer, reason = 2, f"{type(error).__name__}: {error}"
    _library.cryo_reason(reason.encode(errors="replace").replace(b"\0", b"?"))
    return answer


def register(name, function):
    """Calls function(event) around checkpoints, in a thread of the library; gives a number for unregister. To refuse a checkpoint it
    raises Later, Never or LeaveOut when it is told Event.CHECKPOINT; any other exception then counts as Never."""
    wrapped = _FUNCTION(lambda event, _: _answer(function, event))
    number = _call("cryo_register", os.fsencode(name), wrapped, None, 1)
    _functions[number] = wrapped
    return number


def unregister(number):
    """Takes a callback away."""
    _call("cryo_unregister", number)
    _functions.pop(number, None)


def _begin_again():
    """In a child after fork, which takes part in nothing yet."""
    _inherited.append(_functions.copy())
    _functions.clear()


def _unregister_all():
    """At the end of the program: Python is about to be taken apart, and could answer nothing any more."""
    for number in list(_functions):
        with contextlib.suppress(OSError):
            unregister(number)


os.register_at_fork(after_in_child=_begin_again)
atexit.register(_unregister_all)


def callback(name):
    """Registers the function that follows: ``@callback("cache")``."""

    def decorate(function):
        register(name, function)
        return function

    return decorate


@contextlib.contextmanager
def critical_section():
    """No checkpoint begins before this block is left, by this thread."""
    _call("cryo_enter")
    try:
        yield
    finally:
        _call("cryo_leave")


def _range(memory):
    shape = getattr(memory, "__array_interface__", None)
    if shape is not None:
        if not memory.flags["C_CONTIGUOUS"] and not memory.flags["F_CONTIGUOUS"]:
            raise ValueError("the array does not lie in one piece")
        return shape["data"][0], memory.nbytes
    view = memoryview(memory)
    return ctypes.addressof(ctypes.c_char.from_buffer(view)), view.nbytes


def exclude(memory):
    """Leaves the whole pages of a numpy array, or of any writable buffer, out of images: they are zero in a restarted life. Take it
    back with include before the memory is freed."""
    _call("cryo_exclude", *_range(memory))


def include(memory):
    """Takes back what exclude said of the same memory."""
    _call("cryo_include", *_range(memory))


def _number(descriptor):
    return descriptor if isinstance(descriptor, int) else descriptor.fileno()


def reopen(descriptor):
    """Says that the program opens this descriptor (a number, or what has a fileno) again itself: a restarted life finds it closed."""
    _call("cryo_reopen", _number(descriptor))


def keep(descriptor):
    """Takes back what reopen said."""
    _call("cryo_keep", _number(descriptor))


def checkpoint(path):
    """Has cryo make a checkpoint of this process and its descendants into a file. Gives 0 in the life that asked, and the generation
    in a restarted one; callbacks have run by then. Raises OSError: ECANCELED when cryo refused, and has said why."""
    if _library is None:
        raise FileNotFoundError(errno.ENOENT, "libcryo is not installed", "libcryo.so.0")
    return _call("cryo_checkpoint", os.fsencode(path))


def generation():
    """How many times this program was restarted since it first used the library: 0 in its first life."""
    return _call("cryo_generation")


def job():
    """The name of the job that ``cryo run`` started this program in; None otherwise."""
    return os.environ.get("CRYO_JOB") or None
