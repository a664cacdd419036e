"""Changes of real pictures by inversion, a chain of guidance terms, and `sample`."""

from jaxlib_guidance.editing._edit_friendly import edit_friendly
from jaxlib_guidance.editing._erase import erase
from jaxlib_guidance.editing._flow_edit import flow_edit
from jaxlib_guidance.editing._guide_and_rescale import Edited, guide_and_rescale
from jaxlib_guidance.editing._ledits import ConceptEdit, ledits
from jaxlib_guidance.editing._masactrl import masactrl
from jaxlib_guidance.editing._masks import prepare_mask, site_masks
from jaxlib_guidance.editing._motion_draw import (
    MotionDraw,
    MotionPair,
    draw_pair,
    site_frames,
)
from jaxlib_guidance.editing._motion_frames import (
    shift_motion,
    transfer_style,
    vary_motion,
)
from jaxlib_guidance.editing._motion_maps import (
    MotionMaps,
    count_actions,
    count_peaks,
    find_word,
    read_maps,
)
from jaxlib_guidance.editing._motion_words import (
    emphasise_word,
    erase_word,
    ground_word,
    replace_word,
)
from jaxlib_guidance.editing._null_text import NullEdited, null_text
from jaxlib_guidance.editing._optimise_null import NullText, optimise_null
from jaxlib_guidance.editing._plug_and_play import plug_and_play
from jaxlib_guidance.editing._prompt_to_prompt import prompt_to_prompt
from jaxlib_guidance.editing._rf_inversion import rf_inversion
from jaxlib_guidance.editing._sdedit import sdedit

__all__ = [
    # From noise on the way to the picture
    "sdedit",
    # By the picture's own attention and features
    "Edited",
    "guide_and_rescale",
    # By flows that are led at both ends
    "rf_inversion",
    # Beside the picture's own states
    "flow_edit",
    "edit_friendly",
    "ConceptEdit",
    "ledits",
    # By attention and features of the picture beside it
    "prompt_to_prompt",
    "masactrl",
    "plug_and_play",
    # By null conditions that give the source back
    "NullText",
    "optimise_null",
    "NullEdited",
    "null_text",
    # Without what a mask covers
    "erase",
    "prepare_mask",
    "site_masks",
    # Motions, by attention to words
    "MotionDraw",
    "MotionPair",
    "draw_pair",
    "emphasise_word",
    "erase_word",
    "ground_word",
    "replace_word",
    # Motions, by attention to frames
    "site_frames",
    "shift_motion",
    "vary_motion",
    "transfer_style",
    # What attention says of motions
    "MotionMaps",
    "read_maps",
    "count_peaks",
    "count_actions",
    "find_word",
]
