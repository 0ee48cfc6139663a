"""What the model is given: images, texts and their tensors.

alignment_batch  the tensors of a micro-batch of texts to assign to one of two images
arguments        images and texts that users pass: one or a list, anything else is an error
batch            the tensors of a micro-batch: of any task; pretraining's, and its teacher's targets
captions         cleans captions and questions, for users of the model
nlvr2_batch      the tensors of a micro-batch of statements about two images
preprocess       images for evaluation and use
retrieval_batch  the tensors of a micro-batch of images and texts, several texts an image
snli_ve_batch    the tensors of a micro-batch of visual entailment
tokenizer        text to word pieces, as ALBEF was trained
vqa_batch        the tensors of a micro-batch of questions and answers
"""
