"""Rows in another order, with room between them: one pass each way, and no sums in backward."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Order(NamedTuple):
    """Where n rows go among m ≥ n places.

    Attributes:
        source: The row at each place, (m,); any row where it stays empty.
        places: The place of each row, (n,).
        empty: The places without a row, (m - n,).
    """

    source: Tensor
    places: Tensor
    empty: Tensor


def order_of(numbers: Tensor, count: int) -> Order:
    """Return the order in which rows 1 to ``count`` stand at places, of any shape, which hold 0 where there is none."""
    numbers = numbers.flatten()  # m
    places = numbers.argsort()  # m: those without a row first
    empty = len(numbers) - count
    return Order((numbers - 1).clamp_(min=0), places[empty:], places[:empty])


def place_rows(rows: Tensor, order: Order) -> Tensor:
    """Put rows to their places, zeros between: (n, C) -> (m, C)."""
    return _Rows.apply(rows, True, *order)


def collect_rows(placed: Tensor, order: Order) -> Tensor:
    """Take rows from their places: (m, C) -> (n, C)."""
    return _Rows.apply(placed, False, *order)


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, placing: bool, *order: Tensor) -> Tensor:
        source, places, empty = order
        if not placing:
            return x.index_select(0, places)  # n, C
        placed = x.index_select(0, source)  # m, C
        return placed.index_fill_(0, empty, 0) if len(empty) else placed

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.placing = inputs[1]
        ctx.save_for_backward(*inputs[2:])
        ctx.save_for_forward(*inputs[2:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _Rows.apply(grad, not ctx.placing, *ctx.saved_tensors), None, None, None, None

    @staticmethod
    def jvp(ctx: Any, x_t: Tensor, *others: None) -> Tensor:
        return _Rows.apply(x_t, ctx.placing, *ctx.saved_tensors)
