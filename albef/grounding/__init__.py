"""Where in an image a text points: maps by Grad-CAM for words, phrases and boxes.

boxes        scores of boxes on a map, the box of a map, its hottest pixel, overlap of boxes
explanation  a map for each word of a text, and a figure of them
phrases      one map for each of several pairs, by matching or by similarity
"""
