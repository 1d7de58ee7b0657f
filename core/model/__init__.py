"""Networks: build one by name, load its weights, choose what trains, add LoRA adapters."""
