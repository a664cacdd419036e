"""Samples a grid of images, with any solver and any chain of guidance terms.

    python sample/images.py --guide cfg=3 --guide pag=1.5@block2
    python sample/images.py --sampler unipc --steps 12 --guide apg=3,eta=0,during=0:0.8
    python sample/images.py --guide auto=1@digits_weak --guide classifier=2 --labels 3 8
    python sample/images.py --weights runs/digits/ema.safetensors --images 17 4
    python sample/images.py --model emoji --prompt "a red apple" --guide cfg=2
    python sample/images.py --weights runs/cats/ema.safetensors --labels tabby
    python sample/images.py --weights DiT-XL-2-256 --labels goldfish --guide cfg=3
    python sample/images.py --out digits.npz             # or a folder, for single files

A guide is NAME=WEIGHT, then optionally @WHERE and ,KEY=VALUE pairs; guides apply in the
order given. WHERE is a term's attention sites (joined by +), network or classifier.
``during=START:STOP[:UNIT]`` limits any guide to part of the trajectory; other pairs are
the method's own options. The guides are the methods of guidance.METHODS that a number
and a place determine:

    python sample/images.py --guide list

Image number i depends on --seed and i alone: --images draws chosen ones again, whatever
the batch. The PNG's text says how it was made.
"""

import dataclasses
import inspect
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from conditions import condition_of, label_numbers, names_of, rows_of
from images_setup import Config
from outputs import require_writable, write_images
from published_images import Drawable, PublishedImages, load_drawable
from tqdm import tqdm

import jaxlib_guidance as jg
from jaxlib_guidance.guidance import METHODS, Method
from jaxlib_guidance.models import ClassifierModel, load_pretrained
from jaxlib_guidance.sampling import load_calibrated

SOLVERS: dict[str, Callable[..., jg.Sampler]] = {
    name: getattr(jg.sampling, name)
    for name in (
        "ddim",
        "ddpm",
        "euler",
        "euler_ancestral",
        "heun",
        "edm",
        "dpmpp_2m",
        "dpmpp_3m",
        "dpmpp_2s",
        "dpm_2",
        "dpmpp_sde",
        "unipc",
        "adams",
        "lms",
        "deis",
        "pndm",
        "sa_solver",
        "annealed_langevin",
    )
}


def options_of(text: str) -> tuple[str, dict[str, Any]]:
    """``"a,b=1,c=x"`` as ``("a", {"b": 1, "c": "x"})``.

    Raises:
      ValueError: A pair without "=".
    """
    head, *pairs = text.split(",")
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"{text!r}: {pair!r} is not KEY=VALUE")
        truth = {"True": True, "False": False}
        options[key.strip()] = truth.get(value, number(value))
    return head.strip(), options


