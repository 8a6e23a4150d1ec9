"""Models between Hugging Face folders and checkpoints, tensor by tensor, without building the model.

Reading order: pieces (the unit of work), torch_dist_reader, torch_dist_writer, safetensors_writer (the two formats),
hf_to_mcore, mcore_to_hf, mcore_to_mcore.
"""
