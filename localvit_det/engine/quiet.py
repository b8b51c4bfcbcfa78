"""Keeps what nobody reads off the screen; the log file has it all."""

import logging

_NOISE = (
    "paramwise_options --",  # a line for each parameter
    "Hooks will be executed in the following order",
    "Config:\n",
    # of MMEngine to itself
    '"FileClient" will be deprecated',
    '"HardDiskBackend" is the alias',
    "Distributed training is not used, all SyncBatchNorm",
)


class ScreenFilter(logging.Filter):
    """Drops MMEngine's long lists (settings of each parameter, hooks, config, build flags) and what it tells itself."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is shown."""
        message = record.getMessage()
        return not message.startswith(_NOISE) and "\nSystem environment:" not in message


def quiet_screen(logger: logging.Logger) -> None:
    """Adds the filter to the handlers that write to the screen."""
    for handler in logger.handlers:
        on_screen = type(handler) is logging.StreamHandler
        if on_screen and not any(isinstance(one, ScreenFilter) for one in handler.filters):
            handler.addFilter(ScreenFilter())
