"""Small models as researchers write them, and what an export of each must do."""

from corpus import (
    control_flow,
    dtype_rank_device,
    fine,
    helpers,
    inputs,
    loops,
    numbers,
    plain,
    randomness,
    rare,
    sizes,
    state,
    structure,
)
from corpus.case import Case

TOPICS = (
    control_flow,
    loops,
    state,
    sizes,
    dtype_rank_device,
    numbers,
    structure,
    helpers,
    randomness,
    inputs,
    plain,
    rare,
    fine,
)
CASES: list[Case] = [case for topic in TOPICS for case in topic.CASES]
