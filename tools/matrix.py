"""Says where this command has gone."""

from _moved import refuse

refuse(__file__)