def number(text: str) -> Any:
    """A number if it reads as one, else the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


@dataclasses.dataclass
class Nets:
    """The model, and what guides bring along."""

    model: Drawable
    params: list[Any]
    others: list[Drawable] = dataclasses.field(default_factory=list)

    def denoisers(self, params: list[Any]) -> tuple[jg.Denoiser, ...]:
        """All networks, the base first."""
        models = [self.model, *self.others]
        return tuple(m.denoiser(p) for m, p in zip(models, params, strict=True))


def term_of(text: str, nets: Nets) -> Any:
    """The guidance term that a command-line guide describes.

    Raises:
      ValueError: An unknown guide, one without its weight, or options it does not have.
    """
    head, options = options_of(text)
    name, equals, rest = head.partition("=")
    weight, _, where = rest.partition("@")
    window = options.pop("during", None)
    if not equals or not isinstance(number(weight), (int, float)):
        raise ValueError(f"guide {text!r}; expected NAME=WEIGHT[@WHERE][,KEY=VALUE...]")
    row = GUIDES.get(name)
    if row is None:
        raise ValueError(f"guide {name!r}; expected one of {', '.join(GUIDES)}")
    parameters = inspect.signature(row.make).parameters
    if where and not any(each in parameters for each in PLACED):
        raise ValueError(f"guide {name!r} takes no @WHERE; got {where!r}")
    numbers = NUMBERS.get(row.name, lambda w: {str(row.strength): w})
    arguments = numbers(number(weight))
    for each, fill in FILLED.items():
        if each in parameters:
            arguments |= fill(name, where, nets)
    try:
        term = row.make(**arguments | options)
    except TypeError as error:
        raise ValueError(f"guide {text!r}: {error}") from error
    if window is None:
        return term
    bounds = str(window).split(":")
    numeric = all(isinstance(number(each), (int, float)) for each in bounds[:2])
    if len(bounds) not in (2, 3) or not numeric:
        raise ValueError(f"guide {text!r}: during={window}; expected START:STOP[:UNIT]")
    return jg.during(term, float(bounds[0]), float(bounds[1]), *bounds[2:])


def _null(name: str, where: str, nets: Nets) -> dict[str, Any]:
    if nets.model.null is None:
        raise ValueError("this model has no classes to guide towards")
    return {"null": nets.model.null}


def _sites(name: str, where: str, nets: Nets) -> dict[str, Any]:
    if not where:
        raise ValueError(
            f"guides of attention need sites: {name}=1.5@block2, or @* for all"
        )
    return {"sites": where.split("+")}


def _net(name: str, where: str, nets: Nets) -> dict[str, Any]:
    where = where or "digits_weak"
    model, params = load_drawable(where)
    if not isinstance(model, Drawable) or model.shape != nets.model.shape:
        raise ValueError(
            f"guide {name!r}: {where!r} is not a network of the same samples, "
            f"{nets.model.shape}; expected {name}=WEIGHT@WEIGHTS"
        )
    nets.others.append(model)
    nets.params.append(params)
    return {"net": len(nets.others)}


def _classifier(name: str, where: str, nets: Nets) -> dict[str, Any]:
    where = where or "digits_classifier"
    model, params = load_pretrained(where)
    if not isinstance(model, ClassifierModel) or model.shape != nets.model.shape:
        raise ValueError(
            f"guide {name!r}: {where!r} does not classify samples "
            f"{nets.model.shape}; expected {name}=WEIGHT@WEIGHTS"
        )
    through = {} if model.process is not None else {"through": "denoised"}
    return {"classifier": model.logits, "params": params} | through


# What a constructor's arguments of these names are here; the last three are @WHERE.
FILLED: dict[str, Callable[[str, str, Nets], dict[str, Any]]] = {
    "null": _null,
    "sites": _sites,
    "net": _net,
    "classifier": _classifier,
}
PLACED = ("sites", "net", "classifier")
# What the weight means to methods without one.
NUMBERS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "clip_x0": lambda w: {"low": -w, "high": w},
    "dynamic_threshold": lambda w: {"percentile": w},
}


def _usable(row: Method) -> bool:
    """Whether a number, the model and a place are all that the constructor needs."""
    parameters = inspect.signature(row.make).parameters.values()
    needed = {p.name for p in parameters if p.default is p.empty}
    given = {row.strength, *FILLED}
    # Some classifiers here are of noisy data: not for a method of clean ones alone.
    names = {p.name for p in parameters}
    given -= set() if "through" in names else {"classifier"}
    return needed <= given and (row.strength is not None or row.name in NUMBERS)


GUIDES: dict[str, Method] = {
    name: row
    for row in METHODS.values()
    if _usable(row)
    for name in (row.alias, row.name)
    if name
}


SPACINGS = {"karras": jg.karras_grid, "logsnr": jg.logsnr_grid, "flow": jg.flow_grid}


def solver_of(
    config: Config, model: Drawable, params: Any = None
) -> tuple[jg.Sampler, Any]:
    """The solver and its grid.

    Raises:
      ValueError: A solver or options that do not exist, one beside a file, or a file
        for another network.
    """
    if config.calibrated is not None:
        for option in ("sampler", "steps", "grid"):
            if getattr(config, option) != getattr(Config, option):
                raise ValueError(f"{option} is the file's when calibrated is given")
        made = load_calibrated(config.calibrated, model.process, params=params)
        return made.sampler, made.grid
    name, options = options_of(config.sampler)
    known = ("recommended", *SOLVERS)
    if name not in known:
        raise ValueError(f"sampler {name!r}; expected one of {', '.join(known)}")
    recommended = partial(jg.recommended, model.process, config.steps)
    make: Callable[..., Any] = SOLVERS.get(name, recommended)
    # Models of others do not say the scale of their data.
    scale = options.get("scale", getattr(model, "data_scale", 1.0))
    if "scale" in inspect.signature(make).parameters:
        options["scale"] = scale
    try:
        made = make(**options)
        if name in SOLVERS:
            made = made, recommended(scale=scale, stochastic=made.stochastic).grid
    except TypeError as error:
        raise ValueError(f"sampler {config.sampler!r}: {error}") from error
    if config.grid == "recommended":
        return made
    return made[0], model.grid(config.steps, SPACINGS[config.grid])


def draw(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """The images ``[N, H, W, C]`` and their labels ``[N]``.

    Raises:
      ValueError: Guides, solvers, labels or image numbers that do not exist; less than
        one image at once or of a class.
    """
    for option, lowest in (("batch", 1), ("columns", 1), ("scale", 0)):
        if getattr(config, option) < lowest:
            raise ValueError(
                f"{option} is {getattr(config, option)}; expected at least {lowest}"
            )
    model, params = load_drawable(config.weights, config.dtype)
    if not isinstance(model, Drawable):
        raise ValueError(f"weights {config.weights!r} are a classifier's")
    if config.time_window:
        if isinstance(model, PublishedImages):
            window = f"time_window is {config.time_window}"
            raise ValueError(f"{window}, for models of this library; expected none")
        model = model.smoothed(config.time_window)
    sampler, grid = solver_of(config, model, params)
    nets = Nets(model, [params])
    terms = [term_of(text, nets) for text in config.guide]
    latents = model if isinstance(model, PublishedImages) else None
    if latents is not None and latents.bound is not None:
        terms.append(jg.clip_x0(-latents.bound, latents.bound))
    guidance = jg.chain(*terms)
    numbers = label_numbers(config.labels, names_of(config.weights))
    labels, texts = rows_of(model, numbers, config.prompt, config.columns)
    ids = np.asarray(config.images or range(len(labels)))
    if ids.min() < 0 or ids.max() >= len(labels):
        raise ValueError(f"images {ids.tolist()}; expected 0, ..., {len(labels) - 1}")
    root = jax.random.key(config.seed)
    conds = condition_of(model, labels, texts)

    @jax.jit
    def run(params, guidance, ids, cond):
        x, _ = jg.sample(
            jg.sample_keys(root, ids),
            nets.denoisers(params),
            sampler,
            grid,
            model.shape,
            cond,
            guidance=guidance,
        )
        return x if latents is None else latents.decode(params[0], x)

    # The last batch is filled up, so that one program serves all.
    size = min(config.batch, len(ids))
    padded = np.resize(ids, -(-len(ids) // size) * size)
    images = []
    for part in tqdm(padded.reshape(-1, size), unit="batch", disable=len(ids) <= size):
        cond = jax.tree.map(lambda leaf, rows=part: jnp.asarray(leaf[rows]), conds)
        images.append(np.asarray(run(nets.params, guidance, part, cond)))
    return np.concatenate(images)[: len(ids)], labels[ids]


def main(config: Config) -> None:
    """Draws and writes the grid; a mistake is told in one line."""
    if config.guide == ("list",):
        for name, row in GUIDES.items():
            if name == (row.alias or row.name):
                print(f"{name:20} {row.formula}  (off: {row.off})")
        return
    made = {f.name: str(getattr(config, f.name)) for f in dataclasses.fields(config)}
    try:
        # Drawing may take minutes.
        require_writable(config.out, folders=True)
        images, labels = draw(config)
        written = write_images(
            config.out,
            images,
            labels,
            names_of(config.weights),
            numbers=config.images or range(len(images)),
            columns=config.columns,
            scale=config.scale,
            note=made,
        )
    except (ValueError, OSError) as error:
        sys.exit(f"sample/images.py: {error}")
    print(written)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
