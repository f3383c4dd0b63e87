"""``degla-negatives`` and ``python -m degla.negatives``: turn captions into hard negatives."""

from itertools import islice
from pathlib import Path

from omegaconf import DictConfig

from degla.cli.main import run_program
from degla.errors import ConfigError


def main() -> None:
    """Entry point."""
    run_program("negatives", make)


def make(cfg: DictConfig) -> None:
    """Write, check, export and report as ``cfg`` says."""
    from degla.cli.instantiate import instantiate
    from degla.hard_negatives.captions import image_type, parse_shard, read_captions
    from degla.hard_negatives.dataset import write_card, write_dataset
    from degla.hard_negatives.kinds import KINDS
    from degla.hard_negatives.pipeline import distinct, fill, judged, store_folder, tasks
    from degla.hard_negatives.progress import Progress, dollars
    from degla.hard_negatives.store import Store
    from degla.report.negatives_report import print_summary

    def rows():
        return read_captions(cfg.input, cfg.caption, cfg.image)

    if unknown := [kind for kind in cfg.kinds if kind not in KINDS]:
        raise ConfigError(f"kinds: {unknown[0]} is none; choose among {', '.join(KINDS)}")
    if cfg.per_kind < 1:
        raise ConfigError(f"per_kind={cfg.per_kind} must be 1 or more")
    shard = parse_shard(cfg.shard)
    next(rows(), None)  # a mistake in the input is named before anything is loaded
    output = Path(cfg.output or f"{Path(cfg.input).with_suffix('')}_negatives")
    facts = {"input": Path(cfg.input).name, "written by": cfg.negatives.get("model") or cfg.negatives._target_}
    if cfg.negatives._target_.endswith("GivenNegatives"):  # nothing is written, so there is no store
        checks = instantiate(cfg.negatives, "negatives")
        summary = write_dataset(checks.judged(rows()), output, image_type(cfg.input, cfg.image), cfg.balance, cfg.seed)
    else:
        if shard != (0, 1) and cfg.negatives._target_.endswith("BatchWriter"):
            raise ConfigError("shard: request files are cut by negatives.max_requests already; set shard=null")
        writer = instantiate(cfg.negatives, "negatives", kinds=list(cfg.kinds), count=cfg.per_kind, seed=cfg.seed)
        store = Store(store_folder(output))
        if cfg.draft:
            return _draft(writer, list(islice(distinct(rows()), cfg.draft)), store, output / "prompts")
        if store.num_torn:
            print(f"{store.num_torn} lines cut short by a kill are left out")
        total = sum(1 for _ in tasks(rows(), cfg.kinds, shard))
        progress = Progress(total, tuple(cfg.prices))
        fill(writer, rows(), cfg.kinds, store, shard, progress)
        if shard != (0, 1):
            print(f"shard {cfg.shard} is done; when all are, the same command without shard= exports {output}")
            return
        facts |= {"model": writer.filing.model, "prompts": dict(writer.filing.prompts), "seed": cfg.seed}
        if any(store.tokens):
            facts["tokens"] = "{:,} in, {:,} out".format(*store.tokens)
            facts |= {"cost": f"${cost:.2f}"} if (cost := dollars(store.tokens, cfg.prices)) else {}
        result = judged(writer, rows(), cfg.kinds, store)
        summary = write_dataset(result, output, image_type(cfg.input, cfg.image), cfg.balance, cfg.seed)
    write_card(output, summary, facts)
    print_summary(summary, output)


def _draft(writer, captions: list[str], store, folder: Path) -> None:
    from degla.hard_negatives.llm.base import Prompted
    from degla.hard_negatives.llm.draft import write_drafts
    from degla.hard_negatives.progress import Progress

    if not isinstance(writer, Prompted):
        raise ConfigError("draft needs a language model: set negatives=llm")
    writer.forget_examples()
    asked = [(caption, kind) for caption in captions for kind in writer.prompts]
    progress = Progress(len(asked))
    writer.write(asked, store, progress)
    store.close()
    progress.close()
    for path in write_drafts(writer, captions, store, folder):
        print(f"{path}: keep the good ones, then negatives.prompts={folder}")


if __name__ == "__main__":
    main()
