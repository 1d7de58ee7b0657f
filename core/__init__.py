"""One run on one machine: config, data, model, attack, training, evaluation, records."""
