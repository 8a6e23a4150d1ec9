"""Translation and reports with exported models. No Megatron here: anyone can check the results with transformers."""
