"""Lines that libraries write again and again, and that say nothing to do: left out of the log."""

from __future__ import annotations

import logging

# the logger of a module -> how the line begins
_KNOWN = {
    # at each product with 8-bit weights: 15,000 lines for a page of text
    "bitsandbytes.autograd._functions": "MatMul8bitLt: inputs will be cast",
    # at each import on a CPU that could use a package nothing here needs
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",
}


class _WithoutLine(logging.Filter):
    def __init__(self, start: str) -> None:
        super().__init__()
        self.start = start

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(self.start)


def quiet_libraries() -> None:
    """Leave those lines out from now on."""
    for name, start in _KNOWN.items():
        logger = logging.getLogger(name)
        if not any(isinstance(each, _WithoutLine) for each in logger.filters):
            logger.addFilter(_WithoutLine(start))
