"""Pictures and animations of skeletons."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from jaxlib_guidance.data import BONES, skeleton_positions

# Of the trunk and head, the left limbs and the right ones.
COLOURS = ((60, 60, 60), (200, 60, 40), (40, 90, 200))


def draw_skeleton(pose: np.ndarray, side: int) -> Any:
    """A picture of a pose, from the front left, of ``side`` by ``side`` pixels."""
    # Twice as large, for smooth lines.
    picture = Image.new("RGB", (2 * side, 2 * side), "white")
    pen, scale = ImageDraw.Draw(picture), 2 * side / 3.2
    at = skeleton_positions(pose)
    across = 0.8 * at[:, 0] - 0.6 * at[:, 1]
    points = np.stack([side + scale * across, 2 * side - scale * (at[:, 2] + 0.15)], -1)
    floor = 2 * side - 0.15 * scale
    pen.line((0, floor, 2 * side, floor), fill=(200, 200, 200), width=2)
    for i, (a, b) in enumerate(BONES):
        colour = COLOURS[0 if i < 2 else 1 if i in (2, 3, 4, 8, 9, 10) else 2]
        pen.line((*points[a], *points[b]), fill=colour, width=max(2, side // 32))
    x, y, r = *points[2], 0.12 * scale
    pen.ellipse((x - r, y - r, x + r, y + r), fill=COLOURS[0])
    return picture.resize((side, side), Image.Resampling.BOX)


def draw_strip(poses: np.ndarray, every: int, side: int) -> Any:
    """Every few frames of motions ``[N, T, 12]``, a line for each."""
    frames = range(0, poses.shape[1], every)
    sheet = Image.new("RGB", (side * len(frames), side * len(poses)), "white")
    for row, motion in enumerate(poses):
        for column, frame in enumerate(frames):
            place = column * side, row * side
            sheet.paste(draw_skeleton(motion[frame], side), place)
    return sheet


def save_animation(
    out: Path, poses: np.ndarray, titles: Sequence[str], side: int, pause: int = 70
) -> None:
    """Motions ``[N, T, 12]`` beside each other as a GIF, ``pause`` ms a frame."""
    frames = []
    for frame in range(poses.shape[1]):
        sheet = Image.new("RGB", (side * len(poses), side + 14), "white")
        pen = ImageDraw.Draw(sheet)
        for column, (motion, title) in enumerate(zip(poses, titles, strict=True)):
            sheet.paste(draw_skeleton(motion[frame], side), (column * side, 14))
            pen.text((column * side + 4, 1), title, fill="black")
        frames.append(sheet.quantize(32))
    frames[0].save(out, save_all=True, append_images=frames[1:], duration=pause, loop=0)
