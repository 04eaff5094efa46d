"""The few lines of code that an equation is, for notebooks: shown from the source, never copied."""

import inspect
import re
import textwrap
from collections.abc import Callable


def source_of(*functions: Callable) -> str:
    """The sources of functions or methods without their docstrings, one below the other."""
    texts = (textwrap.dedent(inspect.getsource(function)) for function in functions)
    return "\n".join(re.sub(r'^ +""".*?"""\n', "", text, count=1, flags=re.DOTALL | re.MULTILINE) for text in texts)
