"""The command line: `calibrax train | evaluate | sample | compare | report | data | models`.

A user's mistake is reported in one line on stderr, with exit code 2. After Ctrl-C, everything is saved and the exit
code is 130.
"""

import contextlib
import dataclasses
import io
import itertools
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

T = TypeVar("T")
AUTHOR = "The calibrax developers"  # as in pyproject.toml: the project of this name on the package index has another
COLLAPSE_VALUES = 2**25  # of pixels: 14,266 images of 28×28×3, a second and 128 MiB


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Measure a run's newest checkpoint: likelihood, calibration, information, FID; results.json and two figures."""

    run: str
    """The run's folder."""
    data: str | None = None
    """Where the file or folder of images is now, if it was moved."""
    data_dir: str | None = None
    """Where prepared data and original files are now, if they were moved."""
    calibrate_on: Literal["train", "validation"] = "train"
    """What the column "calibrated" is computed on: the training images, or validation images. Where the data set has no
    validation split, those are the training images that --fraction left out."""


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """Put finished runs side by side: a table of their results, and their curves in one figure."""

    runs: tuple[str, ...]
    """The runs' folders."""
    out: str | None = None
    """The figure, .png or .svg (default: comparison.png here)."""
    data: str | None = None
    """Refuse runs that were not begun on this data."""


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """Write a page on a run, or on several side by side: one HTML file that needs no network."""

    runs: tuple[str, ...]
    """The runs' folders."""
    out: str | None = None
    """The page, .html (default: report.html in the folder of a single run, here for several)."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Find or download a data set, prepare it, and say what is in it."""

    source: str
    """What to load."""
    data_dir: str | None = None
    """The folder of prepared data and original files (default: TFDS_DATA_DIR if set, or ~/tensorflow_datasets)."""
    image_size: int | None = None
    """Resize to this height and width."""
    picture: str | None = None
    """Also write a grid of training images, or a film strip of training videos, to this PNG."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if mixed := mixed_installations():
        fail(mixed)
    commands = {
        "train": (train, "train a VAE with a calibrated decoder"),
        "evaluate": (evaluate, "measure a run on its test images: likelihood, calibration, information, FID"),
        "sample": (sample, "draw images from a run"),
        "compare": (compare, "put finished runs side by side, in a table and a figure"),
        "report": (report, "write a page on a run, or on several side by side"),
        "data": (data, "find, prepare and describe a data set"),
        "models": (models, "list model presets and likelihoods"),
    }
    if not argv or argv[0] in ("-h", "--help"):
        lines = [f"  {name:<10}{summary}" for name, (_, summary) in commands.items()]
        print("\n".join(["usage: calibrax COMMAND [options]; calibrax COMMAND --help lists them", "", *lines]))
        return 0 if argv else 2
    if argv[0] == "--version":
        import calibrax

        print(f"calibrax {calibrax.__version__}")
        return 0
    if argv[0] not in commands:
        return fail(f"unknown command {argv[0]!r}; expected one of {', '.join(commands)}")
    return guarded(lambda: commands[argv[0]][0](argv[1:]))


def mixed_installations() -> str | None:
    """One line if another project of this name is installed too, or this one twice in one folder; otherwise None."""
    import importlib.metadata

    ours, others = {}, {}  # version by folder and metadata, because a folder may be on the path twice
    for distribution in importlib.metadata.distributions(name="calibrax"):
        text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO")
        if text is not None:  # otherwise the folder is what an uninstallation left
            kind = ours if f"Author: {AUTHOR}" in text.splitlines() else others
            kind[str(distribution.locate_file("")), text] = distribution.version
    if not others and len(ours) == len({folder for folder, _ in ours}):
        return None
    listed = [f"{version} in {folder}" for (folder, _), version in ours.items()]
    listed += [f"{version} of another project in {folder}" for (folder, _), version in others.items()]
    return (
        f"installations of the name calibrax are mixed: {', '.join(listed)}; repeat pip uninstall calibrax until none "
        "is left, then pip install . in the checkout"
    )


def guarded(command: Any) -> int:
    """Call a command and report errors in one line on stderr; returns the exit code: 2 for a user's mistake."""
    from calibrax._malloc import keep_freed_memory
    from calibrax._terminal import accept_any_text
    from calibrax.data import DataError
    from calibrax.runs import extra
    from calibrax.runs.folder import RunError
    from calibrax.runs.loggers import LoggerError
    from calibrax.runs.settings import ConfigError
    from calibrax.training.signals import Interrupted

    accept_any_text()
    keep_freed_memory()
    try:
        command()
    except (ConfigError, DataError, RunError) as error:
        return fail(str(error))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in extra.MODULES:
            raise
        return fail(extra.explain(error.name))
    except FloatingPointError as error:
        return fail(f"training stopped: {error}", code=1)
    except LoggerError as error:
        return fail(str(error), code=1)
    except Interrupted as stop:
        return fail(str(stop), code=stop.exit_code)
    except KeyboardInterrupt:
        return fail("interrupted", code=130)
    except BrokenPipeError:
        sys.stderr.close()
        return 141
    except UnicodeEncodeError as error:  # of a file name, as text is spelled out
        return fail(f"{error.object!r} is no file name in this system's {error.encoding}; try with PYTHONUTF8=1")
    except OSError as error:  # such as a full disk, or a folder that vanished or is read-only
        where = f"{error.filename}: " if error.filename else ""
        return fail(f"{where}{error.strerror or error}; what was written before is whole", code=1)
    return 0


