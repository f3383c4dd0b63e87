"""Short forms of an objective's keys, objectives of earlier releases, and which of two settings has priority."""

import hydra
import pytest
from omegaconf import OmegaConf

from degla.cli.compose import compose_config
from degla.cli.paths import config_dir
from degla.objective_terms import compared_objective, current_objective, with_short_forms, write_out_terms
from degla.training.build import build_objective

DEGLA = {"contrastive": 1.0, "igc": 0.1, "tgc": 0.1, "distill": 1.28}
EARLIER = "# @package _global_\nobjective:\n  igc: 0.7\n  tgc_scale: 5.0\n"


def composed(tmp_path, *arguments):
    """The config of a command line; ``experiment=earlier`` has keys as experiments of earlier releases have."""
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/earlier.yaml").write_text(EARLIER)
    search_path = f"hydra.searchpath=[file://{tmp_path}]"
    with hydra.initialize_config_dir(config_dir(), version_base="1.3"):
        cfg = hydra.compose("train", [search_path, *with_short_forms(arguments)])
    write_out_terms(cfg)
    return cfg


@pytest.mark.parametrize(
    ("arguments", "weights"),
    [
        (["objective.igc=0.5"], {**DEGLA, "igc": 0.5}),
        (["+objective.igc=0.5"], {**DEGLA, "igc": 0.5}),
        (["++objective.paraphrase=0.5"], {**DEGLA, "paraphrase": 0.5}),
        (["objective={igc: 0.5}"], {**DEGLA, "igc": 0.5}),
        (["objective.terms.igc=0.3"], {**DEGLA, "igc": 0.3}),
        (["objective.terms.igc=null"], {"contrastive": 1.0, "tgc": 0.1, "distill": 1.28}),
        (["experiment=earlier"], {**DEGLA, "igc": 0.7}),
        (["experiment=earlier", "objective.igc=0.5"], {**DEGLA, "igc": 0.5}),  # the command line has priority
        (["objective=negclip", "objective.tgc_scale=5"], {"contrastive": 1.0}),  # a scale adds no term
        (["experiment=earlier", "objective=negclip"], {"contrastive": 1.0, "igc": 0.7}),
    ],
    ids=str,
)
def test_a_command_line(tmp_path, arguments, weights):
    cfg = composed(tmp_path, *arguments)
    assert build_objective(cfg.objective).weights == weights
    assert set(cfg.objective) == {"_target_", "terms", "local_loss", "gather"}  # the run records the long form


def test_the_scale_of_an_earlier_experiment(tmp_path):
    assert composed(tmp_path, "experiment=earlier").objective.terms.tgc.scale == 5


@pytest.mark.parametrize(
    ("term", "weight"),
    [
        ({"paraphrase": {"weight": 0.4}}, 0.4),
        ({"paraphrase": 0.4}, 0.4),
        ({"paraphrase": {"_target_": "degla.losses.Paraphrase"}}, 0.5),
    ],
    ids=str,
)
def test_a_term_is_added_from_python(tmp_path, term, weight):
    cfg = compose_config("train", {"objective": {"terms": term}, "runs_dir": tmp_path})
    objective = build_objective(cfg.objective)
    assert objective.active["paraphrase"].weight == weight and set(objective.weights) == {*DEGLA, "paraphrase"}


@pytest.mark.parametrize(
    ("target", "weights"),
    [
        ("DeGLAObjective", DEGLA),
        ("ReleasedObjective", {**DEGLA, "distill": 0.005}),
        ("CEClipObjective", {"contrastive": 1.0, "imc": 0.3, "cmr": 0.2}),
    ],
)
def test_constructors_of_earlier_releases_keep_their_defaults(target, weights):
    settings = current_objective({"_target_": f"degla.losses.{target}"})
    assert build_objective(OmegaConf.create(settings)).weights == weights


EARLIER_SETTINGS = {
    "clip": {"_target_": "degla.losses.DeGLAObjective", "contrastive": 1.0, "igc": 0.0, "tgc": 0.0, "distill": 0.0,
             "tgc_scale": 10.0, "image_sees_negatives": False, "local_loss": True},
    "degla": {"_target_": "degla.losses.DeGLAObjective", **DEGLA, "tgc_scale": 10.0, "image_sees_negatives": True,
              "local_loss": True},
    "degla_released": {"_target_": "degla.losses.ReleasedObjective", **DEGLA, "distill": 0.005, "tgc_scale": 10.0},
    "ce_clip": {"_target_": "degla.losses.CEClipObjective", "contrastive": 1.0, "imc": 0.3, "cmr": 0.2,
                "num_negatives": 4, "upper_bound": 10.0, "local_loss": True},
}  # fmt: skip


@pytest.mark.parametrize("option", EARLIER_SETTINGS)
def test_a_run_of_an_earlier_release_is_the_run_of_today(option):
    """A sweep that is started again then skips it."""
    now = OmegaConf.to_container(compose_config("train", {"objective": option}).objective, resolve=True)
    assert compared_objective(EARLIER_SETTINGS[option]) == compared_objective(now)
