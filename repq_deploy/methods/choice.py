"""Which method is run: what a name and a recipe say together."""

from __future__ import annotations

from dataclasses import replace

from repq_deploy.methods.registry import Method, find_method
from repq_deploy.quant.softmax import check_softmax
from repq_deploy.recipes import Recipe
from repq_deploy.steps import Step

__all__ = ["choose_method"]


def choose_method(recipe: Recipe, name: str | None) -> Method:
    """The method called ``name``, else the recipe's own steps, else the method that the recipe names, else ``best``.

    Raises:
        BadInput: an unknown method or softmax.
    """
    if recipe.softmax is not None:
        check_softmax(recipe.softmax)
    if name is not None:
        return find_method(name)  # the recipe's softmax and images belong to its own method
    if recipe.steps is not None:
        steps = tuple(Step(step, options) for step, options in recipe.steps)
        method = Method(recipe.method or "recipe", "log_sqrt2", steps)
    else:
        method = find_method(recipe.method or "best")
    return replace(method, softmax=recipe.softmax or method.softmax, images=recipe.images or method.images)
