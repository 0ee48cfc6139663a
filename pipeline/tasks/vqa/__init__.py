"""Visual question answering (VQA 2.0): fine-tuning the answer decoder, and ranking candidate answers.

accuracy     the official accuracy of answers, by type of answer
annotations  the official lists, entry by entry, and the list of candidate answers
batcher      entries to a micro-batch
evaluation   a trained model on a file of questions: accuracy, and the file for the server
export       what its checkpoints are exported as
maker        how commands get the task, its data, and what would stop a start
ranking      the likeliest candidate of every question on any number of ranks, and validation with it
sketch       shapes, noise and bytes, for planning
task         what one lane's forward is, and what follows a step
"""
