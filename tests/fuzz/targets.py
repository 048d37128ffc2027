"""All readers of what comes from outside."""

from tests.fuzz import targets_models, targets_posts, targets_runs, targets_scores, targets_teacher

MODULES = (targets_posts, targets_models, targets_runs, targets_scores, targets_teacher)

TARGETS = [target for module in MODULES for target in module.TARGETS]
