"""What families share: layers, a model's definition, sharding rules, which parameters train, FLOPs."""
