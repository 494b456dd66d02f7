"""What each step of each layer costs, and the cheapest machine for an allowed divergence."""

from lamp.tuning.menus import Menu
from lamp.tuning.ranks import Part, Rank, RankStudy, rank, rank_study, ranked_steps
from lamp.tuning.tuned import Choice, Measured, Tuned, tune
from lamp.tuning.tuner import Reading, Round

__all__ = [
    "Choice",
    "Measured",
    "Menu",
    "Part",
    "Rank",
    "RankStudy",
    "Reading",
    "Round",
    "Tuned",
    "rank",
    "rank_study",
    "ranked_steps",
    "tune",
]