def train(argv: Sequence[str]) -> None:
    from calibrax import runs
    from calibrax.runs import TrainConfig, folder

    @dataclasses.dataclass(frozen=True)
    class TrainArguments(TrainConfig):
        __doc__ = TrainConfig.__doc__
        from_config: Annotated[str | None, import_tyro().conf.arg(name="from")] = None
        """A run's config.json. A new run takes its settings, except for those given on the command line."""
        coordinator: str | None = None
        """To train with several processes: HOST:PORT of the first, or auto (SLURM, MPI, Kubernetes, TPU)."""
        num_processes: int | None = None
        """Number of processes; auto knows it."""
        process_id: int | None = None
        """Index of this process, from 0; auto knows it."""

    given = parse_train(TrainArguments, "calibrax train", argv, TrainArguments(**vars(train_defaults(argv))))
    groups = vars(given).copy()
    source = groups.pop("from_config")
    _join(*(groups.pop(name) for name in ("coordinator", "num_processes", "process_id")))
    config = TrainConfig(**groups)
    if source is None:
        runs.train(config)
        return
    if config.run.resume:
        raise runs.ConfigError("--from begins a new run, and --resume resumes one; give one of them")
    folder.check_usable(config)
    data = runs.load_data(config)
    if config.data.name == folder.read_settings(source).data.name:
        folder.check_data(source, data)
    runs.train(config, data)


