"""Networks: build one by name, load weights, choose which parameters train, add LoRA adapters."""
