"""What the tasks after pretraining share: starting weights, training and scores of those that choose a class.

classification    the answers of a classifier on any number of ranks, and validation with them
distillation      a classifier with momentum distillation as a task
entry_image       the images of an entry to evaluate
evaluation        a trained classifier on an annotation file
export            a checkpoint to a model folder or the official .pth
maker             a task on annotation files for the commands, by what differs
replay            how `replay` takes a lane
starting_weights  starts a task's model from a trained one, and reports which weights it took
"""
