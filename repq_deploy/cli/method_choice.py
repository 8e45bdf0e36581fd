"""Which method ``repq-export`` runs: what the options and the recipe say together."""

from __future__ import annotations

from dataclasses import replace

from repq_deploy.errors import BadInput
from repq_deploy.methods import Method, find_method
from repq_deploy.quant.softmax import check_softmax
from repq_deploy.recipes import Recipe
from repq_deploy.steps import Step

__all__ = ["choose_method"]


def choose_method(recipe: Recipe, name: str | None, *, high: bool) -> Method:
    """The method called ``name``, else the recipe's own steps, else the method that the recipe names, else ``best``.

    Raises:
        BadInput: an unknown method or softmax, or a high effort for another method than ``best``.
    """
    if recipe.softmax is not None:
        check_softmax(recipe.softmax)
    if high and (name or recipe.method or "best") != "best":
        raise BadInput(f"--effort high: is of method best, found method {name or recipe.method}; leave --effort out")
    if name is None and recipe.steps is not None:
        if high:
            raise BadInput("--effort high: is of method best, and the recipe lists its own steps; leave --effort out")
        steps = tuple(Step(step, options) for step, options in recipe.steps)
        own = Method(recipe.method or "recipe", recipe.softmax or "log_sqrt2", steps)
        return replace(own, images=recipe.images or own.images)
    method = find_method("best-high" if high else name or recipe.method or "best")
    if name is None:
        return replace(method, softmax=recipe.softmax or method.softmax, images=recipe.images or method.images)
    return method  # the recipe's softmax and images belong to its own method
