"""All readers of what comes from outside."""

from tests.fuzz import targets_models, targets_posts, targets_scores, targets_teacher

TARGETS = [*targets_posts.TARGETS, *targets_models.TARGETS, *targets_scores.TARGETS, *targets_teacher.TARGETS]
