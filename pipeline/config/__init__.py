"""The configuration of a run: recipes, flags, every key with its meaning.

annotation_sections  sections of the tasks that are trained on annotation files
flags                the parser, and the flags shared by commands that take a recipe
recipe               reads recipes and flags, finds all mistakes at once
recipe_yaml          YAML whose values keep what is written, bounded in size and depth
reference            docs/recipes.md, written from the dataclasses
resolve              a run's configuration from recipe, preset and flags
run_config           the whole configuration of a run
sections             every key of a recipe, section by section
text_file            small text files that people write: byte order marks; no pipes, no gigabytes
"""
