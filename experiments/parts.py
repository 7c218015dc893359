"""All tables and figures that `make paper` makes and `paper_page` shows."""

from typing import NamedTuple

from experiments import (
    figure3,
    figure4,
    figure5,
    figure8,
    figure9,
    learned_scales,
    moving_digits,
    question_beta,
    question_calibrated,
    question_collapse,
    question_learned_sigma,
    question_other_weights,
    question_test_sigma,
    table1,
    table2_svhn,
    table3,
    table4,
    table5,
)
from experiments.paper_figure import Figure
from experiments.report import Table


class Part(NamedTuple):
    """A table or figure, at the length at which `make paper` makes it."""

    shows: Table | Figure
    module: str  # of `experiments`
    epochs: int = 10
    most_seeds: int = 100
    fraction: float = 1.0  # of the training images
    flags: tuple[str, ...] = ()


PARTS = (
    Part(table4.table("frey-face"), "table4", epochs=80, flags=("--column", "frey-face")),
    Part(table1.TABLE, "table1"),
    Part(table2_svhn.TABLE, "table2_svhn"),
    Part(figure3.FIGURE, "figure3"),
    Part(figure4.FIGURE, "figure4"),
    Part(figure5.FIGURE, "figure5", most_seeds=1),
    Part(figure9.FIGURE, "figure9", most_seeds=1),
    Part(learned_scales.TABLE, "learned_scales"),
    Part(table3.TABLE, "table3", epochs=7, most_seeds=2),
    Part(table5.TABLE, "table5"),
    Part(table4.table("cifar10"), "table4", flags=("--column", "cifar10")),
    Part(figure8.FIGURE, "figure8", most_seeds=1),
    Part(moving_digits.TABLE, "moving_digits", epochs=2, most_seeds=1),
    Part(question_beta.FIGURE, "question_beta"),
    Part(question_test_sigma.FIGURE, "question_test_sigma", fraction=0.9),
    Part(question_collapse.FIGURE, "question_collapse"),
    Part(question_calibrated.FIGURE, "question_calibrated"),
    Part(question_other_weights.FIGURE, "question_other_weights"),
    Part(question_learned_sigma.FIGURE, "question_learned_sigma", epochs=60),
)
