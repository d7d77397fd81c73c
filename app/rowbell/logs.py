"""Logs are events with fields: `log.info("bundle_undeliverable", gateway=..., changes=3)`.

They are JSON lines on standard error, or coloured lines on a terminal. Tokens and bodies are never logged.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

from rowbell.config import Settings


def configure(settings: Settings) -> None:
    """Configure logging for this process; call once, at startup. Records of `logging` are rendered the same way."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    console = settings.log_format == "console" or (settings.log_format == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Any = _console() if console else structlog.processors.JSONRenderer()
    tail = [] if console else [structlog.processors.format_exc_info]
    structlog.configure(
        processors=[_name_logger, *shared, *tail, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *tail, renderer],
        )
    )
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)


def _console() -> structlog.dev.ConsoleRenderer:
    # The default traceback formatter prints the local variables of every frame, and so tokens.
    return structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)


def get_logger(name: str) -> Any:
    """Return the logger of one module: `log = get_logger("gateway.sweep")`."""
    return structlog.get_logger(logger_name=name)


def _name_logger(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Rename `logger_name` to `logger`, as for records of `logging`; structlog reserves the argument `logger`."""
    event["logger"] = event.pop("logger_name", None)
    return event