def _join(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Join the other processes of a run, if the options name any."""
    from calibrax.runs.settings import ConfigError

    if coordinator is None:
        if num_processes is not None or process_id is not None:
            raise ConfigError("--num-processes and --process-id need --coordinator HOST:PORT")
        return
    if coordinator != "auto":
        host, _, port = coordinator.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ConfigError(f"--coordinator is {coordinator}; expected HOST:PORT, or auto")
        if num_processes is None or process_id is None:
            raise ConfigError("--coordinator HOST:PORT needs --num-processes and --process-id")
    if num_processes is not None and process_id is not None and not 0 <= process_id < num_processes:
        raise ConfigError(f"--process-id is {process_id}; expected 0 to {num_processes - 1}, below --num-processes")
    from calibrax.training import multihost

    try:
        multihost.join(coordinator, num_processes, process_id)
    except ValueError as error:
        raise ConfigError(f"--coordinator {coordinator}: {error}") from error


def evaluate(argv: Sequence[str]) -> None:
    from calibrax.evaluation.record import METRICS
    from calibrax.runs.evaluate import evaluate
    from calibrax.runs.run import Run

    options = [(metric.name, metric.options, metric.options()) for metric in METRICS]
    kind = dataclasses.make_dataclass("EvaluateArguments", options, bases=(EvaluateConfig,), frozen=True)
    kind.__doc__ = EvaluateConfig.__doc__
    given: Any = parse(kind, "calibrax evaluate", argv)
    run = Run.open(given.run, given.data_dir, data=given.data)
    evaluate(run, {name: getattr(given, name) for name, *_ in options}, calibrate_on=given.calibrate_on)


def sample(argv: Sequence[str]) -> None:
    from calibrax.runs.sample import SampleSettings, sample

    print(sample(parse(SampleSettings, "calibrax sample", argv)))


def compare(argv: Sequence[str]) -> None:
    from calibrax.runs.compare import compare

    config = parse(CompareConfig, "calibrax compare", argv)
    print(compare(config.runs, config.out, data=config.data))


def report(argv: Sequence[str]) -> None:
    from calibrax.runs.report import write_report

    config = parse(ReportConfig, "calibrax report", argv)
    print(write_report(config.runs, config.out))


def data(argv: Sequence[str]) -> None:
    from calibrax.data import describe, load, sources_in_words
    from calibrax.runs.folder import check_length
    from calibrax.runs.settings import ConfigError

    @dataclasses.dataclass(frozen=True)
    class DataArguments(DataConfig):
        __doc__ = DataConfig.__doc__
        source: Annotated[str, import_tyro().conf.arg(help=sources_in_words())]

    config = parse(DataArguments, "calibrax data", argv)
    if config.picture is not None and Path(config.picture).suffix.lower() != ".png":
        raise ConfigError(f"--picture is {config.picture}; expected a name that ends in .png")
    if config.picture is not None:
        check_length(f"--picture {config.picture}", config.picture)
    loaded = load(config.source, data_dir=config.data_dir, image_size=config.image_size, prepare=True)
    print(describe(loaded))
    if not loaded.is_video:
        print(f"{'collapse':<12}{_collapse(loaded.train)}")
    if config.picture is None:
        return
    title = f"{loaded.name}: training {loaded.noun}"
    if loaded.is_video:
        from calibrax.evaluation.figures.video import save_film

        rows = [(f"video {index + 1}", loaded.train[index]) for index in range(min(4, len(loaded.train)))]
        save_film(config.picture, rows, None, title=title)
    else:
        from calibrax.evaluation.figures.images import save_grid

        save_grid(config.picture, loaded.train[:64], title=title)
    print(config.picture)


def _collapse(images: Any) -> str:
    """The σ from which on a linear VAE encodes nothing, in words; of many images, some spread over all are used."""
    import numpy as np

    from calibrax.evaluation import collapse_sigma

    num = min(len(images), max(2, COLLAPSE_VALUES // images[0].size))
    part = np.linspace(0, len(images) - 1, num).astype(int)
    sigma = collapse_sigma(np.stack([images[int(index)] for index in part]))
    source = "" if num == len(images) else f", by {num:,} of the training images"
    sigma, beta = (f"{float(f'{value:.3g}'):,g}" for value in (sigma, 2 * sigma**2))
    return f"a linear VAE encodes nothing from σ = {sigma} (β = 2σ² = {beta}) on{source}"


def models(argv: Sequence[str]) -> None:
    from calibrax.runs.platforms import check_platforms
    from calibrax.runs.presets import model_table
    from calibrax.runs.settings import ConfigError

    if argv and argv[0] in ("-h", "--help"):
        print("usage: calibrax models\n\nModel presets with shapes and parameter counts, and the likelihoods' names.")
        return
    if argv:
        raise ConfigError(f"calibrax models takes no arguments; got {' '.join(argv)}")
    check_platforms()
    print(model_table())


def parse(kind: type[T], prog: str, argv: Sequence[str], *, default: T | None = None) -> T:
    """Parse the command line with tyro; its boxed errors become a `ConfigError` of one line."""
    from calibrax.runs.settings import ConfigError

    tyro, options = import_tyro(), {} if default is None else {"default": default}
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):
            return tyro.cli(
                kind,
                prog=prog,
                args=list(argv),
                config=(  # the flags of all groups side by side: --latent-dim, not --model.latent-dim
                    tyro.conf.PositionalRequiredArgs,
                    tyro.conf.OmitArgPrefixes,
                    tyro.conf.AvoidSubcommands,
                ),
                **options,
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise ConfigError(_error_text(stderr.getvalue())) from None


def import_tyro() -> Any:
    """The module tyro; ConfigError if it, or what every command needs besides, is not installed."""
    from calibrax.runs.extra import check_extra

    check_extra("tyro", "matplotlib", "PIL")
    import tyro

    return tyro


def _error_text(message: str) -> str:
    """The text in tyro's error box as one line, without the pointer to the help."""
    lines = (re.sub(r"\x1b\[[0-9;]*m", "", line) for line in message.splitlines()[1:])
    lines = (line.strip("│| \n") for line in lines)
    text = " ".join(line for line in lines if re.search(r"[^-+─╭╮╰╯]", line))  # ASCII where the stream is
    text = re.split(r"\s*(Argument helptext|For full helptext)", text)[0]
    return re.sub(r"^Error parsing \w+: ", "", text)


def parse_train(kind: type[T], prog: str, argv: Sequence[str], default: Any) -> T:
    """A `TrainConfig`, or a subclass, from the command line; ConfigError for an option that the model does not read."""
    from calibrax.runs.presets import MODELS
    from calibrax.runs.settings import as_flag, unread

    options = {part.split("=", 1)[0] for part in argv}
    for preset in MODELS.values():
        for name in preset.settings.fields_by_flat_name().keys() - default.model.fields_by_flat_name().keys():
            if options & {as_flag(name), as_flag(f"no_{name}")}:
                raise unread(name, "model", default.model.name)
    return parse(kind, prog, argv, default=default)


def train_defaults(argv: Sequence[str], **settings: Any) -> Any:
    """The `TrainConfig` that the command line changes: that of the run to resume, of `--from`, or of the model.

    The last one takes `settings`, by flat name, instead of the model's own.
    """
    from calibrax.runs import TrainConfig, folder

    run_dirs, sources, models = (given(argv, flag) for flag in ("--run-dir", "--from", "--model"))
    if "--resume" in argv and run_dirs:
        config = folder.read_config(run_dirs[-1])
    elif sources:
        config = folder.read_settings(sources[-1])
    else:
        return TrainConfig.for_model(*models[-1:], **settings)
    return config.replace(model=models[-1]) if models else config


def given(argv: Sequence[str], flag: str) -> list[str]:
    """The values that the command line gives for an option, which may occur several times."""
    apart = [value for name, value in itertools.pairwise(argv) if name == flag]
    return apart + [part.split("=", 1)[1] for part in argv if part.startswith(f"{flag}=")]


def fail(message: str, code: int = 2) -> int:
    print(f"calibrax: {' '.join(message.splitlines())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
