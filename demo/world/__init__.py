"""A generated world in which every task can be learned in minutes: `python -m demo.world OUT`.

Scenes are drawn from a seed and everything true of them is known; captions, questions, statements, hypotheses and
expressions come out of that. Uses `base` and `samples` alone, and numpy and Pillow to draw.

captions     sentences about a scene, noise, and pairs that match or do not
chance       what guessing scores
datasheet    the README of a world
drawing      scenes to pixels and boxes
draws        random draws that are the same everywhere
expressions  references to one thing of a scene
files        writes a world to a folder
hypotheses   entailed, contradicted or open
questions    questions and answers
scene        things, and what is true of them
scenes       the splits of a world, and its settings
statements   sentences about two pictures
tasks        the rows of the official annotation files
"""
