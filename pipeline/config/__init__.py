"""The configuration of a run: recipes, flags, every key with its meaning.

flags        what commands that take a recipe share of the command line
nearest      the nearest valid name, for hints
recipe       reads recipes and flags, finds all mistakes at once
recipe_yaml  YAML whose values keep what is written, bounded in size and depth
reference    docs/recipes.md, written from the dataclasses
run_config   the whole configuration of a run
sections     every key of a recipe, section by section
text_file    small text files of people: byte order marks, no pipes, no gigabytes
"""
