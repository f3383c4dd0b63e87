"""``degla-negatives`` and ``python -m degla.negatives``: turn captions into hard negatives.

``make_negatives`` reads the config, builds the writer, runs the pipeline and reports. Imports no torch.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from degla.cli.main import run_program
from degla.errors import ConfigError

if TYPE_CHECKING:
    from degla.hard_negatives.pipeline import Job, Result
    from degla.hard_negatives.writers import Writer


def main() -> None:
    """Run the program on the arguments of the command line."""
    run_program("negatives", make_negatives)


def make_negatives(cfg: DictConfig) -> None:
    """Write, check, export and report hard negatives.

    Args:
        cfg: the composed ``configs/negatives.yaml``.

    Raises:
        DeglaError: a setting, the input or the server cannot be used.
    """
    from degla.hard_negatives.output import explain_disk_errors, lock_output
    from degla.hard_negatives.pipeline import WHOLE, run

    job = read_job(cfg)
    writer = build_writer(cfg, job)
    with explain_disk_errors(job.output), lock_output(job.output, None if job.shard == WHOLE else job.shard):
        if cfg.draft:
            draft(job, writer, cfg.draft)
        else:
            report(cfg, job, run(job, writer))


def read_job(cfg: DictConfig) -> Job:
    """Check the top-level settings and the input.

    Nothing large is loaded before that.
    """
    from degla.hard_negatives.captions import parse_shard, read_captions
    from degla.hard_negatives.kinds import check_kinds
    from degla.hard_negatives.pipeline import Job

    check_kinds(cfg.kinds)
    shard = parse_shard(cfg.shard)
    next(read_captions(cfg.input, cfg.caption, cfg.image), None)  # raises where the input cannot be read
    output = Path(cfg.output or f"{Path(cfg.input).with_suffix('')}_negatives")
    return Job(cfg.input, cfg.caption, cfg.image, output, cfg.balance, shard, tuple(cfg.prices), cfg.seed)


def build_writer(cfg: DictConfig, job: Job) -> Writer:
    """Build the writer of the group ``negatives``, and check that it fits the job.

    Args:
        cfg: the composed config.
        job: the checked settings.
    """
    from degla.cli.instantiate import check_node, instantiate
    from degla.hard_negatives.pipeline import WHOLE

    # negatives=batch refers to the output, and `output=null` means a folder that only the job knows.
    node = OmegaConf.merge(cfg, {"output": str(job.output)}).negatives
    shared = {"kinds": list(cfg.kinds), "count": cfg.per_kind, "seed": cfg.seed}
    constructor, _ = check_node(node, "negatives")
    accepted = signature(constructor).parameters  # a writer that only checks takes none of them
    shared = {name: value for name, value in shared.items() if name in accepted}
    writer: Writer = instantiate(node, "negatives", **shared)
    if job.shard != WHOLE and not writer.supports_shards:
        raise ConfigError(f"shard={cfg.shard}: {type(writer).__name__} has no shards; set shard=null")
    return writer


def draft(job: Job, writer: Writer, count: int) -> None:
    """Let the model draft examples for its prompts from the first ``count`` captions, and say where they are.

    Args:
        job: the checked settings.
        writer: a language model.
        count: number of captions.
    """
    from degla.hard_negatives.llm.draft import draft_examples
    from degla.hard_negatives.store import Store

    folder = job.output / "prompts"
    for path in draft_examples(writer, job.first_captions(count), Store(job.answers_folder), folder):
        print(f"{path}: keep the good ones, then negatives.prompts={folder}")


def report(cfg: DictConfig, job: Job, result: Result | None) -> None:
    """Write the data card and print the summary; for a shard, say what comes next.

    Args:
        cfg: the composed config.
        job: the checked settings.
        result: from ``pipeline.run``; None for a shard.
    """
    from degla.artifacts import provenance
    from degla.hard_negatives.card import write_card
    from degla.report.negatives_report import print_summary

    if result is None:
        print(f"shard {cfg.shard} is done; when all are, the same command without shard= exports {job.output}")
        return
    recorded = provenance()
    facts = {
        "input": Path(cfg.input).name,
        "command": shared_command(sys.argv[1:]),
        "written by": cfg.negatives.get("model") or cfg.negatives._target_,
        **result.facts,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        **{name: recorded[name] for name in ("degla", "commit", "python", "machine")},
    }
    write_card(job.output, result.summary, facts)
    print_summary(result.summary, job.output)


def shared_command(arguments: Sequence[str]) -> str:
    """Return the command as it may be shared: without the folders of this machine and without secrets."""
    from degla.hard_negatives.llm.redact import Redactor, without_user_info

    redact = Redactor()
    words = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if "://" in value:
            value = without_user_info(value)
        # A path keeps its last part: /home/me/captions.csv becomes captions.csv.
        value = re.sub(r"(?<![\w:/.])(?:~|\.\.|/)[^,\[\]'\"]*/", "", value)
        words.append(redact(f"{key}{equals}{value}"))
    return shlex.join(["degla-negatives", *words])


if __name__ == "__main__":
    main()
