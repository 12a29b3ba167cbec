"""What is wrong with a stream, or with what should become one."""

from tvm_spm.errors import SpmError


class StreamError(SpmError):
    """A mapping that the instructions cannot express, a damaged stream, or a memory image that does not fit it."""
