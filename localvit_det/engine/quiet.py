"""Keeps what nobody reads off the screen; the log file has it all."""

import logging

_NOISE = (
    "paramwise_options --",  # a line for each parameter
    "Hooks will be executed in the following order",
    "Config:\n",
)


class ScreenFilter(logging.Filter):
    """Drops MMEngine's long lists: settings of each parameter, order of hooks, the whole config, build flags."""

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
