"""The figure that a function saves, to look at what it draws."""

from unittest import mock

from matplotlib.figure import Figure

from calibrax.evaluation.figures import _style


def figure_of(save, *args, **options):
    """`save(path, *args, **options)` without a file: its matplotlib figure."""
    with (
        mock.patch.object(_style, "write_whole", lambda path, write: write(path)),
        mock.patch.object(Figure, "savefig", autospec=True) as savefig,
    ):
        save("figure.png", *args, **options)
    figure = savefig.call_args.args[0]
    figure.draw_without_rendering()
    return figure
